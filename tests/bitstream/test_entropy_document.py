"""docs/format.md is right about entropy coding: a decoder made of its words alone, in integers, finds the codes."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from audiovq.bitstream.container import ContainerReader, Packet
from audiovq.bitstream.entropy_kernels import distributions, make_memory
from audiovq.bitstream.speech_layout import SpeechHeader, decode_pitch
from tests.bitstream.entropy_models import SmallCodec, random_model

GOLDEN = Path(__file__).parent / "golden"
TENSORS = {name: tensor.tolist() for name, tensor in load_file(GOLDEN / "entropy.safetensors").items()}
VALUES, BITS, CHANNELS, BOOKS = 16, 4, 3, 3


class RangeDecoder:
    def __init__(self, data):
        self.data, self.position, self.width = data, 8, 2**64 - 1
        self.offset = int.from_bytes(data[:8].ljust(8, b"\0"), "big")

    def symbol(self, weights):
        assert sum(weights) == 2**24 - len(weights)
        scale = self.width >> 24
        q = self.offset // scale
        assert q < 2**24
        begin = 0
        symbol = 0
        while q >= begin + weights[symbol] + 1:
            begin += weights[symbol] + 1
            symbol += 1
        self.offset -= scale * begin
        self.width = scale * (weights[symbol] + 1)
        if self.width < 2**32:
            more = self.data[self.position : self.position + 4].ljust(4, b"\0")
            self.offset, self.width = (self.offset << 32) + int.from_bytes(more, "big"), self.width << 32
            self.position += 4
        return symbol


def product(x, matrix):
    return [sum(a * row[i] for a, row in zip(x, matrix, strict=True)) for i in range(len(matrix[0]))]


def add(*vectors):
    return [sum(values) for values in zip(*vectors, strict=True)]


def times(a, b):
    return [x * y for x, y in zip(a, b, strict=True)]


def rounded(vector):
    return [(a + 2**23) >> 24 for a in vector]


def clip(vector, high):
    return [min(max(a, 0), high) for a in vector]


def state(sums, t, n=TENSORS, voiced=(), n_books=BOOKS):
    total = [0] * len(n["first_multiplier"])
    for delay, weight in zip(n["first_delays"], n["first_weight"], strict=True):
        if t >= delay:
            total = add(total, product(sums[t - delay], weight))
    total = times(total, n["first_multiplier"])
    known = [0] * len(total)
    for offset, weight in zip(n["voicing_offsets"], n["voicing_weight"], strict=True):
        if 0 <= t + offset < len(voiced) and voiced[t + offset]:
            known = add(known, weight)
    total = add(total, times(known, n["voicing_multiplier"]))
    layers = [clip(add(rounded(total), n["condition"][n_books - 1]), 1023)]
    past = STATES[: t * (len(n["weight"]) + 1)]
    for i, delays in enumerate(n["delays"]):
        total = [0] * len(layers[0])
        for delay, weight in zip(delays, n["weight"][i], strict=True):
            if delay == 0:
                total = add(total, product(layers[i], weight))
            elif t >= delay:
                total = add(total, product(past[(t - delay) * (len(n["weight"]) + 1) + i], weight))
        y = clip(add(rounded(times(total, n["multiplier"][i])), n["bias"][i]), 1023)
        layers.append([min(a + b, 4095) for a, b in zip(layers[i], y, strict=True)])
    STATES.extend(layers)
    return layers[-1]


STATES: list[list[int]] = []


def weights_of(s, partial, book, before, n=TENSORS):
    a = times(product(s, n["state_weight"][book]), n["state_multiplier"][book])
    if book:
        a = add(a, times(product(partial, n["sum_weight"][book - 1]), n["sum_multiplier"][book - 1]))
        a = add(a, times(n["previous"][book - 1][before], n["previous_multiplier"][book - 1]))
    u = clip(add(rounded(a), n["hidden_bias"][book]), 1023)
    g = add(rounded(times(product(u, n["output_weight"][book]), n["output_multiplier"][book])), n["output_bias"][book])
    e = [n["exponential"][min(max(g) - value, len(n["exponential"]) - 1)] for value in g]
    f = (2**24 - VALUES) * 2**32 // sum(e)
    d = [sum(e[:i]) * f >> 32 for i in range(VALUES)] + [2**24 - VALUES]
    return [d[i + 1] - d[i] for i in range(VALUES)]


def decode_row(decoder, voiced):
    STATES.clear()
    sums, codes = [], []
    for t in range(len(voiced)):
        s, partial, frame = state(sums, t, voiced=voiced), [0] * len(TENSORS["embedding"][0][0]), []
        for book in range(BOOKS):
            frame.append(decoder.symbol(weights_of(s, partial, book, frame[-1] if frame else 0)))
            partial = add(partial, TENSORS["embedding"][book][frame[-1]])
        sums.append(partial)
        codes.append(frame)
    return [list(book) for book in zip(*codes, strict=True)]


def rows(data, shape_size, packed_bits, decode):
    """The rows of all channels, by the rule for which way they are stored."""
    bits = "".join(f"{byte:08b}" for byte in data)
    same, rest = bits[: CHANNELS - 1], bits[CHANNELS - 1 :]
    places = [i for i in range(CHANNELS) if not i or same[i - 1] == "0"]
    stored = len(places)
    if len(data) == -(-(CHANNELS - 1 + stored * shape_size * packed_bits) // 8):
        numbers = [int(rest[i * packed_bits : (i + 1) * packed_bits], 2) for i in range(stored * shape_size)]
        found = [numbers[i * shape_size : (i + 1) * shape_size] for i in range(stored)]
        coded = False
    else:
        found, coded = decode(RangeDecoder(data[1:]), places), True
    result = []
    for channel in range(CHANNELS):
        result.append(result[-1] if channel and same[channel - 1] == "1" else found.pop(0))
    return result, coded


def test_states_with_voicing_from_the_document():
    """The weights of first codes, in the document's words and by the kernels."""
    model = random_model(SmallCodec(), offsets=(-1, 0, 2))
    tensors = {name: array.tolist() for name, array in model.network._asdict().items()}
    rng = np.random.default_rng(2)
    codes, voiced = rng.integers(0, 16, (3, 12)), rng.integers(0, 2, 12).astype(np.uint8)
    expected = np.empty((36, 16), np.float32)
    distributions(model.network, make_memory(model.network, 12), voiced, codes, expected)
    STATES.clear()
    sums = []
    for t in range(12):
        found = state(sums, t, tensors, voiced.tolist())
        weights = weights_of(found, None, 0, 0, tensors)
        assert weights == expected[3 * t].astype(int).tolist()
        sums.append(add(*(tensors["embedding"][book][codes[book, t]] for book in range(3))))
    STATES.clear()


def test_decoder_from_the_document():
    data = (GOLDEN / "entropy_coded.avq").read_bytes()
    expected = load_file(GOLDEN / "entropy_coded.safetensors")
    reader = ContainerReader(io.BytesIO(data))
    header = SpeechHeader.from_container(reader.header)

    digest = hashlib.sha256()
    for name, tensor in sorted(load_file(GOLDEN / "entropy.safetensors").items()):
        digest.update(name.encode() + tensor.tobytes())
    assert reader.header.body[8:10] == digest.digest()[:2]

    def speakers(decoder, places):
        return [[decoder.symbol(TENSORS["speaker"][i]) for i in range(32)] for _ in places]

    found, coded = rows(header.coded_speakers, 32, 4, speakers)
    assert coded
    assert np.array_equal(found, expected["speaker"])
    start, ways = 0, []
    for record in reader.records(header.valid_length):
        if not isinstance(record, Packet):
            continue
        n_frames = record.payload[0] if record.short else 20
        payload = record.payload[record.short :]

        levels, size = payload[:CHANNELS], payload[CHANNELS]
        own = [level != 255 for level in levels]
        tracks = decode_pitch(payload[CHANNELS + 1 :][:size], sum(own), n_frames)
        voiced = (tracks[np.cumsum(own) - 1] > 0).tolist()

        def codes(decoder, places, voiced=voiced):
            return [np.ravel(decode_row(decoder, voiced[i])).tolist() for i in places]

        found, coded = rows(payload[CHANNELS + 1 + size :], BOOKS * n_frames, BITS, codes)
        ways.append(coded)
        packet = expected["codes"][..., start : start + n_frames]
        assert np.array_equal(np.array(found).reshape(packet.shape), packet)
        start += n_frames
    assert ways == [True, False, True]
    assert start == 47
