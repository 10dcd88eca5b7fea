"""Streams with a bounded look-ahead: how far they are behind, and what of the other streams' properties holds."""

import numpy as np
import pytest

from audiovq.codec.decoder_stream import LiveDecoderStream
from audiovq.codec.encoder_stream import LiveEncoderStream
from audiovq.codec.signal import TARGET_DB, HarmonicSource, Synthesizer, hz_of, quantize_level
from audiovq.errors import AudioVQError
from audiovq.interfaces import Packet
from tests.codec.tiny import HOP, make_codec, speech_like

SPEAKER = np.arange(8)
#: Frames of a packet, and look-ahead of encoder and decoder.
SETTINGS = [(1, 0, 2), (4, 4, 2), (3, 1, 5), (4, 8, 3)]


@pytest.fixture(scope="module")
def codec():
    return make_codec()


@pytest.fixture(scope="module")
def speech():
    return speech_like(2.3)


def encode(codec, samples, settings, block=10**9, speaker=SPEAKER):
    packet_frames, lookahead, _ = settings
    stream, packets = codec.encoder_stream(4, packet_frames, speaker, lookahead), []
    for i in range(0, len(samples), block):
        packets += stream.push(samples[i : i + block])
    return packets + stream.finish()


def decode(codec, packets, settings, n_samples, lost=()):
    stream = codec.decoder_stream(SPEAKER, lookahead=settings[2])
    pieces = [stream.push(None, p.n_frames) if i in lost else stream.push(p) for i, p in enumerate(packets)]
    return np.concatenate([*pieces, stream.finish(n_samples)])


def joined(packets):
    """Rows of codes, pitch and level of each frame."""
    return np.concatenate([np.vstack([p.codes, p.pitch, np.full(p.n_frames, p.level)]) for p in packets], axis=1)


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("block", [HOP, 1111])
def test_the_delay_is_a_packet_and_both_look_aheads(codec, speech, settings, block):
    packet_frames, *lookaheads = settings
    encoder = codec.encoder_stream(4, packet_frames, SPEAKER, lookaheads[0])
    decoder = codec.decoder_stream(SPEAKER, lookahead=lookaheads[1])
    assert (type(encoder), type(decoder)) == (LiveEncoderStream, LiveDecoderStream)
    given, behind = 0, []
    for start in range(0, len(speech), block):
        piece = speech[start : start + block]
        given += sum(len(decoder.push(packet)) for packet in encoder.push(piece))
        behind.append(start + len(piece) - given)
    assert max(behind) <= sum(settings) * HOP


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("speaker", [SPEAKER, None])
def test_codes_are_the_same_for_any_chunking(codec, speech, settings, speaker):
    whole = joined(encode(codec, speech, settings, speaker=speaker))
    assert (whole[-2] > 0).any()
    for block in (100, HOP, 20000):
        assert np.array_equal(joined(encode(codec, speech, settings, block, speaker)), whole)


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("n_samples", [1, HOP, 4 * HOP + 1, 8 * HOP, 5555])
def test_every_length_comes_back_exactly(codec, speech, settings, n_samples):
    packets = encode(codec, speech[:n_samples], settings, 100)
    assert sum(p.n_frames for p in packets) == -(-n_samples // HOP)
    decoded = decode(codec, packets, settings, n_samples)
    assert decoded.shape == (n_samples,)
    assert np.isfinite(decoded).all()


def test_codes_depend_on_nothing_behind_the_look_ahead(codec, speech):
    settings, other = SETTINGS[1], speech.copy()
    other[48 * HOP :] = speech_like(2.3, seed=5)[48 * HOP :]
    before, after = (joined(encode(codec, samples, settings)) for samples in (speech, other))
    assert np.array_equal(before[:, :44], after[:, :44])
    assert not np.array_equal(before[:, 44:48], after[:, 44:48])


@pytest.mark.parametrize("lost", [{3}, {0, 1}, {5, 6, 7, 8, 9, 10}])
def test_packets_may_be_lost(codec, speech, lost):
    packets = encode(codec, speech, SETTINGS[1])
    decoded, whole = (decode(codec, packets, SETTINGS[1], len(speech), gone) for gone in (lost, ()))
    assert decoded.shape == whole.shape
    assert np.isfinite(decoded).all()
    assert not np.array_equal(decoded, whole)
    last = (max(lost) + 1) * 4 + 2 * codec.shape.decoder_context
    assert np.abs(decoded[last * HOP :]).max() > 0.01


def test_a_look_ahead_as_long_as_the_networks_changes_nothing(codec, speech):
    exact = codec.encoder_stream(4, 4, SPEAKER)
    assert type(codec.encoder_stream(4, 4, SPEAKER, exact.lookahead // HOP)) is type(exact)
    packets = exact.push(speech) + exact.finish()
    whole = decode(codec, packets, (4, None, None), len(speech))
    context = codec.shape.decoder_context
    assert type(codec.decoder_stream(SPEAKER, lookahead=context)) is type(codec.decoder_stream(SPEAKER))
    stream = LiveDecoderStream(codec, SPEAKER, context)
    pieces = [stream.push(packet) for packet in packets]
    assert np.allclose(np.concatenate([*pieces, stream.finish(len(speech))]), whole, atol=1e-5)
    assert np.abs(decode(codec, packets, (4, None, 2), len(speech)) - whole).max() > 1e-4


@pytest.mark.parametrize("n_codebooks", [2, 4])
def test_pieces_add_up_where_they_meet(codec, monkeypatch, n_codebooks):
    """Whatever gains the network gives at each call: those that a short frame got first are its gains to the end."""
    n_frames, shape, rng = 40, codec.shape, np.random.default_rng(0)
    pitch, level = np.full(n_frames, 80), quantize_level(TARGET_DB)
    used, compute = {}, codec.engine.gains

    def gains(latents, pitch, speaker, direct, stretch):
        found = compute(latents, pitch, speaker, direct, stretch)
        found = [None if one is None else one + rng.normal(size=one.shape).astype(np.float32) for one in found]
        for i, frame in enumerate(shape.short_frames(stretch)):
            # Those further from the piece have no part in it.
            if frame < stretch.last * shape.rate + shape.overlap // 2:
                used.setdefault(frame, [None if one is None else one[i] for one in found])
        return found

    monkeypatch.setattr(codec.engine, "gains", gains)
    stream = LiveDecoderStream(codec, SPEAKER, shape.least_lookahead)
    codes = rng.integers(0, 32, (n_codebooks, n_frames))
    pieces = [stream.push(Packet(codes[:, i : i + 4], pitch[i : i + 4], level)) for i in range(0, n_frames, 4)]
    decoded = np.concatenate([*pieces, stream.finish(n_frames * HOP)])
    source = HarmonicSource(HOP, codec.sample_rate).next(hz_of(pitch), 0.0)
    tables = [[used[i][k] for i in range(n_frames * shape.rate)] for k in range(2)]
    first, direct = np.stack(tables[0]), None if tables[1][0] is None else np.stack(tables[1])
    settings = (range(n_frames * shape.rate), 0, n_frames, np.pad(source, shape.margin))
    assert np.allclose(decoded, Synthesizer(shape)(first, direct, *settings), atol=1e-5)


def test_impossible_look_aheads_are_refused(codec):
    with pytest.raises(AudioVQError, match="0 frames or more, not -1"):
        codec.encoder_stream(4, 4, SPEAKER, -1)
    with pytest.raises(AudioVQError, match="2 frames or more, not 1"):
        codec.decoder_stream(SPEAKER, lookahead=1)
    codec.add_decoder("other", lambda *_: None)
    with pytest.raises(AudioVQError, match="only that of parallel"):
        codec.decoder_stream(SPEAKER, "other", lookahead=4)


@pytest.mark.parametrize("lookahead", [None, 4])
def test_a_stream_that_has_ended_takes_nothing_more(codec, speech, lookahead):
    encoder, decoder = (
        codec.encoder_stream(4, 4, SPEAKER, lookahead),
        codec.decoder_stream(SPEAKER, lookahead=lookahead),
    )
    packets = encoder.push(speech) + encoder.finish()
    for packet in packets:
        decoder.push(packet)
    decoder.finish(len(speech))
    with pytest.raises(ValueError, match="has ended"):
        encoder.push(speech)
    with pytest.raises(ValueError, match="has ended"):
        decoder.push(packets[0])
