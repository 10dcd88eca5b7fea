"""What makes codes free of the speaker: measure models trained in different ways and write the table into the README.

    python recipes/voice_conversion/ablation.py "plain codec=speech" "perturbed=runs/a/best" [--pairs N]
    python recipes/voice_conversion/ablation.py --only-write          # the README's table anew from ablation.json

Sources are validation recordings, so that settings can be chosen by this table; targets are those of the fixed pairs.
Rows of the same name are replaced, others stay: models can be measured one after another.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from audiovq.io import atomic_write

HERE = Path(__file__).resolve().parent
RESULTS, README = HERE / "ablation.json", HERE / "README.md"
BEGIN, END = "<!-- ablation: written by ablation.py -->\n", "<!-- end of ablation -->\n"
COLUMNS = {
    "probe_code": ("speaker from a single code %", 0),
    "probe_book_1": ("from 3 s of book 1 %", 0),
    "probe_books": ("from the books in use %", 0),
    "probe_latents": ("from the latents %", 0),
    "language_books": ("language %", 0),
    "target": ("to target", 3),
    "source": ("to source", 3),
    "closer": ("closer %", 0),
    "identified": ("top-1 %", 0),
    "f0_correlation": ("log-F0 r", 2),
    "median_f0": ("median F0 st", 1),
    "stoi": ("STOI, own voice", 3),
    "dnsmos": ("DNSMOS", 2),
}


def validation_pairs(n_pairs: int) -> Any:
    """The fixed pairs with a validation excerpt of the same speaker as their source."""
    from audiovq.data.corpora import open_corpora
    from audiovq.evaluation.protocol import join_utterances
    from audiovq.evaluation.protocols.pairs import PairSet, read_pairs

    pairs = read_pairs(open_corpora(["debian_speech"], None))
    excerpts: dict[str, list] = {}
    for excerpt in join_utterances(open_corpora(["debian_speech"], "validation")):
        excerpts.setdefault(excerpt.speaker, []).append(excerpt)
    moved = []
    for number, pair in enumerate(pairs.pairs):
        own = excerpts.get(pair.source.speaker)
        if pair.kind == "seen" and own:
            moved.append(replace(pair, source=own[number % len(own)]))
    return PairSet(tuple(moved), pairs.speakers).limited(n_pairs)


def measure(model: str, codebooks: list[int], pairs: Any, per_voice: int) -> list[dict[str, float]]:
    """One row for each number of codebooks."""
    from audiovq.data.corpora import open_corpora
    from audiovq.evaluation.audiovq_system import ModelConverter, Reconstruction
    from audiovq.evaluation.metrics.signal import STOI
    from audiovq.evaluation.protocol import Pair
    from audiovq.evaluation.protocols.conversion import evaluate_conversion
    from audiovq.evaluation.protocols.probe import PARTS, evaluate_probe
    from audiovq.speech.codec import SpeechCodec

    codec = SpeechCodec.from_pretrained(model)
    splits = {part: open_corpora(["debian_speech"], part) for part in PARTS}
    probes = evaluate_probe(codec, splits, per_voice, kinds=["speakers"])
    found = {(row["representation"], row["features"]): row for row in probes.figures["probes"]}
    groups, stoi = ["speaker", "f0_correlation", "median_f0", "dnsmos"], STOI()
    rows = []
    for n in codebooks:
        converter = ModelConverter(codec, n, "auto", "parallel", timbre="keep")
        means = evaluate_conversion(pairs, [converter], groups).systems[0].overall.metrics
        reconstruction, heard = Reconstruction(codec, n, "parallel"), []
        for pair in {pair.source.id: pair for pair in pairs.pairs}.values():
            score = stoi.score(Pair(pair.id, pair.source.load(), reconstruction.convert(pair)))
            heard += [score.value] if score else []
        books = found["codebook 1" if n == 1 else f"codebooks 1-{n}", "moments"]
        rows.append(
            {
                "codebooks": n,
                "pairs": len(pairs.pairs),
                "model_hash": codec.model_hash.hex(),
                "probe_code": 100 * found["codebook 1", "single codes"]["speaker"]["mean"],
                "probe_book_1": 100 * found["codebook 1", "histogram"]["speaker"]["mean"],
                "probe_books": 100 * books["speaker"]["mean"],
                "probe_latents": 100 * found["latents, unquantized", "moments"]["speaker"]["mean"],
                "language_books": 100 * books["language"]["mean"],
                **{name: mean.mean for name, mean in means.items() if mean is not None},
                "stoi": sum(heard) / len(heard),
            }
        )
    return rows


def table(results: dict[str, list[dict[str, float]]]) -> str:
    """The rows as Markdown."""
    text = "| training | books | " + " | ".join(label for label, _ in COLUMNS.values()) + " |\n"
    text += "|---|---|" + "---|" * len(COLUMNS) + "\n"
    for name, rows in results.items():
        for row in rows:
            cells = [f"{row[key]:.{places}f}" if key in row else "" for key, (_, places) in COLUMNS.items()]
            text += f"| {name} | {row['codebooks']} | " + " | ".join(cells) + " |\n"
    return text


def write_readme(results: dict[str, list[dict[str, float]]]) -> None:
    """Put the table between its marks."""
    before, rest = README.read_text(encoding="utf-8").split(BEGIN)
    after = rest.split(END)[1]
    README.write_text(before + BEGIN + "\n" + table(results) + "\n" + END + after, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="NAME=MODEL")
    parser.add_argument("--codebooks", default="1,2")
    parser.add_argument("--pairs", type=int, default=24)
    parser.add_argument("--per-voice", type=int, default=20, help="excerpts of each speaker for the probe")
    parser.add_argument("--only-write", action="store_true")
    options = parser.parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    if not options.only_write:
        pairs = validation_pairs(options.pairs)
        for entry in options.models:
            name, separator, model = entry.rpartition("=")
            if not separator:
                parser.error(f"{entry!r}: say NAME=MODEL")
            results[name] = measure(model, [int(n) for n in options.codebooks.split(",")], pairs, options.per_voice)
            with atomic_write(RESULTS) as path:
                path.write_text(json.dumps(results, indent=1) + "\n")
    write_readme(results)
    print(table(results))


if __name__ == "__main__":
    main()
