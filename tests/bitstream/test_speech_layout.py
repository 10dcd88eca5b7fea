from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from audiovq.bitstream.container import FLAG_PITCH, DamagedError, Header
from audiovq.bitstream.speech_layout import SpeechHeader, pack_side
from audiovq.errors import AudioVQError
from audiovq.interfaces import Packet
from tests.packets import codes_of, packets_of, side_size


def header(speakers, books=4, bits=10, frames=20, rate=44100, speaker_bits=4):
    return SpeechHeader(b"hash", rate, books, bits, frames, np.asarray(speakers), speaker_bits)


def test_header_round_trip_and_size():
    rng = np.random.default_rng(0)
    for _ in range(100):
        channels, size, bits = (int(v) for v in rng.integers(1, (9, 40, 9)))
        speakers = rng.integers(0, 1 << bits, (channels, size))
        speakers[int(rng.integers(channels))] = speakers[0]
        books, code_bits, frames, rate = (int(v) for v in rng.integers((1, 1, 1, 1000), (16, 17, 300, 768_001)))
        written = header(speakers, books, code_bits, frames, rate, bits)
        found = SpeechHeader.from_container(written.to_container())
        assert np.array_equal(found.speakers, speakers)
        assert (found.sample_rate, found.n_codebooks, found.code_bits) == (rate, books, code_bits)
        assert (found.packet_frames, found.speaker_bits, found.model_hash) == (frames, bits, b"hash")
    assert len(header(np.zeros((1, 32), int), rate=16000, frames=200).to_container().to_bytes()) == 40


def test_packets_round_trip():
    rng = np.random.default_rng(1)
    for _ in range(200):
        channels, books, bits, n_frames = (int(v) for v in rng.integers(1, (6, 9, 13, 21)))
        layout = header(np.zeros((channels, 3), int), books, bits)
        codes = rng.integers(0, 1 << bits, (channels, books, n_frames))
        for i in range(1, channels):
            if rng.random() < 0.5:
                codes[i] = codes[i - 1]
        payload, short = layout.pack(packets_of(codes))
        assert short == (n_frames < 20)
        assert layout.valid_length(len(payload), short)
        assert np.array_equal(codes_of(layout.unpack(payload, short)), codes)


def test_equal_channels_cost_a_bit():
    codes = np.random.default_rng(2).integers(0, 1024, (1, 4, 20))
    mono = len(header(np.zeros((1, 32), int)).pack(packets_of(codes))[0])
    many = len(header(np.zeros((8, 32), int)).pack(packets_of(np.repeat(codes, 8, axis=0)))[0])
    assert mono == 4 * 20 * 10 // 8 + side_size(20)
    assert many == mono - side_size(20) + side_size(20, 8) + 1


def test_wrong_sizes_and_filling_are_damage():
    layout = header(np.zeros((2, 3), int), books=1, bits=7)
    payload, short = layout.pack(packets_of(np.ones((2, 1, 8), int)))
    for wrong in (payload + b"\0", payload[:-1], payload[:-1] + b"\x01", b"\x00" + payload[1:], b"\x14" + payload[1:]):
        with pytest.raises(DamagedError):
            layout.unpack(wrong, short)


@pytest.mark.parametrize(
    "limits",
    [
        {"rate": 999},
        {"rate": 768_001},
        {"books": 65},
        {"bits": 17},
        {"frames": 10_001},
        {"books": 64, "frames": 9_999, "channels": 255},
    ],
)
def test_limits(limits):
    with pytest.raises(AudioVQError, match="the format has"):
        header(np.zeros((limits.pop("channels", 1), 32), int), **limits)


def test_header_bodies_are_checked_before_anything_is_made_of_them():
    rng = np.random.default_rng(3)
    good = header(rng.integers(0, 16, (2, 32))).to_container().body
    for _ in range(2000):
        body = bytearray(good[: int(rng.integers(0, len(good) + 1))])
        for _ in range(int(rng.integers(0, 4))):
            if body:
                body[int(rng.integers(len(body)))] = int(rng.integers(256))
        try:
            SpeechHeader.from_container(Header(1, b"hash", bytes(body), FLAG_PITCH))
        except AudioVQError:
            continue
    with pytest.raises(AudioVQError, match="not speech"):
        SpeechHeader.from_container(Header(2, b"hash", good))


@pytest.mark.parametrize("repeats", [(False, False), (True, False), (False, True), (True, True)])
def test_level_and_pitch_of_a_channel_that_repeats_take_a_byte(repeats):
    rng = np.random.default_rng(4)
    packets = [Packet(rng.integers(0, 8, (1, 20)), rng.integers(0, 176, 20), 120)]
    for i, same in enumerate(repeats):
        own = Packet(rng.integers(0, 8, (1, 20)), rng.integers(0, 176, 20), 121 + i)
        packets.append(replace(own, pitch=packets[-1].pitch, level=packets[-1].level) if same else own)
    layout = header(np.zeros((3, 3), int), books=1, bits=3)
    payload, short = layout.pack(packets)
    for one, other in zip(layout.unpack(payload, short), packets, strict=True):
        assert np.array_equal(one.pitch, other.pitch)
        assert (one.codes.tolist(), one.level) == (other.codes.tolist(), other.level)
    if all(repeats):
        assert len(pack_side(packets)) == len(pack_side(packets[:1])) + 2
    with pytest.raises(DamagedError):
        layout.unpack(b"\xff" + payload[1:], short)
