"""Codecs on a corpus, the speech model among them, and two folders with recordings of the same names."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import soxr
import torch
from torch import Tensor, nn

from audiovq.bitstream import save_encoded
from audiovq.bitstream.speech_layout import pack_side
from audiovq.codec.signal import TARGET_DB, HighPass, dequantize_level
from audiovq.data.utterance import Utterance, read_native
from audiovq.errors import AudioVQError
from audiovq.evaluation.metrics import describe
from audiovq.evaluation.protocol import (
    EXCERPT_SECONDS,
    SAMPLE_RATE,
    SHORTEST_SECONDS,
    Coded,
    Excerpt,
    Metric,
    Pair,
    Progress,
    System,
    common_delay,
    join_utterances,
    remove_delay,
    sample_excerpts,
    silent,
    tracked,
)
from audiovq.evaluation.report import (
    Scored,
    SystemReport,
    SystemResult,
    paired_differences,
    reference_result,
    score_pair,
    score_reference,
    summarise,
)
from audiovq.interfaces import EncodedSpeech, Packet
from audiovq.io import shown

if TYPE_CHECKING:
    from audiovq.codec.codec import SpeechCodec


SEED = 0
SYNTHETIC_CORPORA = ("kokoro_speech",)
"""Corpora of synthesised speech, by the first part of their speakers' names."""


def evaluate_codec(
    splits: Mapping[str, Sequence[Utterance]],
    systems: Sequence[System],
    metrics: Sequence[Metric],
    limit: int = 0,
    about: dict[str, Any] | None = None,
    progress: Progress = silent,
    compared: Mapping[str, str] | None = None,
) -> SystemReport:
    """Code excerpts of every split with every system and score the result.

    Splits are reported apart, and within each recordings apart from synthesised speech. The first result of each is the
    reference itself, if there are metrics that need no other; systems also get their difference to it.

    Args:
        splits: utterances by the split's name.
        limit: excerpts of each split (see `sample_excerpts`); 0 for all.
        about: more for the report's protocol: data, model.
        compared: names of systems, each with that of an earlier one that its differences are taken to.

    Raises:
        AudioVQError: for a split with no utterances.
    """
    protocol = {
        "name": "codec",
        **(about or {}),
        "sample_rate": SAMPLE_RATE,
        "excerpts": f"a speaker's consecutive utterances joined until they last {EXCERPT_SECONDS:g} s "
        f"(a rest {SHORTEST_SECONDS:g} s)",
        "limit": limit,
        "seed": SEED,
        "kbps": "bytes of coded speech; file_kbps: bytes of the whole file",
        "metrics": describe(metrics),
    }
    report = SystemReport(protocol, [])
    for split, utterances in splits.items():
        parts: dict[bool, list[Utterance]] = {False: [], True: []}
        for one in utterances:
            parts[one.speaker.partition("/")[0] in SYNTHETIC_CORPORA].append(one)
        excerpts = {synthetic: sample_excerpts(join_utterances(part), limit, SEED) for synthetic, part in parts.items()}
        if not any(excerpts.values()):
            raise AudioVQError(f"the split {split!r} of this data has no utterances")
        for synthetic, part in excerpts.items():
            name = f"{split}, synthetic" if synthetic else split
            report.systems += _evaluate(name, part, systems, metrics, progress, compared or {}) if part else []
    return report


def _evaluate(
    split: str,
    excerpts: Sequence[Excerpt],
    systems: Sequence[System],
    metrics: Sequence[Metric],
    progress: Progress,
    compared: Mapping[str, str],
) -> list[SystemResult]:
    """The recordings themselves, then every system."""
    loaded = ((one, one.load()) for one in excerpts)
    originals = [Pair(one.id, samples, samples, one.speaker, one.language, one.text) for one, samples in loaded]
    reference = score_reference(tracked(originals, f"{split}: reference", progress), metrics)
    results = [reference_result(reference, split)] if reference else []
    scored: dict[str, list[Scored]] = {}
    for system in systems:
        what = f"{split}: {system.name}"
        coded = [system.code(pair.reference) for pair in tracked(originals, f"{what}, coding", progress)]
        waveforms = [one.waveform for one in coded]
        delay = 0 if system.exact else common_delay([pair.reference for pair in originals], waveforms)
        pairs = [
            replace(pair, degraded=remove_delay(waveform, delay, len(pair.reference)))
            for pair, waveform in zip(originals, waveforms, strict=True)
        ]
        scored[system.name] = [score_pair(pair, metrics) for pair in tracked(pairs, f"{what}, scoring", progress)]
        seconds = sum(pair.seconds for pair in pairs)
        about: dict[str, Any] = {name: getattr(system, name) for name in ("name", "family", "call", "n_codebooks")}
        about["kbps"] = sum(one.payload_bytes for one in coded) * 8 / 1000 / seconds
        about["file_kbps"] = sum(one.file_bytes for one in coded) * 8 / 1000 / seconds
        if (other := compared.get(system.name)) is not None:
            difference = paired_differences(scored[system.name], scored[other])
            about |= {"compared_with": other, "difference": difference}
        about |= {"split": split, "delay_ms": 1000 * delay / SAMPLE_RATE}
        results.append(summarise(scored[system.name], reference, **about))
    return results


class AudioVQSystem:
    """A `SpeechCodec` with a number of codebooks and one of its decoders."""

    exact = True

    def __init__(self, codec: SpeechCodec, n_codebooks: int, decoder: str = "parallel") -> None:
        self._codec, self.decoder, self.n_codebooks = codec, decoder, n_codebooks
        suffix = "" if decoder == "parallel" else f" {decoder}"
        self.family = f"audiovq{suffix}"
        self.name = f"audiovq {codec.bitrates[n_codebooks - 1]:g}{suffix}"
        self.call = f"model {codec.name}, {n_codebooks} codebooks, {decoder} decoder"

    def code(self, waveform: np.ndarray) -> Coded:
        encoded = self._codec.encode(torch.from_numpy(waveform).view(1, 1, -1), n_codebooks=self.n_codebooks)
        decoded = self._codec.decode(encoded, decoder=self.decoder)[0, 0].numpy()
        bits = (self._codec.codebook_size - 1).bit_length()
        payload = -(-encoded.codes[0].numel() * bits // 8) + self._side_bytes(encoded)
        file = io.BytesIO()
        save_encoded(encoded, file, self._codec)
        return Coded(decoded, payload, file.getbuffer().nbytes)

    def _side_bytes(self, encoded: EncodedSpeech) -> int:
        """Size of the pitch and the level of one item."""
        codes, pitch = encoded.codes[0].numpy(), encoded.pitch[0].numpy()
        size = encoded.packet_frames or self._codec.packet_frames
        parts = (slice(start, start + size) for start in range(0, codes.shape[1], size))
        packets = (
            Packet(codes[:, part], pitch[part], level)
            for part, level in zip(parts, encoded.level[0].tolist(), strict=True)
        )
        return sum(len(pack_side([packet])) for packet in packets)


@torch.no_grad()
def latents_of(codec: SpeechCodec, samples: np.ndarray, encoder: nn.Module | None = None) -> Tensor:
    """Latents (C, F) of a recording (T,), T a multiple of the hop length, encoded in one piece.

    Args:
        codec: the model.
        samples: float32 at 16 kHz.
        encoder: another encoder than the model's.
    """
    # The encoder reads level-normalised audio, the harmonic source of its pitch, and the speaker.
    encoded = codec.encode(torch.from_numpy(samples)[None, None])
    gains = 10 ** ((TARGET_DB - dequantize_level(encoded.level)) / 20)
    size = (encoded.packet_frames or codec.packet_frames) * codec.hop_length
    normalised = (
        torch.from_numpy(HighPass(codec.sample_rate)(samples)) * gains.repeat_interleave(size, 1)[:, : len(samples)]
    )
    speaker = codec.speaker_encoder.decode(encoded.speaker).float()
    return (encoder or codec.encoder)(normalised[None].float(), speaker, codec.source(encoded.pitch))[0]


EXTENSIONS = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif", ".au", ".w64")
LENGTHS_DIFFER = 0.25
"""Largest difference of two lengths in seconds."""
ALIGN_ON = 50
"""Recordings that the common delay is estimated from."""
File = tuple[str, Path, Path]
"""Name, reference, degraded."""


def _recordings(folder: Path) -> dict[str, Path]:
    """Audio files by their path in the folder without the extension."""
    if not folder.is_dir():
        raise AudioVQError(f"no such folder: {folder}")
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in EXTENSIONS and path.is_file():
            key = path.relative_to(folder).with_suffix("").as_posix()
            if key in found:
                raise AudioVQError(f"{found[key]} and {path} differ in their extension alone: keep one of them")
            found[key] = path
    return found


def match_files(reference_dir: str | Path, degraded_dir: str | Path) -> list[File]:
    """Name, reference and degraded file for each recording of the reference folder.

    Raises:
        AudioVQError: for a folder that is missing or has no recordings, or a recording with no partner on either side.
    """
    references, degraded = _recordings(Path(reference_dir)), _recordings(Path(degraded_dir))
    if not references:
        raise AudioVQError(f"no recordings ({', '.join(EXTENSIONS)}) in {reference_dir}")
    for have, other, folder in ((references, degraded, degraded_dir), (degraded, references, reference_dir)):
        alone = sorted(have.keys() - other.keys())
        if alone:
            raise AudioVQError(f"{len(alone)} recordings have no partner in {folder}, the first: {have[alone[0]]}")
    return [(key, references[key], degraded[key]) for key in references]


def _load(path: Path) -> np.ndarray:
    """(T,) float32 at 16 kHz: the mean of the channels, or the louder one where they cancel each other."""
    samples, sample_rate = read_native(path)
    return samples if sample_rate == SAMPLE_RATE else soxr.resample(samples, sample_rate, SAMPLE_RATE, quality="HQ")


def _load_both(file: File) -> tuple[np.ndarray, np.ndarray]:
    name, reference, degraded = file
    a, b = _load(reference), _load(degraded)
    if not len(a):
        raise AudioVQError(f"{reference} has no samples")
    if abs(len(a) - len(b)) > LENGTHS_DIFFER * SAMPLE_RATE:
        lengths = f"{len(a) / SAMPLE_RATE:.2f} s and {len(b) / SAMPLE_RATE:.2f} s"
        raise AudioVQError(f"{name}: the recordings last {lengths}; they must be of the same thing")
    return a, b


def _text(recording: Path) -> str | None:
    text = recording.with_suffix(".txt")
    return text.read_text(encoding="utf-8") if text.is_file() else None


def evaluate_files(
    reference_dir: str | Path,
    degraded_dir: str | Path,
    metrics: Sequence[Metric],
    align: bool = False,
    language: str | None = None,
    progress: Progress = silent,
) -> SystemReport:
    """Score every recording of one folder against that of the same relative name (any extension) in the other.

    Channels are averaged and rates brought to 16 kHz. The degraded side is cut or padded with zeros to the reference's
    length. The first sub-folder, if any, is taken for the speaker's name, and a ``.txt`` file beside a reference for
    its transcript.

    Args:
        align: estimate one delay for all recordings of the degraded side, and remove it.
        language: ISO 639 code of all recordings; word error rates need it.

    Raises:
        AudioVQError: see `match_files`; for a file that cannot be read, and recordings whose lengths differ by more
            than a quarter of a second.
    """
    files = match_files(reference_dir, degraded_dir)
    sample = [_load_both(file) for file in files[: ALIGN_ON * align]]
    delay = common_delay([a for a, _ in sample], [b for _, b in sample])

    def pairs(what: str) -> Iterator[Pair]:
        for file in tracked(files, what, progress):
            (name, reference, _), (a, b) = file, _load_both(file)
            name = shown(name)
            speaker = name.split("/")[0] if "/" in name else None
            yield Pair(name, a, remove_delay(b, delay, len(a)), speaker, language, _text(reference))

    name = shown(Path(degraded_dir).name or str(degraded_dir))
    about: dict[str, Any] = {"name": name, "family": "pairs", "call": shown(degraded_dir)}
    scored = [score_pair(pair, metrics) for pair in pairs("scoring")]
    result = summarise(scored, **about, split=None, delay_ms=1000 * delay / SAMPLE_RATE)
    protocol = {"name": "files", "reference": shown(reference_dir), "degraded": shown(degraded_dir), "align": align}
    alone = any(metric.no_reference for metric in metrics)
    references = [reference_result(score_reference(pairs("reference"), metrics))] if alone else []
    return SystemReport({**protocol, "metrics": describe(metrics)}, [*references, result])
