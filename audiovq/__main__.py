"""``python -m audiovq``: the command line."""

import sys

from audiovq.cli import main

if __name__ == "__main__":
    sys.exit(main())
