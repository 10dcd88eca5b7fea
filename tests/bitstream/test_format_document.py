"""docs/format.md is right: its example is what is written, and a reader made of its words alone finds the codes."""

from __future__ import annotations

import io
import zlib
from pathlib import Path

import numpy as np
import soundfile

from audiovq.bitstream import encode_file
from audiovq.bitstream.speech_reader import SpeechReader
from tests.fake_codec import FakeCodec
from tests.packets import LEVEL, codes_of

DOCUMENT = Path(__file__).parents[2] / "docs" / "format.md"


class LongPackets(FakeCodec):
    packet_frames = 200


def one_second(channels=1):
    audio, out = io.BytesIO(), io.BytesIO()
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, (8000, channels))
    soundfile.write(audio, samples, 8000, format="WAV")
    audio.seek(0)
    encode_file(audio, out, LongPackets(), n_codebooks=2)
    return out.getvalue()


def test_example():
    example = DOCUMENT.read_text().split("## Example")[1].split("```")[1]
    expected = []
    for line in example.strip().splitlines():
        for token in line.split("#")[0].split():
            byte, _, times = token.partition("*")
            expected += [byte] * int(times or 1)
    data = one_second()
    assert len(expected) == len(data)
    for byte, text in zip(data, expected, strict=True):
        assert text == "xx" or int(text, 16) == byte


def test_reader_from_the_document():
    data = one_second(2)
    position = 0

    def varint():
        nonlocal position
        value = shift = 0
        while True:
            byte = data[position]
            position += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    def rows(content, channels, count, bits):
        string = "".join(f"{byte:08b}" for byte in content)
        same, string = string[: channels - 1], string[channels - 1 :]
        found = []
        for channel in range(channels):
            if channel and same[channel - 1] == "1":
                found.append(found[-1])
            else:
                found.append([int(string[i * bits : (i + 1) * bits], 2) for i in range(count)])
                string = string[count * bits :]
        return found

    assert data[:6] == b"AVQ\x02\x02\x01"
    position = 10
    length = varint()
    behind = position + length
    rate, channels, books, bits, frames, size, speaker_bits = (varint() for _ in range(7))
    speakers = rows(data[position:behind], channels, size, speaker_bits)
    header_crc = data[behind : behind + 4]
    assert zlib.crc32(data[:behind]) == int.from_bytes(header_crc, "little")
    start = position = behind + 4
    tag = varint()
    assert varint() == 0
    begin, end = position, position + (tag >> 1)
    assert tag & 1
    n_frames = varint()
    levels = data[position : position + channels]
    position += channels
    n_pitch = varint()
    position += n_pitch
    assert levels == bytes([LEVEL, 255])  # the same pitch and level in both channels
    codes = rows(data[position:end], channels, books * n_frames, bits)
    assert zlib.crc32(header_crc + data[start:end]) == int.from_bytes(data[end : end + 4], "little")
    assert end > begin
    start = position = end + 4
    assert varint() == 0
    assert varint() == 1
    assert varint() == 8000
    assert zlib.crc32(header_crc + data[start:position]) == int.from_bytes(data[position : position + 4], "little")
    assert position + 4 == len(data)
    assert (rate, frames) == (8000, 200)

    reader = SpeechReader(io.BytesIO(data))
    assert np.array_equal(reader.header.speakers, speakers)
    assert np.array_equal(codes_of(next(reader.packets())), np.array(codes).reshape(channels, books, n_frames))
