"""Measure voice conversion by a run of the paper's set-up: recordings decoded with another speaker's number.

    python recipes/paper/convert.py RUN [--items 24] [--seconds 4] [--seed 0] [--temperature 1]
        [--json FILE] [--audio DIR]

RUN is the folder of a run of `audiovq train experiment=paper_vctk`. Sources are at even distances in the validation
recordings that last at least ``--seconds``; each is converted to the next source's speaker. Rows: the unconverted
source, the source decoded with its own number, the conversion. Figures: cosine of speaker embeddings to another
recording of the target and to the source, and, in languages that Whisper knows, word errors in per cent against
Whisper's reading of the source.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from audiovq.data.packed import open_utterances
from audiovq.data.utterance import SAMPLE_RATE, Utterance
from audiovq.errors import AudioVQError
from audiovq.evaluation.pretrained import DifferentialWordErrorRate, SpeakerCosine
from audiovq.evaluation.protocol import Pair, Score, mean_of
from audiovq.io import atomic_write
from audiovq.training.wavenet import packed_folder
from audiovq.wavenet.paper import PaperVQVAE

COLUMNS = {"target": ("to target", 3), "source": ("to source", 3), "words": ("dWER %", 1)}


def open_run(run: Path) -> tuple[PaperVQVAE, list[Utterance]]:
    """The model of a run, the best one where there is one, and the validation recordings of its speakers.

    Raises:
        AudioVQError: when the folder is not that of such a run.
    """
    from omegaconf import OmegaConf

    folder = next((run / name for name in ("best", "latest") if (run / name).is_dir()), None)
    if folder is None or not (run / "config.yaml").is_file():
        raise AudioVQError(f"no finished run in {run}: give the folder of a run of experiment=paper_vctk")
    model = PaperVQVAE.from_pretrained(folder)
    task: Any = OmegaConf.to_container(OmegaConf.load(run / "config.yaml"))["task"]  # type: ignore[index,call-overload]
    recordings = open_utterances(packed_folder(task["corpora"], task["corpus"]), "validation")
    return model, [one for one in recordings if one.speaker in model.speakers]


def choose(recordings: list[Utterance], n_items: int, seconds: float) -> list[tuple[Utterance, Utterance]]:
    """Pairs of a source and a recording of another speaker, the target.

    Raises:
        AudioVQError: when the recordings are too short, or all of one speaker.
    """
    long = [one for one in recordings if one.seconds >= seconds]
    sources = long[:: max(len(long) // n_items, 1)][:n_items]
    pairs = []
    for i, source in enumerate(sources):
        following = (sources[(i + k) % len(sources)] for k in range(1, len(sources)))
        target = next((one for one in following if one.speaker != source.speaker), None)
        if target is not None:
            pairs.append((source, target))
    if not pairs:
        raise AudioVQError(f"no two validation speakers with recordings of {seconds:g} s and more")
    return pairs


def score(
    systems: dict[str, np.ndarray], source: Utterance, target: np.ndarray, metrics: tuple[Any, Any]
) -> dict[str, dict[str, Score | None]]:
    """Scores of each system's waveform (T,), where the first is the source's.

    Args:
        target: (T',) of the target's speaker.
        metrics: `SpeakerCosine` and `DifferentialWordErrorRate`.
    """
    speaker, words = metrics
    embedded, reference = speaker.embed(target), systems["source"]
    scores: dict[str, dict[str, Score | None]] = {}
    for name, samples in systems.items():
        pair = Pair(source.id, reference, samples, source.speaker, source.language)
        own = speaker.embed(samples)
        cosine = None if own is None or embedded is None else Score(float(own @ embedded))
        scores[name] = {"target": cosine, "source": speaker.score(pair), "words": words.score(pair)}
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--items", type=int, default=24)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--json", type=Path, help="write the figures to a file")
    parser.add_argument("--audio", type=Path, help="write the recordings to a folder")
    options = parser.parse_args()
    model, recordings = open_run(options.run)
    metrics = (SpeakerCosine(), DifferentialWordErrorRate())
    scores: dict[str, dict[str, list[Score]]] = {}
    pairs = choose(recordings, options.items, options.seconds)
    for i, (source, target) in enumerate(pairs, 1):
        samples = source.load(0, round(options.seconds * SAMPLE_RATE))
        waveform, names = (
            torch.from_numpy(samples)[None, None],
            {"decoded": source.speaker, "converted": target.speaker},
        )
        systems = {"source": samples}
        for system, name in names.items():
            number = torch.tensor([model.number(name)])
            systems[system] = model.convert(waveform, number, options.seed, options.temperature)[0, 0].numpy()
        for system, found in score(systems, source, target.load(), metrics).items():
            for column, value in found.items():
                scores.setdefault(system, {}).setdefault(column, []).extend([] if value is None else [value])
            if options.audio:
                options.audio.mkdir(parents=True, exist_ok=True)
                soundfile.write(options.audio / f"{i:02d}-{system}.wav", systems[system], SAMPLE_RATE)
        print(f"{i} of {len(pairs)}: {source.speaker} -> {target.speaker}", flush=True)
    means = {s: {c: mean_of(values) for c, values in row.items() if values} for s, row in scores.items()}
    print("| | " + " | ".join(label for label, _ in COLUMNS.values()) + " |\n|---|" + "---|" * len(COLUMNS))
    for system, row in means.items():
        cells = [row[name].text(decimals) if row.get(name) else "" for name, (_, decimals) in COLUMNS.items()]  # type: ignore[union-attr]
        print(f"| {system} | " + " | ".join(cells) + " |")
    if options.json:
        rows = {s: {c: None if m is None else m.mean for c, m in row.items()} for s, row in means.items()}
        with atomic_write(options.json) as path:
            path.write_text(json.dumps({"items": len(pairs), "seconds": options.seconds, "systems": rows}, indent=2))


if __name__ == "__main__":
    try:
        main()
    except AudioVQError as error:
        raise SystemExit(f"convert.py: {error}") from None
