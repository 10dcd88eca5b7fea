"""The same sampled codes spoken by several speakers: audio, spectrograms side by side, and who they sound like.

    python recipes/speech_generation/same_codes.py [--speaker NAME|FILE ...] [--codebooks N] [--seed N] [--out DIR]

Codes and pitch are sampled once, for the first speaker. Every speaker says them: the pitch is moved to the speaker's
median, the codes stay. Without --speaker three bundled speakers speak: those of the middle, the lowest and the highest
pitch. With --speakers N, or where the model has none, random speakers of the prior, each on the pitch that the prior
gives that speaker.

As in conversion, the first codebooks alone are sampled by default: further ones tell the speaker that they were sampled
for. Similarity is the cosine between speaker embeddings (package resemblyzer) of what is spoken and of each named
speaker's recordings in a corpus; the rows of recordings are others of the same speakers.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from audiovq.conversion.pitch import PitchMover, median_hz
from audiovq.conversion.target import read_voices, target_voice
from audiovq.data.corpora import open_corpora
from audiovq.errors import AudioVQError
from audiovq.evaluation.pretrained import SpeakerCosine
from audiovq.evaluation.protocol import join_utterances, sample_excerpts
from audiovq.interfaces import EncodedSpeech, Packet
from audiovq.media.waveform import create_audio
from audiovq.prior.speech import SpeechPrior

sys.path.insert(0, str(Path(__file__).resolve().parent))
from samples import draw_picture

HERE = Path(__file__).resolve().parent
LISTENED_SECONDS = 4.0
"""Length of the sample that shows on which pitch a random speaker speaks."""
N_REFERENCES = 12
"""Excerpts of a speaker's recordings that stand for the speaker, and as many others that are compared with them."""


def bundled_names(codec: Any) -> list[str]:
    """The bundled speakers of the middle, the lowest and the highest pitch; fewer where there are fewer."""
    voices = sorted((v for v in read_voices(codec).values() if v.pitch), key=lambda v: float(v.pitch or 0))
    return list(dict.fromkeys(voices[i].name for i in (len(voices) // 2, 0, -1))) if voices else []


def speakers_of(source: SpeechPrior, names: list[str], n: int, seed: int) -> dict[str, tuple[np.ndarray, float | None]]:
    """Vector and median pitch in Hz of each speaker, by name; without names of ``n`` random ones."""
    if names:
        voices = {name: target_voice(source.codec, [name]) for name in names}
        return {Path(name).stem: (voice.vector(), voice.pitch) for name, voice in voices.items()}
    found: dict[str, tuple[np.ndarray, float | None]] = {}
    for item in range(1, n + 1):
        vector = source.random_voice(seed, item)
        track = source.generate(LISTENED_SECONDS, speaker=vector, seed=seed, first=item, n_codebooks=1).pitch
        found[f"speaker {item}"] = (vector, median_hz([track[0].numpy()]))
    return found


def spoken_by(encoded: EncodedSpeech, vector: np.ndarray, hz: float | None) -> EncodedSpeech:
    """One item of coded speech by another speaker: the same codes, the pitch moved to a median."""
    track, mover = encoded.pitch[0].numpy(), PitchMover("auto", hz)
    ((packet,),) = mover.push([Packet(np.zeros((0, len(track)), np.int64), track, 0)]) or mover.finish()
    speaker = torch.from_numpy(np.asarray(vector, np.int64))[None]
    return replace(encoded, speaker=speaker, pitch=torch.from_numpy(packet.pitch)[None])


def recordings_of(names: list[str], corpora: list[str]) -> dict[str, list[np.ndarray]]:
    """Excerpts (T,) of the speakers' recordings, by the names of those that the corpora have."""
    utterances, found = open_corpora(corpora, None), {}
    for name in names:
        own = [u for u in utterances if u.speaker.rpartition("/")[2] == name]
        if excerpts := sample_excerpts(join_utterances(own), 2 * N_REFERENCES):
            found[name] = [excerpt.load() for excerpt in excerpts]
    return found


def similarities(
    spoken: dict[str, np.ndarray], recordings: dict[str, list[np.ndarray]]
) -> dict[str, dict[str, float | None]]:
    """Cosines of each speaker's sample (T,), and of other recordings, to the recordings of each speaker."""
    embed = SpeakerCosine().embed
    known = {name: [v for x in parts if (v := embed(x)) is not None] for name, parts in recordings.items()}
    means = {name: np.mean(vectors[::2], axis=0) for name, vectors in known.items()}
    rows: dict[str, list[np.ndarray]] = {}
    for name, samples in spoken.items():
        rows[f"codes by {name}"] = [v for v in [embed(samples)] if v is not None]
    rows |= {f"recordings of {name}": vectors[1::2] for name, vectors in known.items()}
    return {
        row: {
            name: float(np.mean([v @ mean for v in vectors]) / np.linalg.norm(mean)) if vectors else None
            for name, mean in means.items()
        }
        for row, vectors in rows.items()
    }


def print_similarities(spoken: dict[str, np.ndarray], corpora: list[str]) -> None:
    """A table of `similarities`; a line with the reason where there are none."""
    try:
        found = similarities(spoken, recordings_of(list(spoken), corpora))
    except AudioVQError as error:
        print(f"no similarities: {error}")
        return
    names = list(next(iter(found.values())))
    if not names:
        print(f"no similarities: {' and '.join(corpora)} has no recordings of these speakers")
        return
    left = max(map(len, found))
    print(" " * left, *names, sep="  ")
    for row, values in found.items():
        cells = ("–" if values[n] is None else f"{values[n]:.3f}" for n in names)
        print(row.ljust(left), *(cell.rjust(len(name)) for cell, name in zip(cells, names, strict=True)), sep="  ")


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("generated"))
    parser.add_argument("--picture", type=Path, default=HERE / "same_codes.jpg")
    parser.add_argument("--model", help="the codec; default: the bundled speech model")
    parser.add_argument("--prior", help="the prior's folder; default: the codec's prior")
    parser.add_argument("--speaker", action="append", default=[], help="a bundled speaker or a recording; repeatable")
    parser.add_argument("--speakers", type=int, help="so many random speakers instead")
    parser.add_argument("--codebooks", type=int, help="that are sampled; default: those that conversion uses")
    parser.add_argument("--data", default="debian_speech", help="corpora with the speakers' recordings")
    parser.add_argument("--language", help="ISO 639 code; default: any")
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    """Sample once, decode by every speaker, draw, compare."""
    options = parse_arguments()
    torch.set_num_threads(1)
    source = SpeechPrior.from_pretrained(options.model, options.prior)
    codec: Any = source.codec
    names = options.speaker or ([] if options.speakers else bundled_names(codec))
    speakers = speakers_of(source, names, options.speakers or 3, options.seed)
    vector, _ = next(iter(speakers.values()))
    n_codebooks = options.codebooks or codec.conversion_codebooks
    how = {"language": options.language, "seed": options.seed, "n_codebooks": n_codebooks}
    encoded = source.generate(options.seconds, speaker=vector, **how)
    options.out.mkdir(parents=True, exist_ok=True)
    spoken, titles = {}, {}
    for name, (vector, hz) in speakers.items():
        spoken[name] = codec.decode(spoken_by(encoded, vector, hz))[0, 0].numpy()
        titles[name if hz is None else f"{name}, median {hz:.0f} Hz"] = (spoken[name], 0.0)
        path = options.out / f"{name.replace(' ', '-')}.wav"
        with create_audio(path, codec.sample_rate, 1) as writer:
            writer.write(spoken[name][:, None])
        print(path)
    draw_picture(titles, codec.sample_rate, options.picture, side_by_side=True)
    print(options.picture)
    print_similarities(spoken, options.data.split(","))


if __name__ == "__main__":
    try:
        main()
    except AudioVQError as error:
        raise SystemExit(f"same_codes.py: {error}") from error
