import numpy as np
import pytest
import torch

from audiovq.codec.concealment import HELD_SECONDS, Frames, LatentPredictor, bridge, fill_gaps
from audiovq.codec.signal import LOWEST_DB
from audiovq.errors import AudioVQError
from audiovq.interfaces import Packet
from recipes.speech.concealment import fit
from tests.codec.tiny import HOP, make_codec, speech_like

SIZE = 4


@pytest.fixture(scope="module")
def codec():
    return make_codec()


@pytest.fixture(scope="module")
def speech():
    return speech_like(2.3)


@pytest.fixture(scope="module")
def encoded(codec, speech):
    """Speaker and packets of 80 ms."""
    stream = codec.encoder_stream(packet_frames=SIZE)
    packets = stream.push(speech) + stream.finish()
    return stream.speaker, packets


def decode(codec, encoded, n_samples, lost=()):
    stream = codec.decoder_stream(encoded[0])
    pieces = [
        stream.push(None, packet.n_frames) if i in lost else stream.push(packet) for i, packet in enumerate(encoded[1])
    ]
    return [*pieces, stream.finish(n_samples)]


def frame(value, pitch, level):
    return Frames(np.full((3, 1), value, np.float32), np.array([pitch]), np.array([level], np.float32))


def test_a_short_gap_leads_from_one_side_to_the_other():
    found = bridge(frame(0.0, 40, -20.0), frame(1.0, 44, -16.0), 3, 50.0)
    assert np.allclose(found.latents[0], [0.25, 0.5, 0.75])
    assert found.pitch.tolist() == [41, 42, 43]
    assert found.level.tolist() == [-19.0, -18.0, -17.0]


def test_the_frames_next_to_the_gap_count():
    two = Frames(np.array([[0.0, 1.0]], np.float32), np.array([30, 40]), np.array([-30.0, -20.0], np.float32))
    ends = (bridge(two, None, 1, 50.0), bridge(None, two, 1, 50.0), bridge(two, two, 1, 50.0))
    assert [found.latents.item() for found in ends] == [1.0, 0.0, 0.5]
    assert [found.pitch.item() for found in ends] == [40, 30, 35]
    assert [found.level.item() for found in ends] == [-20.0, -30.0, -25.0]


def test_gaps_of_a_batch_are_filled_as_one_by_one():
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(4, 3, 20, generator=generator)
    pitch = torch.randint(1, 60, (4, 20), generator=generator) * (torch.rand(4, 20, generator=generator) < 0.7)
    lost = torch.zeros(4, 20, dtype=torch.bool)
    lost[0, :3] = lost[1, 5:8] = lost[1, 11:12] = lost[2, 18:] = lost[3] = True
    filled, moved = fill_gaps(latents, pitch, lost)
    assert torch.equal(filled[3], latents[3])
    assert torch.equal(filled[1][:, ~lost[1]], latents[1][:, ~lost[1]])
    for item, low, high in ((0, 0, 3), (1, 5, 8), (1, 11, 12), (2, 18, 20)):
        whole = Frames(latents[item].numpy(), pitch[item].numpy(), np.zeros(20, np.float32))
        before, after = (whole[:low] if low else None), (whole[high:] if high < 20 else None)
        wanted = bridge(before, after, high - low, 50.0)
        np.testing.assert_allclose(filled[item][:, low:high], wanted.latents, rtol=1e-5, atol=1e-6)
        assert np.array_equal(moved[item][low:high], wanted.pitch)


def test_voicing_changes_in_the_middle():
    assert bridge(frame(0.0, 40, -20.0), frame(1.0, 0, -20.0), 4, 50.0).pitch.tolist() == [40, 40, 0, 0]


def test_what_is_carried_on_fades_to_silence():
    found = bridge(frame(1.0, 40, -20.0), None, 12, 50.0)
    held = round(HELD_SECONDS * 50)
    assert found.level[:held].tolist() == [-20.0] * held
    assert (np.diff(found.level) <= 0).all()
    assert found.level[-1] == LOWEST_DB
    assert not found.pitch[-1]
    assert not found.latents[:, -1].any()


def test_a_long_gap_is_silent_in_its_middle_and_loud_at_both_ends():
    level = bridge(frame(1.0, 40, -20.0), frame(1.0, 40, -20.0), 40, 50.0).level
    assert level[0] == level[-1] == -20.0
    assert level[20] == LOWEST_DB
    assert np.array_equal(level, level[::-1])


@pytest.mark.parametrize("lost", [{5}, {5, 6}, {0}, {0, 1, 2}, {27, 28}, {3, 9, 10, 20}, set(range(29))])
def test_any_packets_may_be_lost(codec, speech, encoded, lost):
    """What is before a gap by more than the decoder's context stays as it is, and the length is exact."""
    whole = np.concatenate(decode(codec, encoded, len(speech)))
    damaged = np.concatenate(decode(codec, encoded, len(speech), lost))
    assert len(damaged) == len(whole) == len(speech)
    assert np.isfinite(damaged).all()
    assert np.abs(damaged).max() < 3 * np.abs(whole).max()
    before = max(min(lost) * SIZE - codec.decoder.context_frames - 1, 0) * HOP
    assert np.array_equal(damaged[:before], whole[:before])


def test_speech_goes_on_in_a_short_gap(codec, speech, encoded):
    """The level in the gap is near that of the speech that was lost, wherever there was speech."""
    whole, damaged = (np.concatenate(decode(codec, encoded, len(speech), lost)) for lost in ((), {8}))
    gap = slice(8 * SIZE * HOP, 9 * SIZE * HOP)
    ratio = 10 * np.log10(np.square(damaged[gap]).sum() / np.square(whole[gap]).sum())
    assert abs(ratio) < 3


def test_one_gap_however_it_is_reported(codec, speech, encoded):
    speaker, packets = encoded
    one, many = codec.decoder_stream(speaker), codec.decoder_stream(speaker)
    a = [one.push(p) for p in packets[:6]] + [one.push(None, 8)]
    b = [many.push(p) for p in packets[:6]] + [many.push(None, 4), many.push(None, 4)]
    for stream, pieces in ((one, a), (many, b)):
        pieces += [stream.push(p) for p in packets[8:]] + [stream.finish(len(speech))]
    a, b = np.concatenate(a), np.concatenate(b)
    assert np.abs(a - b).max() < 1e-5 * np.abs(a).max()


def test_a_gap_adds_no_delay(codec, speech, encoded):
    whole, damaged = ([len(piece) for piece in decode(codec, encoded, len(speech), lost)] for lost in ((), {4, 5, 11}))
    assert whole == damaged


def test_nothing_but_losses_is_silence(codec):
    stream = codec.decoder_stream(np.zeros(8, np.int64))
    samples = np.concatenate([stream.push(None, SIZE) for _ in range(20)] + [stream.finish(20 * SIZE * HOP)])
    assert np.abs(samples).max() < 1e-3
    assert len(samples) == 20 * SIZE * HOP


class TestLatentPredictor:
    """On latents of which a few directions are predictable: each an autoregressive process of its own decay."""

    @pytest.fixture(scope="class")
    def process(self):
        rng = np.random.default_rng(0)
        state, decay = np.zeros((12, 8000)), np.repeat([0.95, 0.8, 0.0], 4)[:, None]
        noise = rng.normal(size=state.shape) * np.sqrt(1 - decay**2)
        for i in range(1, state.shape[1]):
            state[:, i] = decay[:, 0] * state[:, i - 1] + noise[:, i]
        mixed = rng.normal(size=(12, 12)) @ state + rng.normal(size=(12, 1))
        return np.split(mixed.astype(np.float32), 20, axis=1)

    @pytest.fixture(scope="class")
    def predictor(self, process):
        return fit(process[:15], n_directions=12, hidden=64, steps=400)

    def errors(self, process, fill, size=3):
        found = []
        for piece in process[15:]:
            for start in range(0, 400 - 3 * size, size):
                before, gap, after = np.split(piece[:, start : start + 3 * size], 3, axis=1)
                found.append(np.square(fill(before, after, size) - gap).mean())
        return np.mean(found)

    def test_it_is_nearer_than_a_straight_line_and_the_mean(self, process, predictor):
        def line(before, after, n):
            weight = np.arange(1, n + 1) / (n + 1)
            return before[:, -1:] + weight * (after[:, :1] - before[:, -1:])

        found = self.errors(process, predictor)
        assert found < 0.8 * self.errors(process, line)
        assert found < 0.8 * self.errors(process, lambda before, after, n: predictor.mean[:, None])

    def test_one_side_is_enough_and_far_from_it_the_mean_is_left(self, process, predictor):
        for sides in ((process[0], None), (None, process[0])):
            filled = predictor(*sides, 200)
            middle = filled[:, 100]
            assert filled.shape == (12, 200)
            assert np.allclose(middle, predictor.mean, atol=1e-3)
        assert np.allclose(predictor(process[0], None, 2), predictor(process[0], None, 9)[:, :2], atol=1e-4)

    def test_it_comes_back_from_its_file_for_its_own_model_alone(self, process, predictor, tmp_path):
        path = predictor.save(tmp_path, b"1234")
        found = LatentPredictor.load(tmp_path, b"1234")
        again = LatentPredictor.load(found.save(tmp_path, b"1234").parent, b"1234")
        sides = process[0], process[1], 4
        assert np.array_equal(found(*sides), again(*sides))
        assert np.allclose(found(*sides), predictor(*sides), atol=0.01 * np.ptp(process[0]))  # 16 bits
        assert LatentPredictor.load(tmp_path, b"4321") is None
        assert LatentPredictor.load(tmp_path / "elsewhere", b"1234") is None
        damaged = bytearray(path.read_bytes())
        damaged[-3] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(AudioVQError, match="is damaged"):
            LatentPredictor.load(tmp_path, b"1234")

    def test_gaps_of_a_batch_are_predicted_as_one_by_one(self, process, predictor):
        latents = torch.from_numpy(np.stack([piece[:, :20] for piece in process[:3]]))
        lost = torch.zeros(3, 20, dtype=torch.bool)
        lost[0, 5:8] = lost[0, 11:14] = lost[1, :2] = lost[1, 19:] = True
        filled, _ = fill_gaps(latents, torch.zeros(3, 20, dtype=torch.int64), lost, predictor)
        assert torch.equal(filled.masked_fill(lost[:, None], 0), latents.masked_fill(lost[:, None], 0))
        values = latents.numpy()
        for item, low, high, first, last in (
            (0, 5, 8, 0, 11),
            (0, 11, 14, 8, 20),
            (1, 0, 2, 0, 19),
            (1, 19, 20, 2, 20),
        ):
            before, after = values[item][:, first:low], values[item][:, high:last]
            wanted = predictor(before if low else None, after if high < 20 else None, high - low)
            assert np.allclose(filled[item][:, low:high], wanted, atol=1e-5)

    @pytest.mark.parametrize("n_codebooks", [2, 3])
    def test_a_codec_fills_gaps_with_it(self, speech, tmp_path, n_codebooks):
        codec = make_codec()
        stream = codec.encoder_stream(n_codebooks, SIZE)
        packets = stream.push(speech) + stream.finish()
        plain = np.concatenate(decode(codec, (stream.speaker, packets), len(speech), {8}))
        latents = [codec.codebooks.decode(packet.codes) for packet in packets]
        fit([np.concatenate(latents, axis=1)] * 3, n_directions=4, hidden=8, steps=2).save(tmp_path, codec.model_hash)
        codec.latent_predictor = LatentPredictor.load(tmp_path, codec.model_hash)
        predicted = np.concatenate(decode(codec, (stream.speaker, packets), len(speech), {8}))
        assert np.isfinite(predicted).all()
        assert not np.array_equal(predicted, plain)


@pytest.mark.parametrize("n_codebooks", [2, 3])
def test_gaps_are_decoded_as_in_training(codec, speech, n_codebooks):
    """Streams give what the network gives for a batch, also where lost frames have no phase of their own."""
    stream = codec.encoder_stream(n_codebooks, SIZE)
    packets = [Packet(p.codes, np.full_like(p.pitch, 60), 200) for p in stream.push(speech) + stream.finish()]
    decoded = np.concatenate(decode(codec, (stream.speaker, packets), len(speech), {8}))
    codes, pitch = (np.concatenate([getattr(p, name) for p in packets], -1) for name in ("codes", "pitch"))
    lost = torch.zeros(1, len(pitch), dtype=torch.bool)
    lost[:, 8 * SIZE : 9 * SIZE] = True
    vector = torch.from_numpy(codec.speaker_vector(stream.speaker))[None]
    with torch.no_grad():
        filled = fill_gaps(torch.from_numpy(codec.codebooks.decode(codes))[None], torch.from_numpy(pitch)[None], lost)
        whole = codec.decoder(*filled, vector, torch.tensor([n_codebooks]), lost)[0, 0, : len(speech)].numpy()
    # What went out before the gap was bridged is a little different.
    assert np.allclose(decoded / np.abs(decoded).max(), whole / np.abs(whole).max(), atol=3e-4)
