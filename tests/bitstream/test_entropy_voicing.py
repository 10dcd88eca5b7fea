"""Entropy coding and pitch: which frames are voiced is known before their codes are."""

from __future__ import annotations

import io

import numpy as np

from audiovq.bitstream import load_encoded, save_encoded
from audiovq.bitstream.entropy_model import load_entropy_model
from audiovq.conversion.files import swap_speaker
from audiovq.conversion.pitch import PitchMover
from audiovq.interfaces import EncodedSpeech, Packet
from tests.bitstream.entropy_models import SmallCodec, chosen_codes, coder_of
from tests.bitstream.test_entropy import header

VOICING = coder_of(SmallCodec(), offsets=(-2, 0, 1))


def test_voicing_is_part_of_what_codes_are_coded_with():
    rng = np.random.default_rng(9)
    rows, voiced = rng.integers(0, 16, (2, 3, 20)), rng.integers(0, 2, (2, 20)).astype(np.uint8)
    data = VOICING.encode_codes(rows, voiced)
    assert np.array_equal(VOICING.decode_codes(data, 2, 3, 20, voiced), rows)
    assert not np.array_equal(VOICING.decode_codes(data, 2, 3, 20, 1 - voiced), rows)
    assert abs(8 * len(data) - sum(VOICING.bits(*pair) for pair in zip(rows, voiced, strict=True))) < 9
    assert VOICING.bits(rows[0], voiced[0]) != VOICING.bits(rows[0])


def test_channels_with_the_same_codes_and_other_pitch_come_back():
    """Equal codes are stored once, with the voicing of the channel that they are stored for."""
    rng = np.random.default_rng(10)
    pitch = rng.integers(0, 3, (3, 20)) * 40
    codes = [chosen_codes(VOICING, 3, 20, True)] * 2 + [chosen_codes(VOICING, 3, 20, True)[:, ::-1].copy()]
    packets = [Packet(*parts) for parts in zip(codes, pitch, (3, 4, 5), strict=True)]
    top = header(VOICING, 3, channels=3)
    payload, short = top.pack(packets, VOICING)
    found = top.unpack(payload, short, VOICING)
    for one, other in zip(found, packets, strict=True):
        assert np.array_equal(one.codes, other.codes)
        assert np.array_equal(one.pitch, other.pitch)
        assert one.level == other.level


def test_the_voicing_that_a_model_sees_is_in_its_file(tmp_path):
    assert VOICING.can_code(3, 4, 32, 4)
    VOICING.model.save(tmp_path)
    loaded = load_entropy_model(tmp_path, VOICING.model.model_hash)
    assert loaded.identity == VOICING.model.identity
    assert loaded.network.voicing_offsets.tolist() == [-2, 0, 1]


def test_moving_the_pitch_of_a_file_leaves_its_codes_readable(tmp_path):
    VOICING.model.save(tmp_path)
    codec = SmallCodec()
    codec.folder = tmp_path
    pitch = np.where(np.arange(40) // 5 % 2, 60 + np.arange(40) // 4, 0)
    voiced = (pitch > 0).astype(np.uint8)
    codes = np.concatenate([chosen_codes(VOICING, 3, 20, True, voiced[i : i + 20]) for i in (0, 20)], axis=1)
    arrays = (codes[None], np.zeros((1, 32)), np.array([40 * 320]), pitch[None], np.full((1, 2), 160))
    encoded, file, moved = EncodedSpeech(*arrays), io.BytesIO(), io.BytesIO()
    save_encoded(encoded, file, codec)
    packed = io.BytesIO()
    save_encoded(encoded, packed, codec, entropy_coding=False)
    assert len(file.getvalue()) < len(packed.getvalue()) - 10
    file.seek(0)
    swap_speaker(file, moved, np.full(32, 3), mover=lambda _: PitchMover(5.0, None))
    moved.seek(0)
    found = load_encoded(moved, codec)
    assert np.array_equal(found.codes[0], codes)
    assert np.array_equal(found.pitch[0], np.where(pitch > 0, pitch + 20, 0))
    assert (found.speaker == 3).all()
