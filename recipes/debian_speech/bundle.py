"""Last stage: put a run's best weights into the package, fit the entropy model to their codes, measure them, write the
model card from what was measured.

python recipes/debian_speech/bundle.py [--run DIR] [--limit N] [--no-measure]
python recipes/debian_speech/bundle.py --figures        # measures what is bundled again
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from audiovq.hub import BUNDLED, codes_hash
from audiovq.io import cache_dir
from recipes.model_card import HEADS

HERE = Path(__file__).resolve().parent
RESULTS, OTHERS, PICTURE = HERE / "results.json", HERE / "results_other_splits.json", HERE / "results.png"
WORDS, ENTROPY = HERE / "results_words.json", HERE / "entropy.json"
COLUMNS = {"pesq": "PESQ-WB", "stoi": "STOI", "mel": "mel distance", "dnsmos": "DNSMOS", "speaker": "speaker cosine"}
WORD_COLUMNS = {"wer": "WER %", "dwer": "dWER %"}

CARD = """# speech

Speech codec of audiovq: raw 16 kHz speech to 50 latents a second, residual quantization with eight books of 1024 (0.5
to 4 kb/s), a quantized 32-value speaker vector, parallel decoder with an inverse-STFT head. {parameters:.1f} million
weights, float16.

* **Trained by** `audiovq train experiment=speech_debian training.max_steps={max_steps} training.decay={decay}`,
  {steps} steps of {batch} crops of {crop} s: {heard:.0f} hours heard, of {hours:.1f} hours of recordings{adversarial}.
  {note}
* **Data**: Debian packages asterisk-core-sounds-{{en,es,fr,it,ru}}-g722 (CC-BY-SA-3.0, it and ru CC-BY-3.0;
  Digium and the speakers), tuxpaint-stamps-default (GPL-2+), fillets-ng-data-cs and -nl (GPL-2), ktuberling-data
  (GPL-2+), prepared by `recipes/debian_speech/prepare.py`. Test and validation files, the Catalan and Danish voices of
  tuxpaint-stamps-default and the reserved files were left out.
* **Licence of the weights**: trained on the sources above; where a licence reaches weights, they are to be shared under
  CC-BY-SA-3.0 and GPL-2+ with the attribution above. The code is Apache-2.0.
* **Hash in files**: `{model_hash}`.{entropy}

## Figures

By `audiovq evaluate codec --split test --baselines` and `audiovq evaluate codec --split validation,unseen`; excerpts
are {protocol}. Means with 95 % intervals; kb/s without the file's header. `unseen` are the two voices that no training
saw.

{tables}
Word errors by Whisper base on the test excerpts in English, Spanish, French, Italian and Russian (`--metrics
wer,dwer`; dWER: against Whisper's reading of the recording):

{words}
![bit rate against quality](../../../recipes/debian_speech/results.png)

## What it is bad at

* It heard about {hours:.1f} hours of some 20 clear voices, mostly prompts and game dialogues: other voices lose quality
  (see `unseen`), and noise, music and several voices at once are turned into something like speech.
* Nothing above 8 kHz is kept: sources with a higher rate come back at their rate without that band.
* At 0.5 kb/s words are lost. The speaker vector comes from the first four seconds: a file that begins with silence or
  another voice starts from a poor one.
"""


def measure(limit: int) -> None:
    """Evaluate the bundled model with the command line: test files beside the baselines, the other splits alone."""
    common = [sys.executable, "-m", "audiovq", "evaluate", "codec", "--limit", str(limit)]
    quality, words = ["--metrics", ",".join(COLUMNS)], ["--metrics", ",".join(WORD_COLUMNS)]
    test = [*quality, "--split", "test", "--baselines", "--json", str(RESULTS), "--plot", str(PICTURE)]
    others = [*quality, "--split", "validation,unseen", "--json", str(OTHERS)]
    heard = [*words, "--split", "test", "--json", str(WORDS)]
    running = [subprocess.Popen([*common, *arguments]) for arguments in (test, others, heard)]
    if any(process.wait() for process in running):
        raise SystemExit("the evaluation failed; the model card was not written")


def tables(results: list[dict], columns: dict[str, str], headings: bool = True) -> str:
    """A table for each split, in the order of the reports."""
    text = ""
    for split in dict.fromkeys(system["split"] for system in results):
        systems = [s for s in results if s["split"] == split]
        text += f"### {split} ({systems[0]['n']} excerpts)\n\n" if headings else ""
        text += "| system | kb/s | " + " | ".join(columns.values()) + " |\n|---|---|" + "---|" * len(columns) + "\n"
        for system in systems:
            found = [system["metrics"].get(name) for name in columns]
            cells = [f"{mean['mean']:.2f} ± {mean['ci95']:.2f}" if mean else "" for mean in found]
            rate = f"{system['kbps']:.2f}" if system["kbps"] else ""
            text += f"| {system['name']} | {rate} | " + " | ".join(cells) + " |\n"
        text += "\n"
    return text


def entropy_item(model_hash: str) -> str:
    """What the entropy model gives, for the card; nothing when there is none of these weights."""
    record = json.loads(ENTROPY.read_text()) if ENTROPY.is_file() else {}
    if record.get("hash") != model_hash:
        return ""
    bits = {int(n): found["integers"] for n, found in record["bits_per_code"]["test"].items()}
    told = ", ".join(f"{bits[n]:.2f} at {n / 2:g} kb/s" for n in sorted(bits))
    start = f"\n* **Entropy model** (`entropy.safetensors`, {record['steps']} steps on the same training files): "
    return f"{start}bits a code on\n  the test files, of 10: {told}."


def rate_item(folder: Path) -> str:
    """How codes are chosen, for the card; nothing where it is by distance alone."""
    rate = json.loads((folder / "config.json").read_text())["quantizer"].get("rate", 0)
    if not rate:
        return ""
    start = f"\n* **Choice of codes**: by squared distance plus {rate:g} times the code's bits"
    return f"{start} (`fit_rate.py`), which\n  takes most from the bits of the last books."


def renewed(text: str, folder: Path) -> str:
    """A card with the figures of the last time in the place of those it has; what it says of training stays."""
    results, others = json.loads(RESULTS.read_text()), json.loads(OTHERS.read_text())
    words = json.loads(WORDS.read_text())["systems"]
    about, figures = text.split("\n## Figures\n")
    head, rest = figures[: figures.index("### ")], figures[figures.index("Word errors by Whisper") :]
    sentence, end = rest[: rest.index("| system")], rest[rest.index("![") :]
    about = about.split("\n* **Choice of codes**")[0].split("\n* **Entropy model**")[0].rstrip("\n")
    about += rate_item(folder) + entropy_item(codes_hash(folder).hex()) + "\n"
    tabled = tables(results["systems"] + others["systems"], COLUMNS)
    told = tables(words, WORD_COLUMNS, headings=False)
    return f"{about}\n## Figures\n{head}{tabled}\n{sentence}{told}{end}"


def card(folder: Path, run: Path, note: str) -> str:
    """The model card, from the run's configuration and the measured figures."""
    import torch
    from omegaconf import OmegaConf
    from safetensors.torch import load_file

    config = OmegaConf.load(run / "config.yaml")
    steps = json.loads((run / "best" / "training.json").read_text())["step"]
    results, others = json.loads(RESULTS.read_text()), json.loads(OTHERS.read_text())
    summary = json.loads((cache_dir() / "data" / "debian_speech" / "summary.json").read_text())
    start = config.task.adversarial_start
    weights = load_file(folder / "model.safetensors")
    return CARD.format(
        parameters=sum(t.numel() for t in weights.values() if t.dtype == torch.float16) / 1e6,
        steps=steps,
        max_steps=config.training.max_steps,
        decay=config.training.decay,
        note=note,
        batch=config.training.batch_size,
        crop=config.task.crop_seconds,
        heard=steps * config.training.batch_size * config.task.crop_seconds / 3600,
        hours=summary["splits"]["train"]["minutes"] / 60,
        adversarial=", without discriminators so far"
        if start is None or steps <= start
        else f", with spectrogram discriminators from step {start} on",
        model_hash=codes_hash(folder).hex(),
        entropy=rate_item(folder) + entropy_item(codes_hash(folder).hex()),
        protocol=results["protocol"]["excerpts"],
        tables=tables(results["systems"] + others["systems"], COLUMNS),
        words=tables(json.loads(WORDS.read_text())["systems"], WORD_COLUMNS, headings=False),
    )


def main() -> None:
    """Copy, measure, write the card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=cache_dir() / "runs" / "speech_debian")
    parser.add_argument("--limit", type=int, default=36, help="excerpts of each split; 0: all")
    parser.add_argument("--no-measure", action="store_true", help="use the figures of the last time")
    parser.add_argument("--no-entropy", action="store_true", help="leave the entropy model as it is")
    parser.add_argument("--figures", action="store_true", help="leave the weights, renew the figures of the card")
    parser.add_argument("--note", default="", help="a remark on the training for the model card")
    options = parser.parse_args()
    folder = BUNDLED / "speech"
    folder.mkdir(parents=True, exist_ok=True)
    if options.figures:
        if not options.no_measure:
            measure(options.limit)
        (folder / "README.md").write_text(renewed((folder / "README.md").read_text(), folder))
        return
    for name in ("config.json", "model.safetensors"):
        shutil.copyfile(options.run / "best" / name, folder / name)
    subprocess.run([sys.executable, str(HERE / "fit_rate.py"), "--model", str(folder)], check=True)
    # The bundled voices are vectors of these very weights.
    subprocess.run([sys.executable, str(HERE.parent / "voice_conversion" / "make_speakers.py"), "speech"], check=True)
    if not options.no_entropy:
        subprocess.run(
            [
                sys.executable,
                str(HERE.parent / "speech" / "entropy.py"),
                "--model",
                str(folder),
                "--corpus",
                "debian_speech",
            ],
            check=True,
        )
    if not options.no_measure:
        measure(options.limit)
    (folder / "README.md").write_text(HEADS["speech"] + card(folder, options.run, options.note))
    print(f"bundled {options.run / 'best'} as {folder}")


if __name__ == "__main__":
    main()
