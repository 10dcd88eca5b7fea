"""A share of the fuzzing of ``python -m tests.fuzz``, and files that promise far more than they hold."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_damaged_files_of_every_kind():
    command = [sys.executable, "-m", "tests.fuzz", "--here", "--mutations", "225", "--seed", "7"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    lines = done.stdout.splitlines()
    assert not [line for line in lines if line.startswith("FAULT")]
    assert done.returncode == 0, lines[-1:]
    assert lines[-1].startswith("SUM")
    assert "'detected'" in lines[-1]


def wav(channels=1, rate=16000, bits=16, size=0xFFFFFFF0, data=bytes(3200)):
    width = channels * bits // 8 % 65536
    form = struct.pack("<HHIIHH", 1, channels, rate, rate * width % 2**32, width, bits)
    return b"RIFF\xff\xff\xff\xffWAVEfmt \x10\0\0\0" + form + b"data" + struct.pack("<I", size) + data


def flac():
    """A header that counts 2^36 - 1 samples, which are a year at 2 kHz, and no more."""
    info = struct.pack(">HH", 65535, 65535) + bytes(6)
    info += ((16000 << 44) | (0 << 41) | (15 << 36) | ((1 << 36) - 1)).to_bytes(8, "big") + bytes(16)
    return b"fLaC" + b"\x80" + len(info).to_bytes(3, "big") + info


def png(width=100_000, height=100_000):
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


def gif(width=65_535, height=65_535, frames=3):
    page = b"\x2c" + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x02\x44\x01\x00"
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6) + page * frames + b";"


def visual_avq(numbers, media):
    from audiovq.bitstream.container import ContainerWriter, Header
    from audiovq.bitstream.entropy import encode_varint

    out = io.BytesIO()
    writer = ContainerWriter(out, Header(media, b"abcd", b"".join(encode_varint(n) for n in numbers)))
    writer.write_packet(bytes(100))
    writer.finish(1)
    return out.getvalue()


BOMBS = {
    "a year of audio.wav": wav(),
    "audio of 30,000 channels.wav": wav(channels=30_000, data=bytes(60_000)),
    "audio at 4 GHz.wav": wav(rate=4_000_000_000),
    "years of audio.flac": flac(),
    "a large image.png": png(),
    "an image at the limit of Pillow.png": png(13_000, 13_000),
    "a large animation.gif": gif(),
    "an animation at the limit of images.gif": gif(8192, 8192, 300),
    "a large image.avq": visual_avq([65_535, 65_535, 1, 1, 1, 8, 1, 8192, 8192], 2),
    "a large video.avq": visual_avq([8192, 8192, 1024, 10, 1, 1, 1, 8, 1024, 256, 256], 3),
}
SCRIPT = """
import resource, sys
from audiovq.cli import main
from tests.fuzz.__main__ import bound_memory
import torch, soundfile, soxr, PIL.Image, audiovq.image, audiovq.bitstream.visual_file, audiovq.media.waveform
from tests.fuzz import test_fuzz
bound_memory()
sys.exit(max(test_fuzz.read(name) for name in sys.argv[1:]))
"""


def read(name):
    """Read a file as the commands do; 0 when that is done, 1 with one line when it is refused."""
    from audiovq.bitstream.visual_file import inspect_visual
    from audiovq.errors import AudioVQError
    from audiovq.media.images import open_video, read_image
    from audiovq.media.waveform import open_audio

    try:
        match Path(name).suffix:
            case ".avq":
                inspect_visual(name)
            case ".png":
                read_image(name)
            case ".gif":
                with open_video(name) as (_, frames):
                    next(frames)
            case _:
                with open_audio(name) as audio:
                    list(audio.blocks())
                    print(f"{name}: {audio.n_read} samples of each channel")
    except AudioVQError as error:
        print(error)
        return 1
    return 0


def test_files_that_promise_far_more_than_they_hold(tmp_path):
    for name, data in BOMBS.items():
        (tmp_path / name).write_bytes(data)
    names = [str(tmp_path / name) for name in BOMBS]
    done = subprocess.run([sys.executable, "-c", SCRIPT, *names], cwd=ROOT, capture_output=True, text=True, timeout=120)
    lines = done.stdout.splitlines()
    assert (done.returncode, len(lines)) == (1, len(BOMBS)), (done.stdout, done.stderr)
    told = dict(zip(BOMBS, lines, strict=True))
    assert told["a year of audio.wav"].endswith("1600 samples of each channel")
    assert told["audio of 30,000 channels.wav"].endswith("1 samples of each channel")
    for name, word in (
        ("audio at 4 GHz.wav", "sample rate"),
        ("years of audio.flac", "no audio samples"),
        ("a large image.png", "pixels"),
        ("an image at the limit of Pillow.png", "pixels"),
        ("a large animation.gif", "pixels"),
        ("an animation at the limit of images.gif", "pixels"),
        ("a large image.avq", "pixels in a packet"),
        ("a large video.avq", "pixels in a packet"),
    ):
        assert word in told[name], told[name]


@pytest.mark.parametrize("samples", [0, 1, 16_000 * 86_400 * 365, (1 << 62) - 1])
def test_speech_that_promises_a_year(samples):
    from audiovq.bitstream import decode_file, encode_file
    from audiovq.bitstream.container import ContainerReader, ContainerWriter, End, Packet
    from audiovq.errors import AudioVQError
    from tests.fake_codec import FakeCodec

    coded, forged = io.BytesIO(), io.BytesIO()
    encode_file(io.BytesIO(wav(size=32_000, data=bytes(32_000))), coded, FakeCodec())
    reader = ContainerReader(io.BytesIO(coded.getvalue()))
    writer = ContainerWriter(forged, reader.header)
    for record in reader.records(lambda length, short: True):
        if isinstance(record, Packet):
            writer.write_packet(record.payload, record.short)
        elif isinstance(record, End):
            writer.finish(samples)
    for conceal in (False, True):
        with pytest.raises(AudioVQError, match="length does not fit"):
            decode_file(io.BytesIO(forged.getvalue()), io.BytesIO(), FakeCodec(), conceal=conceal)
