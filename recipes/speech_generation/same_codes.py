"""The same sampled codes spoken by several speakers: audio, and spectrograms one above the other.

python recipes/speech_generation/same_codes.py [--model NAME|DIR] [--prior DIR] [--speaker NAME|FILE ...] [--out DIR]

Codes and pitch are sampled once. Every speaker says them: the pitch is moved to the speaker's median, the codes stay.
Without --speaker three random speakers of the prior speak, each on the pitch that the prior gives that speaker.
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
from audiovq.conversion.target import target_voice
from audiovq.interfaces import EncodedSpeech, Packet
from audiovq.media.waveform import create_audio
from audiovq.prior.speech import SpeechPrior

sys.path.insert(0, str(Path(__file__).resolve().parent))
from samples import draw_picture

HERE = Path(__file__).resolve().parent
LISTENED_SECONDS = 4.0
"""Length of the sample that shows on which pitch a random speaker speaks."""


def speakers_of(source: SpeechPrior, names: list[str], n: int, seed: int) -> dict[str, tuple[np.ndarray, float | None]]:
    """Vector and median pitch in Hz of each speaker, by name."""
    if names:
        voices = {name: target_voice(source.codec, [name]) for name in names}
        return {Path(name).stem: (voice.vector(), voice.pitch) for name, voice in voices.items()}
    found: dict[str, tuple[np.ndarray, float | None]] = {}
    for item in range(1, n + 1):
        vector = source.random_voice(seed, item)
        track = source.generate(LISTENED_SECONDS, speaker=vector, seed=seed, first=item, n_codebooks=1).pitch
        found[f"speaker {item}"] = (vector, None if track is None else median_hz([track[0].numpy()]))
    return found


def spoken_by(encoded: EncodedSpeech, vector: np.ndarray, hz: float | None) -> EncodedSpeech:
    """One item of coded speech by another speaker: the same codes, the pitch moved to a median."""
    pitch = encoded.pitch
    if pitch is not None:
        track, mover = pitch[0].numpy(), PitchMover("auto", hz)
        ((packet,),) = mover.push([Packet(np.zeros((0, len(track)), np.int64), track)]) or mover.finish()
        pitch = torch.from_numpy(packet.pitch)[None]
    speaker = torch.from_numpy(np.asarray(vector, np.int64))[None]
    return replace(encoded, speaker=speaker, pitch=pitch)


def main() -> None:
    """Sample once, decode by every speaker, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("generated"))
    parser.add_argument("--picture", type=Path, default=HERE / "same_codes.png")
    parser.add_argument("--model", help="the codec; default: the bundled speech model")
    parser.add_argument("--prior", help="the prior's folder; default: the codec's prior")
    parser.add_argument("--speaker", action="append", default=[], help="a bundled speaker or a recording; repeatable")
    parser.add_argument("--speakers", type=int, default=3, help="random speakers, where none is named")
    parser.add_argument("--language", help="ISO 639 code; default: any")
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    source = SpeechPrior.from_pretrained(options.model, options.prior)
    codec: Any = source.codec
    speakers = speakers_of(source, options.speaker, options.speakers, options.seed)
    vector, _ = next(iter(speakers.values()))
    encoded = source.generate(options.seconds, speaker=vector, language=options.language, seed=options.seed)
    options.out.mkdir(parents=True, exist_ok=True)
    waveforms: dict[str, tuple[np.ndarray, float]] = {}
    for name, (vector, hz) in speakers.items():
        samples = codec.decode(spoken_by(encoded, vector, hz))[0, 0].numpy()
        title = name if hz is None else f"{name}, median {hz:.0f} Hz"
        waveforms[title] = (samples, 0.0)
        path = options.out / f"{name.replace(' ', '-')}.wav"
        with create_audio(path, codec.sample_rate, 1) as writer:
            writer.write(samples[:, None])
        print(path)
    draw_picture(waveforms, codec.sample_rate, options.picture)
    print(options.picture)


if __name__ == "__main__":
    main()
