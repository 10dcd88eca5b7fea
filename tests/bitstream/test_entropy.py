from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from constriction import stream
from safetensors.numpy import load_file

from audiovq.bitstream import decode_file, encode_file, entropy, inspect_file, load_encoded, save_encoded
from audiovq.bitstream.container import DamagedError
from audiovq.bitstream.entropy import EntropyCoder, seal, to_words, whole_categorical
from audiovq.bitstream.entropy_kernels import decode_rows, distributions, make_memory
from audiovq.bitstream.entropy_model import FILE_NAME, Predictor, load_entropy_model
from audiovq.bitstream.speech_layout import SpeechHeader
from audiovq.bitstream.speech_reader import LostSpeech, SpeechReader
from audiovq.conversion.files import swap_speaker
from audiovq.errors import AudioVQError
from audiovq.interfaces import EncodedSpeech
from tests.bitstream.entropy_models import SmallCodec, chosen_codes, coder_of, random_model, with_entropy
from tests.fake_codec import FakeCodec
from tests.packets import LEVEL, PITCH, codes_of, packets_of, side_size

GOLDEN = Path(__file__).parent / "golden"
BIG, SMALL = coder_of(FakeCodec()), coder_of(SmallCodec())


def header(coder, n_books, channels=1, frames=20, speakers=None):
    if speakers is None:
        speakers = np.random.default_rng(3).integers(0, 16, (channels, 32))
    bits = (coder.model.codebook_size - 1).bit_length()
    numbers = (16000, n_books, bits, frames, speakers, 4)
    return SpeechHeader(coder.model.model_hash, *numbers, entropy_coded=True, entropy_id=coder.model.identity)


@pytest.mark.parametrize("offsets", [(), (-3, 0, 1, 25)])
@pytest.mark.parametrize("n_books", [1, 3, 8])
def test_writers_and_readers_compute_the_same_weights(offsets, n_books):
    """All frames at once by matrices, and frame by frame in whole numbers."""
    network = random_model(FakeCodec(), 5, offsets=offsets).network
    rng = np.random.default_rng(n_books)
    codes, voiced = rng.integers(0, 1024, (n_books, 20)), rng.integers(0, 2, 20).astype(np.uint8)
    expected = np.empty((codes.size, 1024), np.float32)
    distributions(network, make_memory(network, 20), voiced, codes, expected)
    assert np.array_equal(Predictor(network).weights(voiced, codes), expected)


@pytest.mark.parametrize("offsets", [(0,), (-3, 0, 1, 25)])
def test_codes_are_decoded_alike_with_and_without_kernels(offsets):
    coder = EntropyCoder(random_model(FakeCodec(), 5, offsets=offsets))
    rng, network = np.random.default_rng(1), coder.model.network
    for shape in ((1, 1, 1), (3, 8, 20), (1, 3, 41)):
        rows, voiced = rng.integers(0, 1024, shape), rng.integers(0, 2, (shape[0], shape[2])).astype(np.uint8)
        data = coder.encode_codes(rows, voiced)
        for cut in (len(data), len(data) // 2, 0):  # of what is cut off, zeros are read
            some = data[:cut]
            found, expected = np.zeros((2, *shape), np.int64)
            read = Predictor(network).decode_rows(voiced, some, found)
            memory = make_memory(network, shape[2])
            assert read == decode_rows(network, memory, voiced, np.frombuffer(some, np.uint8), expected)
            assert np.array_equal(found, expected)
        assert np.array_equal(found, rows) == (cut == len(data))


def test_bytes_that_are_no_codes_are_refused_alike():
    coder = EntropyCoder(random_model(SmallCodec(), 5))
    network, voiced = coder.model.network, np.zeros((1, 20), np.uint8)
    outcomes = set()
    for seed in range(40):
        data = bytes([255] * 8) + np.random.default_rng(seed).bytes(30)
        found, expected = np.zeros((2, 1, 3, 20), np.int64)
        read = Predictor(network).decode_rows(voiced, data, found)
        memory = make_memory(network, 20)
        assert read == decode_rows(network, memory, voiced, np.frombuffer(data, np.uint8), expected)
        assert np.array_equal(found, expected)
        outcomes.add(read)
    assert -1 in outcomes


def test_kernels_are_loaded_when_there_is_enough_to_do(monkeypatch):
    coder = EntropyCoder(random_model(SmallCodec(), 5))
    loaded = []
    monkeypatch.setattr(entropy, "kernels", lambda: loaded.append(True))
    rows = np.random.default_rng(1).integers(0, 16, (1, 3, 20))
    coder.decode_codes(coder.encode_codes(rows), 1, 3, 20)
    assert not loaded
    monkeypatch.setattr(entropy, "WITHOUT_KERNELS", {"encode": 100, "decode": 100})
    assert np.array_equal(coder.decode_codes(coder.encode_codes(rows), 1, 3, 20), rows)
    assert len(loaded) == 2


def packed_length(codes, bits):
    """Bytes of the rows when no two are alike."""
    return -(-(len(codes) - 1 + codes.size * bits) // 8)


def speech(codes, seed=0):
    """An `EncodedSpeech` of codes (channels, K, F)."""
    channels, _, n_frames = codes.shape
    speakers = np.random.default_rng(seed).integers(0, 16, (channels, 32))
    side = np.full((channels, n_frames), PITCH), np.full((channels, -(-n_frames // 20)), LEVEL)
    return EncodedSpeech(codes, speakers, np.full(channels, n_frames * 320), *side)


def saved(encoded, codec, **options):
    out = io.BytesIO()
    save_encoded(encoded, out, codec, **options)
    return out.getvalue()


def likely(n_frames, channels=1):
    """Codes of the small codec, in packets of 20 frames that each are likely."""
    packets = [chosen_codes(SMALL, 3, min(20, n_frames - i), True) for i in range(0, n_frames, 20)]
    return np.stack([np.roll(np.concatenate(packets, axis=1), 20 * c, axis=1) for c in range(channels)])


@pytest.mark.parametrize("coder", [BIG, SMALL], ids=["1024", "16"])
@pytest.mark.parametrize("channels", [1, 3])
def test_codes_come_back_whatever_they_are(coder, channels):
    values = coder.model.codebook_size
    rng = np.random.default_rng(0)
    for n_books in range(1, coder.model.n_codebooks + 1):
        top = header(coder, n_books, channels)
        for n_frames in (1, 2, 19, 20):
            shape = (channels, n_books, n_frames)
            for codes in (
                rng.integers(0, values, shape),
                np.zeros(shape, np.int64),
                np.full(shape, values - 1),
                np.broadcast_to(np.where(np.arange(n_frames) % 2, 0, values - 1), shape),
            ):
                payload, short = top.pack(packets_of(codes), coder)
                assert top.valid_length(len(payload), short)
                assert np.array_equal(codes_of(top.unpack(payload, short, coder)), codes)


@pytest.mark.parametrize("coder", [BIG, SMALL], ids=["1024", "16"])
def test_likely_codes_are_short_and_the_least_likely_are_packed(coder):
    bits = (coder.model.codebook_size - 1).bit_length()
    top = header(coder, 3)
    good, bad = chosen_codes(coder, 3, 20, True)[None], chosen_codes(coder, 3, 20, False)[None]
    good_payload, bad_payload = top.pack(packets_of(good), coder)[0], top.pack(packets_of(bad), coder)[0]
    side, voiced = side_size(20), np.ones((1, 20), np.uint8)
    assert len(good_payload) - side < 0.7 * packed_length(good, bits)
    assert len(bad_payload) - side == packed_length(bad, bits)
    assert len(coder.encode_codes(bad, voiced)) > len(bad_payload) - side
    for codes, payload in ((good, good_payload), (bad, bad_payload)):
        assert np.array_equal(codes_of(top.unpack(payload, False, coder)), codes)
    assert np.array_equal(coder.decode_codes(coder.encode_codes(bad, voiced), 1, 3, 20, voiced), bad)
    assert abs(8 * (len(good_payload) - side) - coder.bits(good[0], voiced[0])) < 9


def test_equal_channels_cost_a_bit():
    codes = chosen_codes(SMALL, 3, 20, True)[None]
    alone, _ = header(SMALL, 3).pack(packets_of(codes), SMALL)
    three = header(SMALL, 3, channels=3)
    payload, short = three.pack(packets_of(np.repeat(codes, 3, axis=0)), SMALL)
    assert len(payload) - side_size(20, 3) == len(alone) - side_size(20) + 1
    assert np.array_equal(codes_of(three.unpack(payload, short, SMALL)), np.repeat(codes, 3, axis=0))


def test_rows_are_coded_in_a_batch_as_alone():
    rows = np.random.default_rng(4).integers(0, 1024, (4, 5, 20))
    together = BIG.decode_codes(BIG.encode_codes(rows), 4, 5, 20)
    for row, found in zip(rows, together, strict=True):
        assert np.array_equal(BIG.decode_codes(BIG.encode_codes(row[None]), 1, 5, 20)[0], row)
        assert np.array_equal(found, row)
    bits = [BIG.bits(row) for row in rows]
    assert abs(8 * len(BIG.encode_codes(rows)) - sum(bits)) < 9


def test_the_library_decodes_what_the_kernel_decodes():
    rows = np.random.default_rng(6).integers(0, 16, (2, 3, 20))
    decoder = stream.queue.RangeDecoder(to_words(SMALL.encode_codes(rows)))
    network = SMALL.model.network
    weights = np.zeros((60, 16), np.float32)
    for row in rows:
        distributions(network, make_memory(network, 20), np.zeros(20, np.uint8), row, weights)
        assert (weights.sum(axis=1) == (1 << 24) - 16).all()
        found = decoder.decode(whole_categorical(), weights)
        assert np.array_equal(found.reshape(20, 3).T, row)


def test_strings_are_as_short_as_can_be():
    weights = np.array([[1000, (1 << 24) - 16 - 1050, 50] + [0] * 13], np.float32)
    rng = np.random.default_rng(1)
    for n in range(60):
        symbols = rng.choice(3, n + 1, p=[0.3, 0.5, 0.2]).astype(np.int32)
        table = np.repeat(weights, n + 1, axis=0)
        encoder = stream.queue.RangeEncoder()
        encoder.encode(symbols, whole_categorical(), table)

        def decodes(data, symbols=symbols, table=table):
            try:
                found = stream.queue.RangeDecoder(to_words(data)).decode(whole_categorical(), table)
            except AssertionError:
                return False
            return np.array_equal(found, symbols)

        data = seal(encoder)
        assert decodes(data)
        if len(data) > 1:
            near = int.from_bytes(data[:-1], "big")
            for value in range(max(near - 2, 0), near + 3):
                assert not decodes(value.to_bytes(len(data), "big")[1:])


@pytest.mark.parametrize("channels", [1, 2, 9])
def test_speakers_come_back(channels):
    rng = np.random.default_rng(7)
    for speakers in (rng.integers(0, 16, (channels, 32)), np.full((channels, 32), 15)):
        top = header(BIG, 2, speakers=speakers)
        for coder in (BIG, None):
            raw = top.to_container(coder)
            found = SpeechHeader.from_container(raw)
            assert found.n_channels == channels
            assert np.array_equal(found.resolve(BIG).speakers, speakers)
    best = header(BIG, 2, speakers=np.repeat(BIG.model.speaker.argmax(axis=1)[None], channels, axis=0))
    assert len(best.to_container(BIG).body) < len(best.to_container().body)
    assert np.array_equal(SpeechHeader.from_container(best.to_container(BIG)).resolve(BIG).speakers, best.speakers)


PROGRAM = """
import hashlib, numpy as np, torch, sys
sys.path.insert(0, sys.argv[1])
from tests.bitstream.entropy_models import coder_of
from tests.fake_codec import FakeCodec
torch.set_num_threads(int(sys.argv[2]))
coder = coder_of(FakeCodec(), width=48, hidden=64, dim=32)
rows = np.random.default_rng(8).integers(0, 1024, (2, 8, 20))
data = coder.encode_codes(rows)
assert np.array_equal(coder.decode_codes(data, 2, 8, 20), rows)
print(hashlib.sha256(data).hexdigest())
"""


def test_the_same_bytes_in_processes_with_other_settings():
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
    found = set()
    for threads, more in ((1, {"OPENBLAS_CORETYPE": "Prescott", "NUMBA_CPU_NAME": "generic"}), (2, {})):
        environment = {**os.environ, **dict.fromkeys(names, str(threads)), **more}
        command = [sys.executable, "-c", PROGRAM, str(Path(__file__).parents[2]), str(threads)]
        found.add(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
    coder = coder_of(FakeCodec(), width=48, hidden=64, dim=32)
    rows = np.random.default_rng(8).integers(0, 1024, (2, 8, 20))
    found.add(hashlib.sha256(coder.encode_codes(rows)).hexdigest() + "\n")
    assert len(found) == 1


def test_files_of_both_kinds_hold_the_same(tmp_path):
    codec, encoded = with_entropy(SmallCodec(), tmp_path), speech(likely(47, channels=2))
    coded, packed = saved(encoded, codec), saved(encoded, codec, entropy_coding=False)
    assert len(coded) < 0.85 * len(packed)
    assert (coded[4], packed[4]) == (3, 2)
    for data in (coded, packed):
        found = load_encoded(io.BytesIO(data), codec)
        assert torch.equal(found.codes, encoded.codes)
        assert torch.equal(found.speaker, encoded.speaker)
    sounds = []
    for data in (coded, packed):
        out = io.BytesIO()
        decode_file(io.BytesIO(data), out, codec)
        sounds.append(out.getvalue())
    assert sounds[0] == sounds[1]


def test_a_model_without_an_entropy_model_writes_packed_files(tmp_path):
    encoded = speech(likely(30))
    for folder in (None, tmp_path):
        codec = SmallCodec()
        codec.folder = folder
        data = saved(encoded, codec)
        assert data[4] == 2
        assert torch.equal(load_encoded(io.BytesIO(data), codec).codes, encoded.codes)


def test_an_entropy_model_of_other_weights_is_left_alone(tmp_path):
    with_entropy(SmallCodec("other"), tmp_path)
    codec = SmallCodec()
    codec.folder = tmp_path
    assert load_entropy_model(tmp_path, codec.model_hash) is None
    assert saved(speech(likely(30)), codec)[4] == 2


def test_a_coded_file_needs_its_entropy_model(tmp_path):
    data = saved(speech(likely(30)), with_entropy(SmallCodec(), tmp_path))
    with pytest.raises(AudioVQError, match=r"has no entropy\.safetensors"):
        load_encoded(io.BytesIO(data), SmallCodec())


def test_a_coded_file_tells_its_entropy_model_from_another_one(tmp_path):
    """Of the same codec: its codes would be others, and no checksum would notice."""
    data = saved(speech(likely(30)), with_entropy(SmallCodec(), tmp_path))
    with pytest.raises(AudioVQError, match="was coded with entropy model"):
        load_encoded(io.BytesIO(data), with_entropy(SmallCodec(), tmp_path, seed=1))


def test_every_flipped_bit_is_noticed(tmp_path):
    codec = with_entropy(SmallCodec(), tmp_path)
    data = saved(speech(likely(47)), codec)
    for bit in range(8 * len(data)):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(AudioVQError):
            load_encoded(io.BytesIO(bytes(changed)), codec)


def test_a_lost_packet_takes_no_other_with_it(tmp_path):
    codec, codes = with_entropy(SmallCodec(), tmp_path), likely(100)
    data = saved(speech(codes), codec)
    for place in range(47, len(data) - 8, 9):
        changed = bytearray(data)
        changed[place] ^= 0x55
        reader = SpeechReader(io.BytesIO(bytes(changed)))
        reader.expect(codec)
        items = list(reader.packets(conceal=True))
        assert sum(isinstance(item, LostSpeech) for item in items) == 1
        for i, item in enumerate(items):
            if not isinstance(item, LostSpeech):
                assert np.array_equal(item[0].codes, codes[0, :, 20 * i : 20 * i + 20])


def test_any_bytes_are_codes_or_an_error():
    rng = np.random.default_rng(9)
    top = header(SMALL, 3)
    for n in range(1, 30):
        for payload in (rng.bytes(n), b"\0" * n, b"\xff" * n):
            try:
                codes = codes_of(top.unpack(payload, False, SMALL))
            except DamagedError:
                continue
            assert codes.min() >= 0
            assert codes.max() < 16


def test_a_string_longer_than_what_is_read_is_an_error():
    data = SMALL.encode_codes(chosen_codes(SMALL, 3, 20, True)[None])
    assert SMALL.decode_codes(data + b"\0" * 12, 1, 3, 20) is None


def test_bytes_do_not_depend_on_how_the_audio_arrives(tmp_path):
    import soundfile

    codec = with_entropy(FakeCodec(), tmp_path)
    audio = io.BytesIO()
    soundfile.write(audio, np.random.default_rng(2).uniform(-0.5, 0.5, 20_000), 16000, format="WAV")

    class Dribble(io.BytesIO):
        def read(self, size=-1):
            return super().read(min(size, 700) if size > 0 else 700)

    found = set()
    for kind in (io.BytesIO, Dribble):
        out = io.BytesIO()
        encode_file(kind(audio.getvalue()), out, codec)
        found.add(out.getvalue())
    assert len(found) == 1
    assert next(iter(found))[4] == 3


def test_facts_are_told_with_and_without_the_model(tmp_path):
    codec = with_entropy(SmallCodec(), tmp_path)
    encoded = speech(likely(47))
    encoded.speaker[:] = torch.from_numpy(SMALL.model.speaker.argmax(axis=1))
    data = saved(encoded, codec)
    without = inspect_file(io.BytesIO(data))
    known = inspect_file(io.BytesIO(data), lambda model_hash: SMALL if model_hash == codec.model_hash else None)
    packed = inspect_file(io.BytesIO(saved(encoded, codec, entropy_coding=False)))
    assert (without.coding, known.coding, packed.coding) == ("entropy", "entropy", "packed")
    assert without.speakers is None
    assert known.speakers == packed.speakers == encoded.speaker.tolist()
    assert without.frames == known.frames == packed.frames == 47
    assert known.coded_bits_per_code < 0.8 * packed.coded_bits_per_code
    assert without.damage is None


def test_another_speaker_leaves_coded_packets_alone(tmp_path):
    codec, encoded = with_entropy(SmallCodec(), tmp_path), speech(likely(47, channels=2))
    vector = np.arange(32) % 16
    out = io.BytesIO()
    swap_speaker(io.BytesIO(saved(encoded, codec)), out, vector)
    found = load_encoded(io.BytesIO(out.getvalue()), codec)
    assert torch.equal(found.codes, encoded.codes)
    assert np.array_equal(found.speaker.numpy(), np.stack([vector, vector]))


class TestModelFile:
    def test_comes_back(self, tmp_path):
        model = random_model(SmallCodec())
        model.save(tmp_path)
        found = load_entropy_model(tmp_path, model.model_hash)
        assert np.array_equal(found.speaker, model.speaker)
        assert found.identity == model.identity != random_model(SmallCodec(), seed=1).identity
        for name, array in model.network._asdict().items():
            assert np.array_equal(getattr(found.network, name), array), name

    def test_cut_off(self, tmp_path):
        path = random_model(SmallCodec()).save(tmp_path)
        data = path.read_bytes()
        for length in (0, 4, 30, len(data) // 2, len(data) - 1):
            path.write_bytes(data[:length])
            with pytest.raises(AudioVQError, match=FILE_NAME):
                load_entropy_model(tmp_path, SmallCodec().model_hash)

    def test_altered_bytes(self, tmp_path):
        """In the tensors, in their names, types and places, and in the model's hash, whose change would end coding."""
        model = random_model(SmallCodec())
        path = model.save(tmp_path)
        data = path.read_bytes()
        first = 8 + int.from_bytes(data[:8], "little")
        places = [*range(first, len(data), 101), len(data) - 1]
        places += [data.index(text) + 1 for text in (model.model_hash.hex().encode(), b"I32", b"embedding", b"bias")]
        for place in places:
            changed = bytearray(data)
            changed[place] ^= 1
            path.write_bytes(changed)
            with pytest.raises(AudioVQError, match=f"{FILE_NAME} is damaged"):
                load_entropy_model(tmp_path, model.model_hash)

    @pytest.mark.parametrize(
        ("field", "change"),
        [
            ("output_bias", lambda array: array[:, :-1]),
            ("first_delays", lambda array: array * 0),
            ("exponential", lambda array: array * 0),
            ("exponential", lambda array: array * 2),
        ],
    )
    def test_numbers_that_cannot_be(self, tmp_path, field, change):
        model = random_model(SmallCodec())
        network = model.network._replace(**{field: change(getattr(model.network, field))})
        type(model)(model.model_hash, network, model.speaker).save(tmp_path)
        with pytest.raises(AudioVQError, match="is damaged"):
            load_entropy_model(tmp_path, model.model_hash)


class TestGolden:
    """Files as they were written when the format got what they hold."""

    @pytest.mark.parametrize(("name", "codec", "flags"), [("packed", FakeCodec, 2), ("entropy_coded", SmallCodec, 3)])
    def test_file(self, name, codec, flags):
        expected, codec = load_file(GOLDEN / f"{name}.safetensors"), codec()
        codec.folder = GOLDEN
        data = (GOLDEN / f"{name}.avq").read_bytes()
        found = load_encoded(io.BytesIO(data), codec)
        assert data[4] == flags
        for part in ("codes", "speaker", "pitch", "level"):
            assert np.array_equal(getattr(found, part), expected[part]), part
        assert saved(found, codec) == data
        assert inspect_file(io.BytesIO(data)).damage is None

    def test_files_of_the_first_release_are_refused_with_its_name(self):
        with pytest.raises(AudioVQError, match=r"_1.avq: was written by audiovq 0\.1.* audiovq 0\.1 reads it$"):
            inspect_file(GOLDEN / "release_0_1.avq")
        with pytest.raises(AudioVQError, match=r"was written by audiovq 0\.1"):
            load_encoded(GOLDEN / "release_0_1.avq", FakeCodec())
