"""The bundled model `tokens`: put a run's best weights into the package, measure them, write the model card.

python recipes/speech_lm/bundle.py [--run DIR] [--limit N] [--no-measure]

After `audiovq train` with experiment=phones_distilled, tokens_taught and tokens_debian. Figures go beside this script,
into ``probe.json`` and ``probe.png`` (what the codes know), ``quality.json`` and ``words.json`` (what is decoded).
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from audiovq.files import cache_dir
from audiovq.speech.checkpoint import BUNDLED, codes_hash

HERE = Path(__file__).resolve().parent
NAME = "tokens"
KNOWN, PICTURE, QUALITY, WORDS = (HERE / name for name in ("probe.json", "probe.png", "quality.json", "words.json"))
QUALITY_COLUMNS = {"stoi": "STOI", "mel": "mel distance", "dnsmos": "DNSMOS", "speaker": "speaker cosine"}

CARD = """# tokens

Codes for language models of speech: 50 a second, one book of {size}, 0.5 kb/s. They learned from what the encoder of
Whisper base hears and from nothing else, so they say what is said rather than how it sounds: for `audiovq tokenize
--model tokens`. A decoder that is told the speaker turns them back into speech. {parameters:.1f} million weights,
float16.

* **Trained by** `audiovq train` in three stages. `experiment=phones_distilled` ({first} steps) and `tokens_taught`
  ({second} steps): the encoder and its codebook, from features of Whisper base's encoder; all languages, in the
  second with English drawn {english} times as often. `tokens_debian` ({third} steps): the decoder, which begins as
  that of the model `speech`; codes stay as they are.
* **Data**: the training recordings of the model `speech`; sources, licences and what was left out are in [its
  card](../speech/README.md). The teacher is `openai/whisper-base` (MIT). No phone label is seen in training.
* **Licence of the weights**: as those of the model `speech`.
* **Hash in files**: `{hash}`. The codes are not those of `speech`, and files of the one do not decode with the other.

## What the codes know

By `audiovq evaluate probe --model tokens`, on {train} English utterances of training and {test} of
test: each code says the phone that it most often goes with in training; the share of speech frames of the test split
that are said right, with 95 % intervals. [docs/evaluation.md](../../../docs/evaluation.md) describes the protocol.

{phones}

They tell of the voice, too: a linear probe on how often each occurs in 3 s of held-out speech names the speaker of
{speakers} in {speaker:.0f} % and the language of {languages} in {language:.0f} %; most speakers have a language of
their own, so the one tells of the other.

![what codes stand for](../../../recipes/speech_lm/probe.png)

## What is decoded from them

By `audiovq evaluate codec --model tokens --split test,unseen`, excerpts as in the card of `speech`:

{quality}
Word errors by Whisper base, whose encoder was the teacher, on the test excerpts in English, Spanish, French, Italian
and Russian:

{words}
## What it is bad at

* The test utterances that phones are counted in are English and nearly all by one voice, whose other recordings are
  most of the English that was trained on. Other languages have no labels here: of them nothing is known but that the
  teacher was followed there, too.
* One code every 20 ms does not hold the pitch. What is decoded has the words' sounds and the speaker's colour; its
  melody is made up. To keep a recording, use `speech`.
* It heard 6.5 hours of some 20 clear voices, 22 minutes of them English. Noise, music and several voices at once are
  read as some phone or other.
"""


def audiovq(*arguments: str) -> list[str]:
    """An `audiovq` command line."""
    return [sys.executable, "-m", "audiovq", *arguments]


def measure(limit: int) -> None:
    """Evaluate the bundled model with the command line.

    Raises:
        SystemExit: when a command fails.
    """
    common = ["evaluate", "codec", "--model", NAME, "--limit", str(limit)]
    quality = ["--metrics", ",".join(QUALITY_COLUMNS), "--split", "test,unseen", "--json", str(QUALITY)]
    probe = ["evaluate", "probe", "--model", NAME]
    commands = (
        audiovq(*probe, "--json", str(KNOWN), "--plot", str(PICTURE)),
        audiovq(*common, *quality),
        audiovq(*common, "--metrics", "wer,dwer", "--split", "test", "--json", str(WORDS)),
    )
    running = [subprocess.Popen(command) for command in commands]
    failed = sum(process.wait() != 0 for process in running)
    if failed:
        raise SystemExit("measuring failed; the model card was not written")


def phone_table(groups: list[dict[str, Any]]) -> str:
    """Rows of the group with the model's own rate and codebook."""
    group = groups[0]
    largest = group["largest_class"]["speech"]
    lines = [
        f"| {group['frame_rate']:g} Hz, {group['codebook_size']} codes | % | times the largest class |",
        "|---|---|---|",
    ]
    for name, found in [("the largest class", largest), *((r["representation"], r["speech"]) for r in group["rows"])]:
        share = f"{100 * found['mean']:.1f} ± {100 * found['ci95']:.1f}"
        lines.append(f"| {name} | {share} | {found['mean'] / largest['mean']:.1f} |")
    return "\n".join(lines)


def score_table(systems: list[dict[str, Any]], columns: dict[str, str]) -> str:
    """A row for each system and split."""
    lines = ["| | kb/s | " + " | ".join(columns.values()) + " |", "|---|---|" + "---|" * len(columns)]
    for system in systems:
        found = [system["metrics"].get(name) for name in columns]
        cells = [f"{mean['mean']:.2f} ± {mean['ci95']:.2f}" if mean else "" for mean in found]
        rate = f"{system['kbps']:.2f}" if system["kbps"] else ""
        lines.append(f"| {system['name']}, {system['split']} | {rate} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def card(folder: Path) -> str:
    """The model card, from what was measured."""
    from omegaconf import OmegaConf

    runs = cache_dir() / "runs"
    steps = [
        json.loads((runs / run).read_text())["step"]
        for run in (
            "phones_distilled/latest/training.json",
            "tokens_taught/latest/training.json",
            "tokens/best/training.json",
        )
    ]
    second = OmegaConf.load(runs / "tokens_taught" / "config.yaml")
    weights = load_file(folder / "model.safetensors")
    found = json.loads(KNOWN.read_text())
    known, voices = found["phones"], next(probe for probe in found["probes"] if probe["features"] == "histogram")
    return CARD.format(
        size=json.loads((folder / "config.json").read_text())["quantizer"]["codebook_size"],
        parameters=sum(tensor.numel() for name, tensor in weights.items() if "codebook" not in name) / 1e6,
        first=steps[0],
        second=steps[1],
        third=steps[2],
        english=second.data.language_weights.en,
        hash=codes_hash(folder).hex(),
        train=known["utterances"]["train"],
        test=known["utterances"]["test"],
        phones=phone_table(known["groups"]),
        speaker=100 * voices["speaker"]["mean"],
        speakers=found["classes"]["speaker"],
        language=100 * voices["language"]["mean"],
        languages=found["classes"]["language"],
        quality=score_table(json.loads(QUALITY.read_text())["systems"], QUALITY_COLUMNS),
        words=score_table(json.loads(WORDS.read_text())["systems"], {"wer": "WER %", "dwer": "dWER %"}),
    )


def main() -> None:
    """Copy, measure, write the card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=cache_dir() / "runs" / NAME)
    parser.add_argument("--limit", type=int, default=36, help="excerpts of each split; 0: all")
    parser.add_argument("--no-measure", action="store_true", help="use the figures of the last time")
    options = parser.parse_args()
    folder = BUNDLED / NAME
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "model.safetensors"):
        shutil.copyfile(options.run / "best" / name, folder / name)
    # The bundled voices are vectors of these very weights.
    subprocess.run([sys.executable, str(HERE.parent / "voice_conversion" / "make_speakers.py"), NAME], check=True)
    if not options.no_measure:
        measure(options.limit)
    (folder / "README.md").write_text(card(folder))
    print(f"bundled {options.run / 'best'} as {folder}")


if __name__ == "__main__":
    main()
