"""Valid files to damage, all made by encoding, and what reading each of them means."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from PIL import Image

from audiovq.bitstream import decode_file, encode_file, inspect_file, save_encoded
from audiovq.bitstream.entropy import coders_of
from audiovq.bitstream.visual_file import decode_visual, encode_image, encode_video, inspect_visual
from audiovq.conversion.files import swap_speaker
from audiovq.image import ImageCodec
from audiovq.interfaces import EncodedSpeech
from audiovq.media.images import open_video, read_image
from audiovq.media.waveform import open_audio
from tests.bitstream.entropy_models import SmallCodec, coder_of
from tests.codec.tiny import make_codec, speech_like
from tests.fake_codec import FakeCodec

RATE = 16000
SIZES = {"speech of the codec": 8}
"""Of speaker vectors, where it is not 32."""


@dataclass
class Seed:
    """A valid file.

    Attributes:
        name: for reports.
        data: its bytes.
        reads: what to do with a damaged one; each gives bytes, or raises.
        is_checked: whether damage must be detected: then other bytes than those of the valid file are a fault.
    """

    name: str
    data: bytes
    reads: list[Callable[[bytes], bytes]]
    is_checked: bool = False


def make_seeds() -> list[Seed]:
    """One of each kind."""
    return [*_speech(), *_visual(), *_sound_files(), *_image_files()]


def _voice(n: int, channels: int = 1) -> np.ndarray:
    rng, time = np.random.default_rng(0), np.arange(n) / RATE
    tones = [np.sin(2 * np.pi * (150 + 90 * c) * time) for c in range(channels)]
    return (0.3 * np.stack(tones, axis=1) + 0.02 * rng.standard_normal((n, channels))).astype(np.float32)


def _wav(samples: np.ndarray, rate: int = RATE, container: str = "WAV", coding: str = "PCM_16") -> bytes:
    stream = io.BytesIO()
    soundfile.write(stream, samples, rate, format=container, subtype=coding)
    return stream.getvalue()


def _speech() -> list[Seed]:
    fake, small = FakeCodec(), SmallCodec()
    coder = coders_of[small] = coder_of(small)
    files = []
    for name, samples, rate in (("speech", _voice(30_000), RATE), ("stereo speech", _voice(50_000, 2), 44_100)):
        coded = io.BytesIO()
        encode_file(io.BytesIO(_wav(samples, rate)), coded, fake)
        files.append((name, fake, coded.getvalue()))
    rng = np.random.default_rng(0)
    codes, speakers = rng.integers(0, 16, (2, 3, 55)), rng.integers(0, 16, (2, 32))
    pitch, level = rng.integers(0, 90, (2, 55)) * (rng.random((2, 55)) < 0.6), rng.integers(0, 128, (2, 3))
    for entropy_coding in (False, True):
        coded = io.BytesIO()
        encoded = EncodedSpeech(codes, speakers, [55 * small.hop_length] * 2, pitch, level)
        save_encoded(encoded, coded, small, entropy_coding)
        files.append((f"speech, {'coded' if entropy_coding else 'packed'}", small, coded.getvalue()))
    real, coded = make_codec(), io.BytesIO()
    encode_file(io.BytesIO(_wav(speech_like(1.5)[:, None])), coded, real)
    files.append(("speech of the codec", real, coded.getvalue()))
    seeds = []
    for name, codec, data in files:

        def decode(data: bytes, codec: Any = codec, conceal: bool = False) -> bytes:
            out = io.BytesIO()
            decode_file(io.BytesIO(data), out, codec, conceal=conceal)
            return out.getvalue()

        def inspect(data: bytes, codec: Any = codec) -> bytes:
            found = inspect_file(io.BytesIO(data), lambda *names: coder, lambda name: (RATE, codec.hop_length))
            return b"damaged" if found.damage else repr(found).encode()

        def swap(data: bytes, size: int = SIZES.get(name, 32)) -> bytes:
            out = io.BytesIO()
            swap_speaker(io.BytesIO(data), out, np.zeros(size, np.int64))
            return out.getvalue()

        seeds.append(Seed(name, data, [decode, swap], is_checked=True))
        seeds.append(Seed(f"{name}, concealed", data, [lambda d, f=decode: f(d, conceal=True), inspect]))
    return seeds


def _visual() -> list[Seed]:
    torch.manual_seed(0)
    levels = [
        {"stride": 8, "latent_dim": 6, "quantizer": {"codebook_size": 16}},
        {"stride": 4, "latent_dim": 6, "quantizer": {"codebook_size": 30, "n_codebooks": 2}},
    ]
    codec = ImageCodec(levels, channels=16, residual=8, n_residual=1, tile=64).eval()
    codec.model_hash = b"abcd"

    def decode(data: bytes) -> bytes:
        out = io.BytesIO()
        decode_visual(io.BytesIO(data), out, codec)
        return out.getvalue()

    def inspect(data: bytes) -> bytes:
        found = inspect_visual(io.BytesIO(data))
        return b"" if found.damage else repr(found).encode()

    frames = np.random.default_rng(0).integers(0, 256, (19, 20, 27, 3), dtype=np.uint8)
    pages = [Image.fromarray(frame) for frame in frames]
    seeds = []
    for name, encode, options in (
        ("image", encode_image, {"format": "PNG"}),
        ("video", encode_video, {"format": "GIF", "save_all": True, "append_images": pages[1:], "duration": 50}),
    ):
        source, coded = io.BytesIO(), io.BytesIO()
        pages[0].save(source, **options)
        encode(io.BytesIO(source.getvalue()), coded, codec)
        seeds.append(Seed(name, coded.getvalue(), [decode], is_checked=True))
        seeds.append(Seed(f"facts of {name}", coded.getvalue(), [inspect]))
    return seeds


class _Pipe:
    def __init__(self, data: bytes) -> None:
        self.read = io.BytesIO(data).read


def _read_sound(data: bytes) -> bytes:
    with open_audio(_Pipe(data)) as audio:  # type: ignore[arg-type]
        for _ in audio.blocks(mono=audio.n_channels > 1):
            pass
        return repr((audio.n_read, audio.remarks)).encode()


def _read_sound_file(data: bytes) -> bytes:
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        with open_audio(Path(file.name)) as audio:
            for _ in audio.blocks():
                pass
            return repr((audio.n_read, audio.remarks)).encode()


def _sound_files() -> list[Seed]:
    formats = [
        *(("WAV", c) for c in ("PCM_16", "PCM_24", "FLOAT", "ULAW", "MS_ADPCM", "GSM610")),
        ("WAVEX", "PCM_16"),
        ("FLAC", "PCM_16"),
        ("OGG", "VORBIS"),
        ("OGG", "OPUS"),
        ("MP3", "MPEG_LAYER_III"),
        ("AIFF", "PCM_16"),
        ("AU", "PCM_16"),
        ("CAF", "ALAC_16"),
        ("W64", "PCM_16"),
        ("RF64", "PCM_16"),
    ]
    seeds = []
    for container, coding in formats:
        data = _wav(_voice(4000, 1 if coding in ("GSM610", "MS_ADPCM") else 2), RATE, container, coding)
        if container == "WAV":
            data = data[:12] + b"LIST\x05\0\0\0abcde\0" + data[12:]
        seeds.append(Seed(f"{container} {coding}", data, [_read_sound, _read_sound_file]))
    try:
        from tests.media.test_audio_files import media
    except ImportError:
        return seeds
    for container, codec, rate in (("mp4", "aac", RATE), ("webm", "libopus", 48_000), ("adts", "aac", RATE)):
        seeds.append(Seed(f"{container} {codec}", media(container, codec, 0.3, rate=rate), [_read_sound_file]))
    return seeds


def _image_files() -> list[Seed]:
    def read(data: bytes) -> bytes:
        return read_image(io.BytesIO(data)).tobytes()

    def play(data: bytes) -> bytes:
        with open_video(io.BytesIO(data)) as (_, frames):
            return b"".join(frame.tobytes() for frame in frames)

    page = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 27, 3), dtype=np.uint8))
    seeds = []
    for name, reader in (("PNG", read), ("JPEG", read), ("WEBP", read), ("GIF", play)):
        out = io.BytesIO()
        page.save(out, name, **({"save_all": True, "append_images": [page.rotate(90)] * 3} if name == "GIF" else {}))
        seeds.append(Seed(f"{name} file", out.getvalue(), [reader]))
    return seeds
