"""Conversion targets: recordings, speakers of a model (``speakers.json`` beside it) or .avq files, as one vector."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from audiovq.bitstream.container import is_avq
from audiovq.bitstream.speech_file import model_blocks
from audiovq.bitstream.speech_reader import SpeechReader
from audiovq.conversion.pitch import HOP_SECONDS, doubts, heard_seconds, median_hz, median_pitch, track_pitch
from audiovq.errors import AudioVQError
from audiovq.io import atomic_write, errors_about, open_input, read_json
from audiovq.media.waveform import open_audio
from audiovq.tensor_files import CHECKSUM, json_with_checksum

if TYPE_CHECKING:
    from audiovq.hub import ModelFacts
    from audiovq.interfaces import Codec


SPEAKERS_FILE = "speakers.json"


@dataclass(frozen=True)
class BundledVoice:
    """A voice that can be named as a target.

    Attributes:
        name: unique within the model.
        languages: ISO 639 codes of what it was heard in.
        sex: "female", "male", or None where the source does not say.
        seconds: of speech that the vector was made from.
        pitch: median F0 in Hz, None where there was no voiced speech.
        vector: the quantized speaker vector, S values.
        licence: of the recordings.
        source: where they are from.
    """

    name: str
    languages: list[str]
    sex: str | None
    seconds: float
    pitch: float | None
    vector: list[int]
    licence: str
    source: str


def voice_entry(
    voice: TargetVoice, name: str, languages: list[str], sex: str | None, licence: str, source: str
) -> BundledVoice:
    """What was heard of a voice, as it is put beside a model; raises `AudioVQError` when that is too little."""
    return BundledVoice(
        name=name,
        languages=languages,
        sex=sex,
        seconds=round(voice.seconds, 1),
        pitch=None if voice.pitch is None else round(voice.pitch, 1),
        vector=voice.vector().tolist(),
        licence=licence,
        source=source,
    )


def write_voices(codec: Codec, voices: list[BundledVoice], folder: str | Path) -> Path:
    """Put voices beside the weights of the model they were made with."""
    path = Path(folder) / SPEAKERS_FILE
    # One line for each voice: a vector of 32 numbers is not to be read from top to bottom.
    content = json_with_checksum({"model": codec.model_hash.hex(), "speakers": [asdict(voice) for voice in voices]})
    rows = ",\n".join("  " + json.dumps(voice, ensure_ascii=False) for voice in content["speakers"])
    with atomic_write(path) as temporary:
        head = json.dumps({name: content[name] for name in ("model", CHECKSUM)})[:-1]
        text = f'{head}, "speakers": [\n{rows}\n]}}\n'
        temporary.write_text(text, encoding="utf-8")
    return path


def find_voice(codec: Codec | ModelFacts, name: str) -> BundledVoice:
    """A voice that came with the model.

    Raises:
        AudioVQError: when there is none of this name.
    """
    known = read_voices(codec)
    if name in known:
        return known[name]
    if os.sep in name or Path(name).suffix:
        raise AudioVQError(f"{name}: no such file")
    close = get_close_matches(name.lower(), known, 1)
    hint = f"; did you mean {close[0]}?" if close else ""
    where = "`audiovq speakers` lists them" if known else f"model {codec.name} has none"
    raise AudioVQError(f"{name}: neither a file nor a bundled speaker ({where}){hint}")


def read_voices(codec: Codec | ModelFacts) -> dict[str, BundledVoice]:
    """The voices of a model by name; none where it has no such file.

    Raises:
        AudioVQError: for a file that is damaged, or was made with other weights.
    """
    folder = codec.folder
    if folder is None or not (folder / SPEAKERS_FILE).is_file():
        return {}
    path = folder / SPEAKERS_FILE
    try:
        content: dict[str, Any] = read_json(path)
        voices = [_checked(BundledVoice(**voice)) for voice in content["speakers"]]
        made_with = content["model"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise AudioVQError(f"{path} is damaged ({error})") from error
    if made_with != codec.model_hash.hex():
        raise AudioVQError(
            f"{path} was made with model {made_with}, not {codec.model_hash.hex()}; "
            "recipes/voice_conversion/make_speakers.py makes it anew"
        )
    return {voice.name: voice for voice in voices}


def _checked(voice: BundledVoice) -> BundledVoice:
    """The voice itself. Raises `ValueError` for values that are none of a speaker."""
    vector, pitch = np.asarray(voice.vector), voice.pitch
    if not isinstance(voice.name, str) or vector.ndim != 1 or not len(vector) or vector.dtype.kind != "i":
        raise ValueError(f"{voice.name!r} has no speaker vector")
    if vector.min() < 0 or not (pitch is None or 0 < float(pitch) < float("inf")):
        raise ValueError(f"{voice.name} has a negative value, or a pitch of {pitch} Hz")
    return voice


CHUNK_SECONDS = 4.0
"""A recording's vector is the mean over pieces of about this length."""
SHORTEST, SHORT = 0.5, 3.0
"""Seconds of speech: less is an error, less is warned of."""
TWO_VOICES = 20.0
"""`separation` above which two voices are suspected: of 20 s of one voice 2 % are over it, of 10 s each of two 80 %."""
MOST_PIECES, OPENING_CHUNKS = 300, 3


class TargetVoice:
    """Collects speech of one voice, in constant memory.

    Args:
        codec: the model whose vector is wanted.
        name: for messages.

    Attributes:
        seconds: of speech heard.
        remarks: on the recordings, for `warnings`.
    """

    def __init__(self, codec: Codec, name: str = "the target") -> None:
        self._codec, self.name = codec, name
        self._chunk = round(CHUNK_SECONDS * codec.sample_rate)
        self._waiting: list[np.ndarray] = []
        self._n_waiting = 0
        self._levels: list[np.ndarray] = []
        self._weights: list[float] = []
        self._pitches: list[np.ndarray] = []
        self._pieces: list[np.ndarray] = []
        self._opening: list[np.ndarray] = []
        self.seconds = 0.0
        self.remarks: list[str] = []

    def add(self, samples: np.ndarray) -> None:
        """More of a recording: (n,) float32 at the codec's rate."""
        self._waiting.append(np.asarray(samples, np.float32).reshape(-1))
        self._n_waiting += len(self._waiting[-1])
        # One chunk stays behind, so that a recording's short rest can go with what is before it.
        while self._n_waiting >= 2 * self._chunk:
            data = np.concatenate(self._waiting)
            self._take(data[: self._chunk])
            self._waiting, self._n_waiting = [data[self._chunk :]], self._n_waiting - self._chunk

    def finish_recording(self) -> None:
        """The recording ends here; another may follow."""
        data = np.concatenate([np.zeros(0, np.float32), *self._waiting])
        self._waiting, self._n_waiting = [], 0
        for part in np.array_split(data, max(-(-len(data) // self._chunk), 1)):
            self._take(part)

    def add_vector(self, vector: np.ndarray, pitch: float | None = None, seconds: float = CHUNK_SECONDS) -> None:
        """Add a vector (S,) made before, with the median F0 in Hz, weighing as so many seconds of speech."""
        self._levels.append(np.asarray(vector, np.float64))
        self._weights.append(seconds)
        if pitch is not None:
            self._pitches.append(np.full(round(seconds / HOP_SECONDS), pitch, np.float32))
        self.seconds += seconds

    def _take(self, samples: np.ndarray) -> None:
        heard = heard_seconds(samples, self._codec.sample_rate)
        if heard == 0:
            return
        self.seconds += heard
        self._levels.append(self._codec.speaker_levels(samples))
        self._weights.append(heard)
        self._pitches.append(track_pitch(samples, self._codec.sample_rate))
        if len(self._opening) < OPENING_CHUNKS:
            self._opening.append(samples)
        for piece in np.array_split(samples, 2) if len(self._pieces) < MOST_PIECES else ():
            if heard_seconds(piece, self._codec.sample_rate) > SHORTEST:
                self._pieces.append(self._codec.speaker_levels(piece))

    def vector(self) -> np.ndarray:
        """The quantized speaker vector (S,) int64.

        Raises:
            AudioVQError: when there is too little speech to know a voice by.
        """
        if self.seconds < SHORTEST:
            what = "silence" if self.seconds == 0 else f"only {self.seconds:.1f} s of speech"
            raise AudioVQError(f"{self.name}: holds {what}; a target needs several seconds of speech")
        mean = np.average(self._levels, axis=0, weights=self._weights)
        # Rounded about the middle, as the quantizer does.
        middle = self._codec.n_speaker_levels // 2
        return (np.rint(mean - middle) + middle).astype(np.int64)

    def warnings(self) -> list[str]:
        """What may keep the vector from being one clear voice's, in words."""
        found = [remark.replace("warning: ", "") for remark in self.remarks]
        if self.seconds < SHORT:
            found.append(f"only {self.seconds:.1f} s of speech; several seconds describe a speaker better")
        if self._opening and (why := doubts(np.concatenate(self._opening), self._codec.sample_rate)):
            found.append(f"it has {why}; a target should be clear speech of one speaker")
        if separation(self._pieces) > TWO_VOICES:
            found.append("it sounds like more than one speaker; give recordings of the target speaker only")
        return found

    @property
    def pitch(self) -> float | None:
        """Median F0 in Hz; None without voiced speech."""
        return median_pitch(np.concatenate(self._pitches)) if self._pitches else None


def separation(points: list[np.ndarray]) -> float:
    """How far some points (S,) fall into two groups: the squared distance of their means over the variance within.

    Two means (Lloyd 1982), started from the two points farthest apart. 0 for fewer than four points, or where a group
    is a single point.
    """
    if len(points) < 4:
        return 0.0
    x = np.asarray(points)
    apart = np.square(x[:, None] - x[None]).sum(axis=-1)
    first, second = np.unravel_index(apart.argmax(), apart.shape)
    near = apart[:, second] < apart[:, first]
    for _ in range(20):
        if min(near.sum(), (~near).sum()) < 2:
            return 0.0
        means = x[~near].mean(axis=0), x[near].mean(axis=0)
        distances = [np.square(x - mean).sum(axis=1) for mean in means]
        nearer = distances[1] < distances[0]
        if (nearer == near).all():
            break
        near = nearer
    within = np.where(near, distances[1], distances[0]).sum() / (len(x) - 2)
    return float(np.square(means[1] - means[0]).sum() / max(within, 1e-9))


OPENING_PACKETS = 3
"""Packets of an .avq file from which its median pitch is taken."""


def target_voice(codec: Codec, targets: Sequence[str | Path | np.ndarray]) -> TargetVoice:
    """The voice of all ``targets`` together: recordings (T,) at the codec's rate, paths, names.

    Paths are of recordings or .avq files, of which the header's vector is taken, and come before bundled voices' names.

    Raises:
        AudioVQError: for what is neither, cannot be read, was written by another model, or holds too little speech.
    """
    if not targets:
        raise AudioVQError("no target speaker was given")
    named = [str(target) for target in targets if isinstance(target, str | Path)]
    whole = " and ".join(named) if len(named) < 4 else f"{len(named)} targets"
    voice = TargetVoice(codec, whole if len(named) == len(targets) else "the target")
    for target in targets:
        name = str(target)
        if isinstance(target, np.ndarray):
            voice.add(target)
            voice.finish_recording()
        elif not os.path.exists(name):
            add_bundled(voice, codec, name)
        elif os.path.isdir(name):
            raise AudioVQError(f"{name}: is a folder; name the target's recordings one by one")
        elif is_avq(name):
            _add_avq(voice, codec, name)
        else:
            add_recording(voice, codec, name)
    return voice


def add_bundled(voice: TargetVoice, codec: Codec, name: str) -> None:
    """Add a voice that came with the model. Raises `AudioVQError` when there is none of this name."""
    found = find_voice(codec, name)
    if max(found.vector) >= codec.n_speaker_levels:
        raise AudioVQError(f"{name}: its speaker vector has values that model {codec.name} does not know")
    voice.add_vector(np.array(found.vector), found.pitch)


def add_recording(voice: TargetVoice, codec: Codec, path: str) -> None:
    """Add a recording of any length, all channels mixed. Raises `AudioVQError` when it cannot be read."""
    with errors_about(path), open_audio(path) as audio:
        for samples in model_blocks(audio, codec, mono=True):
            if samples is not None:
                voice.add(samples[:, 0])
        voice.finish_recording()
        voice.remarks += [remark if path == voice.name else f"{path}: {remark}" for remark in audio.remarks]


def _add_avq(voice: TargetVoice, codec: Codec, path: str) -> None:
    with errors_about(path), open_input(path) as stream:
        speech = SpeechReader(stream)
        speech.expect(codec)
        speakers = speech.header.speakers
        packets = [packet[0] for packet in islice(speech.packets(), OPENING_PACKETS) if isinstance(packet, list)]
    pitch = median_hz(packet.pitch for packet in packets)
    for vector in np.unique(speakers, axis=0):
        voice.add_vector(vector, pitch)
