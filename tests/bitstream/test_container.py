from __future__ import annotations

import io
import zlib

import numpy as np
import pytest

from audiovq.bitstream.container import ContainerReader, ContainerWriter, DamagedError, End, Gap, Header, Packet
from audiovq.bitstream.entropy import encode_varint
from audiovq.errors import AudioVQError

HEADER = Header(media=1, model_hash=b"abcd", body=b"what the media says")


def lengths(length, short):
    return length <= 60 if short else length == 60


def written(n=6, short=20, seed=0):
    """A container of ``n`` full packets and a short one: its bytes, the payloads, where each record starts."""
    rng = np.random.default_rng(seed)
    stream = io.BytesIO()
    writer = ContainerWriter(stream, HEADER)
    payloads = [rng.bytes(60) for _ in range(n)] + [rng.bytes(short)]
    starts = []
    for i, payload in enumerate(payloads):
        starts.append(stream.tell())
        writer.write_packet(payload, short=i == n)
    starts.append(stream.tell())
    writer.finish(12345)
    assert writer.n_bytes == len(stream.getvalue())
    return stream.getvalue(), payloads, starts


def read(data, conceal=False):
    reader = ContainerReader(io.BytesIO(data))
    assert reader.header == HEADER
    return list(reader.records(lengths, conceal))


class Trickle:
    """A stream that gives a few bytes at a time and cannot do anything else."""

    def __init__(self, data, seed=0):
        self.data, self.rng, self.position = data, np.random.default_rng(seed), 0

    def read(self, size):
        size = min(size, int(self.rng.integers(1, 8)))
        piece = self.data[self.position : self.position + size]
        self.position += len(piece)
        return piece


def test_round_trip():
    data, payloads, _ = written()
    packets = [Packet(i, p, short=i == 6) for i, p in enumerate(payloads)]
    assert read(data) == [*packets, End(7, 12345)]
    assert list(ContainerReader(Trickle(data)).records(lengths)) == [*packets, End(7, 12345)]


def test_a_packet_is_given_when_its_last_byte_is_there():
    data, payloads, starts = written()
    source = Trickle(data)
    records = ContainerReader(source).records(lengths)
    for i, payload in enumerate(payloads):
        assert next(records).payload == payload
        assert source.position == starts[i + 1]


def test_no_packets():
    stream = io.BytesIO()
    ContainerWriter(stream, HEADER).finish(0)
    assert read(stream.getvalue()) == [End(0, 0)]


def test_every_flipped_bit_is_noticed():
    data, _, _ = written(2)
    for position in range(len(data)):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[position] ^= 1 << bit
            with pytest.raises(AudioVQError):
                read(bytes(damaged))


def test_every_truncation_is_noticed():
    data, _, _ = written(3)
    for length in range(len(data)):
        with pytest.raises(DamagedError):
            read(data[:length])


def test_swapped_repeated_missing_and_foreign_packets_are_noticed():
    data, _, starts = written()
    parts = [data[a:b] for a, b in zip([0, *starts], [*starts, len(data)], strict=True)]
    header, p0, p1, p2, *rest = parts
    other, _, _ = written(seed=9)
    other_header = Header(1, b"abce", HEADER.body).to_bytes()
    assert b"".join([header, p0, p1, p2, *rest]) == data
    for wrong in (
        [header, p1, p0, p2, *rest],
        [header, p0, p0, p1, p2, *rest],
        [header, p0, p2, *rest],
        [header, p0, p1, p2, *rest[:-2], rest[-1]],
        [other_header, p0, p1, p2, *rest],
    ):
        with pytest.raises(DamagedError):
            list(ContainerReader(io.BytesIO(b"".join(wrong))).records(lengths))
    with pytest.raises(DamagedError, match="behind its end"):
        read(data + b"x")
    with pytest.raises(DamagedError, match="behind its end"):
        read(data + other)


def concealed(data):
    """Payloads by index as concealment finds them, and the whole list of records."""
    records = read(data, conceal=True)
    return {r.index: r.payload for r in records if isinstance(r, Packet)}, records


def test_concealing_leaves_a_good_file_alone():
    data, _, _ = written()
    assert read(data, conceal=True) == read(data)


def test_concealing_keeps_every_undamaged_packet():
    data, payloads, starts = written()
    bounds = [*starts, len(data)]
    rng = np.random.default_rng(3)
    for _ in range(400):
        position = int(rng.integers(starts[0], len(data)))
        damaged = bytearray(data)
        damaged[position] ^= 1 << int(rng.integers(8))
        hit = int(np.searchsorted(bounds, position, side="right")) - 1
        found, records = concealed(bytes(damaged))
        if hit < 6:
            assert found == {i: p for i, p in enumerate(payloads) if i != hit}
            assert Gap(hit, hit + 1) in records
            assert records[-1] == End(7, 12345)
        else:
            # The last, short packet and the end vouch for each other.
            assert {i: p for i, p in found.items() if i < 6} == dict(enumerate(payloads[:6]))
            assert found.get(6, payloads[6]) == payloads[6]


def test_concealing_finds_its_way_after_cuts_insertions_and_repeats():
    data, payloads, starts = written(12)
    rng = np.random.default_rng(4)
    for _ in range(200):
        first, last = sorted(int(v) for v in rng.integers(0, 12, 2))
        cut_from, cut_to = starts[first] + int(rng.integers(0, 60)), starts[last] + int(rng.integers(0, 60))
        cut_from, cut_to = min(cut_from, cut_to), max(cut_from, cut_to) + 1
        junk = rng.bytes(int(rng.integers(0, 200)))
        found, records = concealed(data[:cut_from] + junk + data[cut_to:])
        assert all(found[i] == payloads[i] for i in found)
        assert set(found) >= set(range(first)) | set(range(last + 1, 13))
        assert records[-1] == End(13, 12345)
    repeated = data[: starts[5]] + data[starts[2] : starts[5]] + data[starts[5] :]
    found, records = concealed(repeated)
    assert found == dict(enumerate(payloads))
    assert Gap(5, 5) in records


def test_concealing_a_file_without_end():
    data, payloads, starts = written()
    found, records = concealed(data[: starts[4] + 10])
    assert found == dict(enumerate(payloads[:4]))
    assert records[-1] == Gap(4, None)


def test_search_through_much_rubbish_ends():
    data, payloads, starts = written()
    rng = np.random.default_rng(5)
    for rubbish in (b"\0" * 100_000, b"\x78" * 100_000, rng.bytes(100_000)):
        found, records = concealed(data[: starts[3]] + rubbish + data[starts[3] :])
        assert found == dict(enumerate(payloads))
        assert records[-1] == End(7, 12345)


def test_a_wide_jump_needs_a_good_neighbour():
    stream = io.BytesIO()
    writer = ContainerWriter(stream, HEADER)
    starts = []
    for i in range(300):
        starts.append(stream.tell())
        writer.write_packet(i.to_bytes(60, "big"))
    starts.append(stream.tell())
    writer.finish(1)
    data = stream.getvalue()
    assert read(data[: starts[1]] + data[starts[200] :], conceal=True)[1] == Gap(1, 200)
    # Packet 200 alone, with rubbish behind it: not believed.
    alone = data[: starts[1]] + data[starts[200] : starts[201]] + b"rubbish"
    assert read(alone, conceal=True)[-1] == Gap(1, None)


def record(header, index, payload=None, short=False):
    """A record whose checksum is right, with any index; without ``payload`` an end record."""
    tag = 0 if payload is None else len(payload) << 1 | short
    body = encode_varint(tag) + encode_varint(index) + (encode_varint(1) if payload is None else payload)
    return body + zlib.crc32(header[-4:] + body).to_bytes(4, "little")


@pytest.mark.parametrize("jump", [1 << 12, 21_600, 1 << 40, (1 << 62) - 1])
def test_a_forged_index_cannot_ask_for_days_of_silence(jump):
    header = HEADER.to_bytes()
    forged = [
        header + record(header, jump, b"x" * 60) + record(header, jump + 1),
        header + record(header, 0, b"x" * 60) + record(header, jump),
        header + record(header, 0, b"x" * 60) + record(header, jump, b"x" * 60) + record(header, jump + 1, b"x" * 60),
    ]
    for data in forged:
        reader = ContainerReader(io.BytesIO(data))
        for found in reader.records(lengths, conceal=True, smallest=60):
            assert not isinstance(found, Gap) or found.until is None
            assert not isinstance(found, End)
        with pytest.raises(DamagedError):
            read(data)


def test_most_of_a_file_may_be_missing():
    header = HEADER.to_bytes()
    kept = [record(header, i, b"x" * 60) for i in range(300) if i % 4 == 0] + [record(header, 300)]
    found, records = concealed(header + b"".join(kept))
    assert sorted(found) == list(range(0, 300, 4))
    assert records[-1] == End(300, 1)


def altered(position, value):
    data = bytearray(HEADER.to_bytes()[:-4])
    data[position] = value
    return bytes(data) + zlib.crc32(data).to_bytes(4, "little")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"RIFF....WAVE", "not an .avq file"),
        (b"A", "cut off"),
        (altered(3, 1), "version is 1, this release reads 2; encode"),
        (altered(3, 3), "version is 3, this release reads 2; update"),
        (altered(4, 4), "unknown features"),
        (altered(4, 7), "unknown features"),
        (altered(4, 64), "unknown features"),
        (HEADER.to_bytes()[:-1], "cut off inside its header"),
        (b"AVQ\x02\x00\x01abcd" + encode_varint(1 << 40), "header is damaged"),
        (b"AVQ\x02\x00\x01abcd\x80\x80\x80\x80\x80", "header is damaged"),
    ],
)
def test_bad_headers(data, message):
    with pytest.raises(AudioVQError, match=message):
        ContainerReader(io.BytesIO(data))


def test_a_claimed_length_is_not_believed():
    huge = HEADER.to_bytes() + encode_varint(1 << 60) + b"x" * 100
    with pytest.raises(DamagedError):
        read(huge)
