"""Choose the evaluation's pairs from the prepared corpus. Only for a new set: results of different sets do not compare.

python recipes/voice_conversion/make_pairs.py
"""

from __future__ import annotations

import json

from audiovq.data.corpora import open_corpus
from audiovq.evaluation.conversion.pairs import PAIRS_FILE, build_pairs
from audiovq.files import atomic_write


def main() -> None:
    """Write the file and say what is in it."""
    plan = build_pairs(open_corpus("debian_speech", None))
    with atomic_write(PAIRS_FILE) as path:
        path.write_text(json.dumps(plan, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{PAIRS_FILE}: {len(plan['pairs'])} pairs of {len(plan['sources'])} sources, {len(plan['voices'])} voices")


if __name__ == "__main__":
    main()
