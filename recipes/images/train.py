"""Train one run of this recipe, or go on training it.

python recipes/images/train.py RUN [key=value ...]      # RUN is one of RUNS in common.py
"""

from __future__ import annotations

import sys

from common import RUNS, fit


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] not in RUNS:
        sys.exit(f"{__doc__}\nRUN is one of {', '.join(RUNS)}")
    fit(sys.argv[1], overrides=sys.argv[2:])


if __name__ == "__main__":
    main()
