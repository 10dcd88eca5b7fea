"""The actions behind the page's tabs. Coded and decoded audio stays in memory; files are left to no one."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from audiovq.bitstream import FileInfo, decode_file, encode_file, inspect_file, load_encoded, save_encoded
from audiovq.bitstream.container import is_avq
from audiovq.bitstream.entropy import EntropyCoder, coder_for
from audiovq.conversion.files import convert_file
from audiovq.conversion.target import TargetVoice, add_bundled
from audiovq.errors import AudioVQError
from audiovq.media.waveform import Resampler, n_resampled, open_audio

if TYPE_CHECKING:
    from audiovq.conversion.pitch import Pitch
    from audiovq.interfaces import Codec, EncodedSpeech, Progress
    from audiovq.prior import SpeechPrior

MP3_KBPS = 64.0
"""Rate of the MP3 that sizes are compared with."""


@dataclass(frozen=True)
class Recording:
    """One channel of audio in memory: ``samples`` (T,) float32, ``sample_rate`` in Hz, ``remarks`` for its user."""

    name: str
    samples: np.ndarray
    sample_rate: int
    remarks: list[str] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.sample_rate

    @property
    def pcm_bytes(self) -> int:
        """Size as 16-bit PCM."""
        return 2 * len(self.samples)

    @property
    def mp3_bytes(self) -> int:
        """Size as an MP3 of a constant `MP3_KBPS`."""
        return round(self.seconds * MP3_KBPS * 125)

    def wav(self, subtype: str = "FLOAT") -> BytesIO:
        """A WAV file; with ``FLOAT`` coding it gives the codes that coding ``samples`` gives."""
        import soundfile

        file = _Upload(self.name)
        soundfile.write(file, self.samples, self.sample_rate, subtype, format="WAV")
        file.seek(0)
        return file


@dataclass(frozen=True)
class Version:
    """Speech that went through a file.

    Attributes:
        label, detail: name for the page, and a line below it.
        avq, wav: the coded file, and the decoded one, 16 bits.
        samples: decoded, (T,) float32 at ``sample_rate`` Hz.
        f0: (F,) fundamental frequency in Hz of the file, 0 where unvoiced.
        kbps: nominal rate; None where it does not apply.
        remarks: on the way it was made, for its user.
    """

    label: str
    detail: str
    avq: bytes
    wav: bytes
    samples: np.ndarray
    sample_rate: int
    f0: np.ndarray
    kbps: float | None = None
    remarks: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Inspection:
    """A file's header, the decoded file, and its codes; both None for another model's file or a damaged one."""

    name: str
    info: FileInfo
    version: Version | None = None
    encoded: EncodedSpeech | None = None


class _Upload(BytesIO):
    """A file in memory with a name for messages."""

    def __init__(self, name: str, data: bytes = b"") -> None:
        super().__init__(data)
        self.name = name


def read_recording(path: str | Path, sample_rate: int, max_seconds: float) -> Recording:
    """Read audio of any format, mix its channels down and resample it to ``sample_rate`` Hz.

    Raises:
        AudioVQError: for a file that is not audio, or is too long.
    """
    blocks, name = [], Path(path).name
    with open_audio(_Upload(name, Path(path).read_bytes())) as audio:
        resampler = Resampler(audio.sample_rate, sample_rate)
        most = max_seconds * audio.sample_rate
        for block in audio.blocks(mono=True):
            if max(audio.n_read, audio.n_frames or 0) > most:
                raise AudioVQError(
                    f"is longer than {max_seconds:g} s, the limit of this page; cut it, or start the page with "
                    "a larger --max-seconds"
                )
            blocks.append(resampler.push(block))
        blocks.append(resampler.finish(n_resampled(audio.n_read, audio.sample_rate, sample_rate)))
    return Recording(name, np.concatenate(blocks)[:, 0], sample_rate, list(audio.remarks))


def compress(
    codec: Codec, recording: Recording, codebooks: Sequence[int], progress: Progress | None = None
) -> list[Version]:
    """Code and decode a recording with each of several numbers of codebooks.

    Raises:
        AudioVQError: for none, and for audio that cannot be coded.
    """
    if not codebooks:
        raise AudioVQError("choose at least one bitrate")
    versions = []
    for i, n in enumerate(sorted(codebooks)):
        data, kbps = encoded(codec, recording, n, _part(progress, i, len(codebooks))), codec.bitrates[n - 1]
        versions.append(decoded(codec, data, f"{kbps:.3g} kb/s", _codebooks(n), kbps))
    return versions


def convert(
    codec: Codec,
    recording: Recording,
    voice: TargetVoice,
    pitch: Pitch = "auto",
    n_codebooks: int | None = None,
    progress: Progress | None = None,
) -> Version:
    """Give a recording another speaker, or the same one with another pitch; see `SpeechCodec.convert`.

    Raises:
        AudioVQError: for a target with too little speech.
    """
    with tempfile.TemporaryDirectory(prefix="audiovq-") as folder:
        file = Path(folder) / "converted.avq"
        report = convert_file(recording.wav(), file, codec, lambda _: voice, n_codebooks, pitch, progress=progress)
        data = file.read_bytes()
    remarks = [*(f"{voice.name}: {line}" for line in voice.warnings()), *report.remarks]
    return decoded(codec, data, "Converted", voice.name, remarks=remarks)


def bundled_speaker(codec: Codec, name: str) -> TargetVoice:
    """A speaker that comes with the model; `AudioVQError` when there is none of this name."""
    voice = TargetVoice(codec, name)
    add_bundled(voice, codec, name)
    return voice


def recorded_speaker(codec: Codec, recording: Recording) -> TargetVoice:
    """The speaker of a recording at the codec's rate."""
    voice = TargetVoice(codec, recording.name)
    voice.add(recording.samples)
    voice.finish_recording()
    voice.remarks += recording.remarks
    return voice


def generate(
    prior: SpeechPrior,
    seconds: float,
    n: int,
    speaker: TargetVoice | None = None,
    prompt: Recording | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> list[Version]:
    """Sample speech, or continue a recording; ``settings`` as of `SpeechPrior.generate`.

    Raises:
        AudioVQError: for settings that do not fit the prior.
    """
    import torch

    codec, given = prior.codec, None
    if prompt is not None:
        given = codec.encode([torch.from_numpy(prompt.samples)], n_codebooks=prior.prior.drawn_codebooks)
    vector = None if speaker is None else speaker.vector()
    samples = prior.generate(seconds, n, vector, prompt=given, progress=progress, **settings)
    versions = []
    for i in range(n):
        file = BytesIO()
        save_encoded(samples.item(i), file, codec)
        versions.append(decoded(codec, file.getvalue(), f"Sample {i + 1}", _codebooks(samples.codes.shape[1])))
    return versions


def inspect(codec: Codec, path: str | Path, max_seconds: float, n_codebooks: int | None = None) -> Inspection:
    """Look into an .avq file, or into what a recording becomes, with ``n_codebooks`` or the model's default.

    Raises:
        AudioVQError: for a file that is neither, or whose header cannot be read.
    """
    name = Path(path).name
    if is_avq(path):
        data = Path(path).read_bytes()
    else:
        data = encoded(codec, read_recording(path, codec.sample_rate, max_seconds), n_codebooks)

    def coder(model_hash: bytes) -> EntropyCoder | None:
        return coder_for(codec) if model_hash == codec.model_hash else None

    def clock(model_hash: bytes) -> tuple[int, int] | None:
        return (codec.sample_rate, codec.hop_length) if model_hash == codec.model_hash else None

    info = inspect_file(_Upload(name, data), coder, clock)
    if info.damage or info.model_hash != codec.model_hash.hex():
        return Inspection(name, info)
    if (info.seconds or 0) > max_seconds:
        raise AudioVQError(f"{name}: is longer than {max_seconds:g} s, the limit of this page; see --max-seconds")
    codes = load_encoded(BytesIO(data), codec)
    return Inspection(name, info, decoded(codec, data, "Decoded", _codebooks(info.codebooks)), codes)


def encoded(codec: Codec, recording: Recording, n_codebooks: int | None, progress: Progress | None = None) -> bytes:
    """The .avq file of a recording."""
    file = BytesIO()
    encode_file(recording.wav(), file, codec, n_codebooks, progress=progress)
    return file.getvalue()


def decoded(
    codec: Codec, avq: bytes, label: str, detail: str, kbps: float | None = None, remarks: Sequence[str] = ()
) -> Version:
    """Decode a file in memory."""
    import soundfile

    file = BytesIO()
    decode_file(BytesIO(avq), file, codec)
    wav = file.getvalue()
    samples, rate = soundfile.read(BytesIO(wav), dtype="float32", always_2d=True)
    return Version(label, detail, avq, wav, samples[:, 0], rate, f0_of(codec, avq), kbps, list(remarks))


def f0_of(codec: Codec, avq: bytes) -> np.ndarray:
    """Coded fundamental frequency in Hz (F,) of a file's first channel."""
    from audiovq.codec.encoder import pitch_to_hz

    return pitch_to_hz(load_encoded(BytesIO(avq), codec).pitch[0]).numpy()


def tracked_f0(codec: Codec, recording: Recording) -> np.ndarray:
    """Fundamental frequency in Hz (F,) that coding measures in a recording."""
    return f0_of(codec, encoded(codec, recording, 1))


def _codebooks(n: int) -> str:
    return f"{n} codebook{'s' * (n > 1)}"


def _part(progress: Progress | None, i: int, n: int) -> Progress | None:
    """Progress of one of ``n`` files as progress of all, in files."""
    if progress is None:
        return None

    def report(done: float, total: float | None) -> None:
        progress(i + (done / total if total else 0), n)

    return report
