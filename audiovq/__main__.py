"""``python -m audiovq``: the command line."""

from audiovq.cli import main

if __name__ == "__main__":
    main()
