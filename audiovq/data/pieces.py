"""A folder of numbered zip files, none over a limit, that travels piece by piece, and packed corpora inside it."""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from audiovq.errors import AudioVQError
from audiovq.io import atomic_write, cache_dir, file_sha256

MANIFEST = "manifest.json"
SAMPLE_RATE = 16000
FRAME = 320
"""Samples to multiples of which packed utterances are padded, and one Opus frame."""
STREAM_SECONDS = 240
"""Seconds of audio in one entry: the unit of parallel decoding."""
AUDIO = {"opus": ".opus", "flac": ".flac", "int16": ".i16"}
"""How audio is stored, and the suffix of its entries."""
_PART = 2 << 20  # bytes of an entry from which it is cut
_OVERHEAD = 1024  # bytes that an entry takes in a zip file beside its data, generously
_DATE = (1980, 1, 1, 0, 0, 0)  # the same content gives the same bytes


class PieceWriter:
    """Writes entries to ``piece-01.zip``, ``piece-02.zip``, ... in the order they are added.

    Args:
        folder: of the pieces; pieces of an earlier pack there are replaced.
        piece_bytes: upper limit of a piece's size.
    """

    def __init__(self, folder: Path, piece_bytes: int) -> None:
        self.folder, self.piece_bytes = folder, piece_bytes
        self.pieces: list[dict[str, Any]] = []
        self._start()
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, name: str, data: bytes, compress: bool = True) -> None:
        """Add an entry; long ones are cut into ``NAME@000``, ``NAME@001``, ..., which `PieceReader` joins."""
        part = min(_PART, self.piece_bytes // 4)
        if len(data) > part:
            for index in range(0, len(data), part):
                self.add(f"{name}@{index // part:03d}", data[index : index + part], compress)
            return
        # Compressed data is at most slightly longer than the original; the original's length is the safe estimate.
        if self._zip.filelist and self._buffer.tell() + len(data) + _OVERHEAD * (len(self._zip.filelist) // 4 + 2) > (
            self.piece_bytes
        ):
            self._close()
            self._start()
        kind = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
        self._zip.writestr(zipfile.ZipInfo(name, _DATE), data, kind)

    def finish(self, **facts: Any) -> dict[str, Any]:
        """Write the last piece, and the manifest with sizes, checksums and ``facts``."""
        self._close()
        for path in self.folder.glob("piece-*.zip"):
            if path.name not in {piece["name"] for piece in self.pieces}:
                path.unlink()
        manifest = {**facts, "pieces": self.pieces}
        with atomic_write(self.folder / MANIFEST) as path:
            path.write_text(json.dumps(manifest, indent=1) + "\n")
        return manifest

    def _start(self) -> None:
        self._buffer = io.BytesIO()
        self._zip = zipfile.ZipFile(self._buffer, "w")

    def _close(self) -> None:
        self._zip.close()
        data = self._buffer.getvalue()
        name = f"piece-{len(self.pieces) + 1:02d}.zip"
        with atomic_write(self.folder / name) as path:
            path.write_bytes(data)
        self.pieces.append({"name": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()})


class PieceReader:
    """Reads the entries of a folder of pieces; `AudioVQError` when pieces are missing or damaged."""

    def __init__(self, folder: Path) -> None:
        try:
            self.manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text())
            pieces = self.manifest["pieces"]
            missing = [piece["name"] for piece in pieces if not (folder / piece["name"]).is_file()]
        except (OSError, ValueError, KeyError) as error:
            raise AudioVQError(f"no pack in {folder}: {error}") from error
        if missing:
            raise AudioVQError(f"{folder} is incomplete; missing pieces: {', '.join(missing)}")
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            found = list(pool.map(lambda piece: file_sha256(folder / piece["name"]), pieces))
        for piece, checksum in zip(pieces, found, strict=True):
            if checksum != piece["sha256"]:
                raise AudioVQError(f"{folder / piece['name']} is damaged or belongs to another pack: copy it again")
        self._zips = [zipfile.ZipFile(folder / piece["name"]) for piece in pieces]
        self._parts: dict[str, list[tuple[zipfile.ZipFile, str]]] = {}
        for file in self._zips:
            for entry in file.namelist():
                self._parts.setdefault(entry.split("@")[0], []).append((file, entry))

    def names(self, prefix: str = "") -> list[str]:
        """Names of the entries that begin with ``prefix``, in order."""
        return sorted(name for name in self._parts if name.startswith(prefix))

    def read(self, name: str) -> bytes:
        """An entry's bytes."""
        return b"".join(file.read(entry) for file, entry in self._parts[name])

    def extract(self, prefix: str, folder: Path) -> None:
        """Write the entries that begin with ``prefix`` to ``folder``, without the prefix."""
        for name in self.names(prefix):
            with atomic_write(folder / name.removeprefix(prefix)) as path:
                path.write_bytes(self.read(name))


# -- audio ------------------------------------------------------------------------------------------------------------


def encode_samples(samples: np.ndarray, audio: str, kbps: float) -> bytes:
    """Samples (T,) int16 at 16 kHz, T a multiple of `FRAME` -> a stream of as many samples.

    Opus of the highest complexity comes from PyAV's encoder, which is several times faster than libsndfile's.

    Raises:
        AudioVQError: when the decoded stream is not aligned with the samples.
    """
    if audio == "int16":
        return samples.astype("<i2").tobytes()
    buffer = io.BytesIO()
    if audio == "flac":
        import soundfile

        soundfile.write(buffer, samples, SAMPLE_RATE, subtype="PCM_16", format="FLAC")
        return buffer.getvalue()
    try:
        import av
    except ImportError as error:
        raise AudioVQError("audio as Opus needs PyAV: pip install 'audiovq[video]', or store it as FLAC") from error
    with av.open(buffer, "w", format="ogg") as container:
        options = {"compression_level": "10", "vbr": "on", "application": "audio"}
        stream = container.add_stream("libopus", rate=SAMPLE_RATE, layout="mono", options=options)
        stream.bit_rate = round(kbps * 1000)
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.sample_rate = SAMPLE_RATE
        for packet in (*stream.encode(frame), *stream.encode(None)):
            container.mux(packet)
    check_alignment(samples, decode_samples(buffer.getvalue(), audio, len(samples)))
    return buffer.getvalue()


def decode_samples(data: bytes, audio: str, n_samples: int) -> np.ndarray:
    """What `encode_samples` wrote -> samples (T,) int16, T at most ``n_samples``. Other threads run meanwhile.

    libsndfile does not cut the end of an Opus stream that is one page long.
    """
    if audio == "int16":
        return np.frombuffer(data, "<i2")
    import soundfile

    return soundfile.read(io.BytesIO(data), dtype="int16")[0][:n_samples]


def check_alignment(samples: np.ndarray, decoded: np.ndarray) -> None:
    """Raise `AudioVQError` unless decoded samples are as many as the original ones, and not shifted against them."""
    if len(samples) != len(decoded):
        raise AudioVQError(f"the Opus library decoded {len(decoded)} of {len(samples)} samples: store audio as FLAC")
    margin = 8
    inner = samples[margin:-margin].astype(np.float64)
    errors = [
        float(np.square(decoded[margin + lag : len(decoded) - margin + lag] - inner).sum())
        for lag in range(-margin, margin + 1)
    ]
    if errors[margin] > min(errors):
        shift = int(np.argmin(errors)) - margin
        raise AudioVQError(f"the Opus library shifts audio by {shift} samples: store audio as FLAC")


def _cached_stream(samples: np.ndarray, audio: str, kbps: float) -> bytes:
    """As `encode_samples`, from the cache where the same samples have been encoded before."""
    if audio != "opus":
        return encode_samples(samples, audio, kbps)
    key = hashlib.sha256(samples.astype("<i2").tobytes()).hexdigest()[:24]
    path = cache_dir() / "streams" / f"{key}-{kbps:g}.opus"
    if not path.is_file():
        with atomic_write(path) as temporary:
            temporary.write_bytes(encode_samples(samples, audio, kbps))
    return path.read_bytes()


# -- packed corpora ---------------------------------------------------------------------------------------------------


def stretches(starts: Iterable[int], total: int) -> list[tuple[int, int]]:
    """Cut samples 0 to ``total`` at utterances' ``starts`` into stretches of at least `STREAM_SECONDS`."""
    borders = [0]
    for start in starts:
        if start - borders[-1] >= STREAM_SECONDS * SAMPLE_RATE:
            borders.append(start)
    return list(zip(borders, [*borders[1:], total], strict=True))


def add_corpus(
    writer: PieceWriter,
    folder: Path,
    split: str,
    audio: str,
    kbps: float,
    labels: Iterable[str],
    progress: Callable[[int], None] | None = None,
) -> None:
    """Add a packed corpus (see `audiovq.data.packed`) as ``audio/SPLIT/...`` and ``packed/SPLIT/...``.

    Args:
        labels: names of the label files that go along, of those that are there.
        progress: is called with the seconds of each stretch.

    Raises:
        AudioVQError: when there is no packed corpus.
    """
    try:
        index = (folder / "index.json").read_bytes()
        starts = [line["start"] for line in json.loads(index)]
        samples = np.memmap(folder / "samples.i16", "<i2", "r")
    except (OSError, ValueError, KeyError) as error:
        raise AudioVQError(f"no packed corpus in {folder}, or it is damaged: {error}") from error
    for first, last in stretches(starts, len(samples)):
        data = _cached_stream(np.asarray(samples[first:last]), audio, kbps)
        writer.add(f"audio/{split}/{first:012d}{AUDIO[audio]}", data, compress=audio == "int16")
        if progress is not None:
            progress((last - first) // SAMPLE_RATE)
    writer.add(f"packed/{split}/index.json", index)
    for name in labels:
        if (folder / f"{name}.bin").is_file():
            writer.add(f"packed/{split}/{name}.bin", (folder / f"{name}.bin").read_bytes())


def unpack_corpus(reader: PieceReader, split: str, folder: Path, threads: int | None = None) -> None:
    """Write a packed corpus out of its pieces; streams are decoded in parallel. Does nothing where that is done.

    Args:
        threads: that decode; None: one for each processor.

    Raises:
        AudioVQError: when a stream has another length than it was packed with.
    """
    names = reader.names(f"audio/{split}/")
    done, checksum = folder / "unpacked.json", json.dumps(reader.manifest["pieces"])
    if done.is_file() and done.read_text() == checksum:
        return
    done.unlink(missing_ok=True)
    reader.extract(f"packed/{split}/", folder)
    lines = json.loads((folder / "index.json").read_text())
    total = lines[-1]["start"] + -(-lines[-1]["n_samples"] // FRAME) * FRAME
    starts = [int(Path(name).stem) for name in names]
    samples = np.memmap(folder / "samples.i16", "<i2", "w+", shape=(total,))
    audio = next(kind for kind, suffix in AUDIO.items() if names[0].endswith(suffix))

    def decode(item: tuple[str, int, int]) -> None:
        name, first, last = item
        decoded = decode_samples(reader.read(name), audio, last - first)
        if len(decoded) != last - first:
            raise AudioVQError(f"{name} has {len(decoded)} samples instead of {last - first}: pack it again")
        samples[first:last] = decoded

    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        list(pool.map(decode, zip(names, starts, [*starts[1:], total], strict=True)))
    samples.flush()
    done.write_text(checksum)
