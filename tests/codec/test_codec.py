import copy
import multiprocessing
import pickle

import numpy as np
import pytest
import torch

from audiovq.errors import AudioVQError
from audiovq.interfaces import EncodedSpeech, Packet
from tests.codec.tiny import HOP, RATE, make_codec, speech_like


@pytest.fixture(scope="module")
def codec():
    return make_codec()


@pytest.fixture(scope="module")
def speech():
    return speech_like(2.3)


def joined(packets):
    codes = np.concatenate([packet.codes for packet in packets], axis=1)
    return codes, np.concatenate([packet.pitch for packet in packets]), [packet.level for packet in packets]


@pytest.mark.parametrize("size", [50, 1111, 20000])
def test_streamed_equals_whole(codec, speech, size):
    whole = codec.encode(speech)
    assert (whole.pitch > 0).any()
    stream, packets = codec.encoder_stream(), []
    for i in range(0, len(speech), size):
        packets += stream.push(speech[i : i + size])
    packets += stream.finish()
    codes, pitch, level = joined(packets)
    assert np.array_equal(codes, whole.codes[0].numpy())
    assert np.array_equal(pitch, whole.pitch[0].numpy())
    assert level == whole.level[0].tolist()
    decoder = codec.decoder_stream(stream.speaker)
    pieces = [decoder.push(packet) for packet in packets]
    pieces.append(decoder.finish(len(speech)))
    assert np.array_equal(np.concatenate(pieces), codec.decode(whole)[0, 0].numpy())


@pytest.mark.parametrize("size", [1, 4, 7])
def test_packets_of_other_sizes(codec, speech, size):
    """They hold the same speaker, stream as they come whole, and decode to the exact length."""
    whole, encoded = codec.encode(speech), codec.encode(speech, packet_frames=size)
    stream, packets = codec.encoder_stream(packet_frames=size), []
    for i in range(0, len(speech), 700):
        packets += stream.push(speech[i : i + 700])
    packets += stream.finish()
    assert {packet.n_frames for packet in packets[:-1]} == {size}
    codes, pitch, level = joined(packets)
    assert np.array_equal(codes, encoded.codes[0].numpy())
    assert np.array_equal(pitch, encoded.pitch[0].numpy())
    assert level == encoded.level[0].tolist()
    assert torch.equal(encoded.speaker, whole.speaker)
    assert codec.decode(encoded).shape == (1, 1, len(speech))


def test_a_known_speaker_lets_packets_out_at_once(codec, speech):
    speaker = codec.encode(speech).speaker[0].numpy()
    waiting, ready = codec.encoder_stream(packet_frames=4), codec.encoder_stream(packet_frames=4, speaker=speaker)
    n = 4 * HOP + ready.lookahead + 1
    assert not waiting.push(speech[:n])
    assert len(ready.push(speech[:n])) == 1
    rest = ready.push(speech[n:]) + ready.finish()
    assert np.array_equal(rest[0].codes, codec.encode(speech, packet_frames=4).codes[0, :, 4:8].numpy())


@pytest.mark.parametrize("packet_frames", [0, -1, 31, 10**6])
def test_packets_of_impossible_sizes_are_refused(codec, speech, packet_frames):
    with pytest.raises(AudioVQError, match="packets of 1 to 30 frames"):
        codec.encode(speech, packet_frames=packet_frames)


def test_chunked_decoding_equals_the_network(codec, speech):
    """One packet that holds all frames: no border, so the samples are the network's own."""
    whole = make_codec()
    whole.packet_frames = 1000
    encoded = whole.encode(speech)
    decoded = whole.decode(encoded)
    with torch.no_grad():
        latents = whole.quantizer.decode(encoded.codes)
        vector = whole.speaker_encoder.decode(encoded.speaker)
        direct = whole.decoder(latents, encoded.pitch, vector, torch.tensor([3]))[..., : len(speech)]
    ratio = decoded.abs().max() / direct.abs().max()
    assert torch.allclose(decoded, direct * ratio, atol=1e-5 * float(decoded.abs().max()) + 1e-7)


@pytest.mark.parametrize("seconds", [(1.0, 1.7), (2.0, 5.3)])
def test_a_batch_has_the_codes_of_its_items(codec, seconds):
    items = [speech_like(length, seed) for seed, length in enumerate(seconds, 1)]
    batch = codec.encode(items)
    for i, item in enumerate(items):
        alone = codec.encode(item)
        n = alone.codes.shape[-1]
        assert torch.equal(batch.codes[i, :, :n], alone.codes[0])
        assert torch.equal(batch.pitch[i, :n], alone.pitch[0])
        assert not batch.codes[i, :, n:].any()


@pytest.mark.parametrize("gain_db", [0, -20, -50])
def test_codes_do_not_depend_on_the_level(codec, speech, gain_db):
    peak = speech / np.abs(speech).max()
    reference, scaled = codec.encode(peak), codec.encode(peak * 10 ** (gain_db / 20))
    assert (scaled.codes == reference.codes).float().mean() > 0.999
    assert (scaled.pitch == reference.pitch).float().mean() > 0.999
    assert torch.equal(reference.level - scaled.level, torch.full_like(reference.level, -2 * gain_db))


def test_a_constant_offset_changes_nothing(codec, speech):
    offset = codec.encode(speech.astype(np.float64) + 0.2)
    assert (offset.codes == codec.encode(speech).codes).float().mean() > 0.999


def test_the_output_follows_the_level(codec, speech):
    loud, quiet = (codec.decode(codec.encode(speech * gain)) for gain in (1.0, 0.01))
    assert abs(20 * torch.log10(quiet.std() / loud.std()) + 40) < 0.1


def test_silence_stays_silent(codec):
    decoded = codec.decode(codec.encode(np.zeros(2 * RATE, np.float32)))
    assert 20 * torch.log10(decoded.abs().max() + 1e-12) < -70


@pytest.mark.parametrize("n_samples", [1, HOP - 1, HOP, HOP + 1, 9600, 9601])
def test_every_length_comes_back_exactly(codec, n_samples):
    encoded = codec.encode(speech_like(1.0)[:n_samples])
    assert codec.decode(encoded).shape == (1, 1, n_samples)


def test_fewer_codebooks_are_the_first_of_more(codec, speech):
    assert torch.equal(codec.encode(speech, n_codebooks=2).codes, codec.encode(speech, n_codebooks=4).codes[:, :2])


def test_a_long_gap_becomes_silence_and_takes_nothing_with_it(codec, speech):
    encoded = codec.encode(speech)
    packets = encoded.channel(0, codec).packets
    stream = codec.decoder_stream(encoded.speaker[0].numpy())
    pieces = [stream.push(packets[0]), stream.push(None, 30)]
    pieces += [stream.push(packet) for packet in packets[2:]] + [stream.finish(len(speech))]
    damaged, whole = np.concatenate(pieces), codec.decode(encoded)[0, 0].numpy()
    margin = (codec.decoder.context_frames + 2) * HOP
    assert np.abs(damaged[30 * HOP + margin : 60 * HOP - margin]).max(initial=0) < 1e-3
    assert np.array_equal(damaged[: 30 * HOP - margin], whole[: 30 * HOP - margin])


def test_results_can_be_trained_on(codec, speech):
    encoded = codec.encode(speech)
    table = torch.nn.Embedding(32, 4)
    table(encoded.codes).sum().backward()
    layer = torch.nn.Conv1d(1, 1, 3)
    layer(codec.decode(encoded)).sum().backward()
    assert table.weight.grad.abs().sum() > 0
    assert layer.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_refused_in_one_line(speech, dtype):
    codec, encoded = make_codec(), make_codec().encode(speech)
    codec.to(dtype)
    for call in (lambda: codec.encode(speech), lambda: codec.decode(encoded), lambda: codec.convert(speech, speech)):
        with pytest.raises(AudioVQError, match=r"SpeechCodec codes in float32 alone.*call \.float\(\)") as error:
            call()
        assert "\n" not in str(error.value)
    assert codec.float().decode(encoded).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_samples_of_half_precision_are_those_of_single_precision(codec, speech, dtype):
    half = torch.from_numpy(speech).to(dtype)
    assert torch.equal(codec.encode(half).codes, codec.encode(half.float()).codes)


def test_autocast_changes_nothing(codec, speech):
    encoded = codec.encode(speech)
    decoded = codec.decode(encoded)
    with torch.autocast("cpu", torch.bfloat16):
        again = make_codec().encode(speech)
        assert torch.equal(make_codec().decode(again), decoded)
    for name in ("codes", "pitch", "level", "speaker"):
        assert torch.equal(getattr(again, name), getattr(encoded, name)), name


def test_integers_are_scaled_by_their_type(codec, speech):
    as_int16 = np.round(speech * 32768).astype(np.int16)
    expected = codec.encode(as_int16.astype(np.float32) / 32768)
    for given in (as_int16, torch.from_numpy(as_int16), as_int16.astype(np.int32) << 16):
        assert torch.equal(codec.encode(given).codes, expected.codes)


@pytest.mark.parametrize("shape", [(16000, 2), (1, 2, 16000), (2, 16000), (1, 1, 1, 100), ()])
def test_other_shapes_are_refused_in_one_line(codec, shape):
    with pytest.raises(AudioVQError, match="expected one recording") as error:
        codec.encode(np.zeros(shape, np.float32))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("bad", [[], np.zeros(0, np.float32), [np.zeros(0, np.float32)], ["speech.wav"]])
def test_nothing_and_nonsense_are_refused(codec, bad):
    with pytest.raises(AudioVQError):
        codec.encode(bad)


@pytest.mark.parametrize("rate", [0, -16000, 999, 10**9, 16000.5, float("nan"), float("inf"), "16000", True])
def test_what_is_no_sample_rate_is_refused(codec, rate):
    samples = np.zeros(RATE // 10, np.float32)
    for refused in (lambda: codec.encode(samples, rate), lambda: codec.target_voice(samples, rate)):
        with pytest.raises(AudioVQError, match="a sample rate is a whole number of Hz"):
            refused()


@pytest.mark.parametrize("rate", [RATE, float(RATE), np.int64(RATE), np.float32(RATE)])
def test_sample_rates_of_any_type_of_number(codec, speech, rate):
    assert torch.equal(codec.encode(speech, rate).codes, codec.encode(speech).codes)


def test_nan_is_refused_with_its_time(codec):
    samples = np.zeros(RATE, np.float32)
    samples[8000] = np.nan
    with pytest.raises(AudioVQError, match=r"0\.500 s"):
        codec.encode(samples)


def test_wrong_numbers_of_codebooks_and_wrong_speakers_are_refused(codec, speech):
    with pytest.raises(AudioVQError, match="1 to 4 codebooks"):
        codec.encode(speech, n_codebooks=5)
    with pytest.raises(AudioVQError, match=r"1 to 4 codebooks, not 2\.5"):
        codec.encode(speech, n_codebooks=2.5)
    encoded = codec.encode(speech)
    with pytest.raises(AudioVQError, match="decode takes the EncodedSpeech that encode returned, not Tensor"):
        codec.decode(encoded.codes)
    with pytest.raises(AudioVQError, match="not str; convert takes names"):
        codec.decode(encoded, speaker="anna")
    with pytest.raises(AudioVQError, match="speaker vectors"):
        codec.decode(encoded, speaker=encoded.speaker[:, :3])
    with pytest.raises(TypeError, match="'pitch' and 'level'"):
        codec.decode(EncodedSpeech(encoded.codes, encoded.speaker, encoded.n_samples))


def test_coded_speech_is_shown_by_its_shapes(codec, speech):
    encoded = codec.encode([speech, speech[:20000]], n_codebooks=2)
    shown = repr(encoded)
    assert f"codes {tuple(encoded.codes.shape)}" in shown
    assert shown.endswith(f"n_samples [{len(speech)}, 20000])")


def test_the_speaker_changes_the_sound_and_not_the_length(codec, speech):
    encoded = codec.encode(speech)
    other = codec.decode(encoded, speaker=(encoded.speaker + 5) % 16)
    assert other.shape == (1, 1, len(speech))
    assert not torch.allclose(other, codec.decode(encoded))


def test_files_round_trip(codec, speech, tmp_path):
    encoded = codec.encode([speech, speech_like(2.3, 5)])
    codec.save(encoded, tmp_path / "a.avq")
    loaded = codec.load(tmp_path / "a.avq")
    for name in ("codes", "pitch", "level", "speaker", "n_samples"):
        assert torch.equal(getattr(loaded, name), getattr(encoded, name)), name


def test_files_with_short_packets_round_trip(codec, speech, tmp_path):
    encoded = codec.encode(speech, packet_frames=4)
    codec.save(encoded, tmp_path / "a.avq")
    loaded = codec.load(tmp_path / "a.avq")
    assert loaded.packet_frames == 4
    assert torch.equal(loaded.level, encoded.level)
    assert torch.equal(codec.decode(loaded), codec.decode(encoded))


def test_training_and_inference_code_alike(codec, speech):
    """The forward pass of training, on a normalised stretch without borders, chooses the codes of the stream."""
    whole = make_codec()
    whole.packet_frames = 1000
    encoded = whole.encode(speech[: 320 * 100])
    from audiovq.codec.signal import TARGET_DB, HighPass, frame_levels

    waveform = torch.from_numpy(HighPass(RATE)(speech[: 320 * 100]))[None]
    waveform = waveform * 10 ** ((TARGET_DB - frame_levels(waveform, HOP).amax()) / 20)
    with torch.no_grad():
        vector = whole.speaker_encoder.decode(encoded.speaker)
        coded = whole(waveform[None], vector, n_codebooks=3)
    assert (coded.pitch == encoded.pitch).float().mean() > 0.98
    assert (coded.quantized.codes == encoded.codes).float().mean() > 0.98


def test_packets_can_be_cut_to_fewer_codebooks():
    packet = Packet(np.zeros((4, 5), np.int64), np.zeros(5, np.int64), 7)
    assert packet.first(2).codes.shape == (2, 5)
    assert packet.first(None).codes.shape == (4, 5)
    assert packet.first(2).level == 7


def test_floats_beyond_full_scale_give_a_warning(codec, speech):
    with pytest.warns(UserWarning, match="full scale is 1"):
        codec.encode(np.float32(32768) * speech)


def test_silence_converted_stays_silent(codec):
    converted = codec.convert(np.zeros(2 * RATE, np.float32), speech_like(6.0, 3))
    assert 20 * torch.log10(converted.abs().max() + 1e-12) < -70


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda codec: pickle.loads(pickle.dumps(codec))])
def test_a_copy_of_a_model_in_use_codes_alike(codec, speech, copied):
    encoded = codec.encode(speech)
    other = copied(codec)
    assert torch.equal(other.encode(speech).codes, encoded.codes)
    assert torch.equal(other.decode(encoded), codec.decode(encoded))


def _codes_in_child(codec, speech, queue):
    queue.put(codec.encode(speech).codes.numpy())


def test_a_process_forked_from_one_that_coded_codes_alike(codec, speech):
    expected = codec.encode(speech).codes.numpy()
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    children = [context.Process(target=_codes_in_child, args=(codec, speech, queue)) for _ in range(2)]
    for child in children:
        child.start()
    found = [queue.get(timeout=240) for _ in children]
    for child in children:
        child.join()
    assert all(np.array_equal(codes, expected) for codes in found)


class Coded(torch.utils.data.Dataset):
    """Codes of recordings, coded where they are asked for."""

    def __init__(self, codec):
        self.codec = codec

    def __len__(self):
        return 4

    def __getitem__(self, i):
        return self.codec.encode(speech_like(0.5, i)).codes[0]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_workers_of_a_data_loader_code_alike(codec):
    items = Coded(codec)
    expected = [items[i] for i in range(4)]  # the codec is in use before the workers are forked
    loader = torch.utils.data.DataLoader(items, batch_size=None, num_workers=2, timeout=240)
    assert all(torch.equal(codes, one) for codes, one in zip(loader, expected, strict=True))


@pytest.mark.parametrize("rate", [8000, 44100, 48000])
def test_one_codec_takes_sources_of_any_rate_in_turn(codec, rate):
    other = codec.encode(speech_like(1.0), sample_rate=RATE)
    encoded = codec.encode(np.zeros(rate, np.float32) + 0.1, sample_rate=rate)
    assert encoded.n_samples.tolist() == [RATE]
    assert torch.equal(codec.encode(speech_like(1.0)).codes, other.codes)


def test_decoding_starts_with_the_first_packet(codec, speech):
    encoded = codec.encode(speech)
    stream = codec.decoder_stream(encoded.speaker[0].numpy())
    first = stream.push(encoded.channel(0, codec).packets[0])
    assert 0 < len(first) < codec.packet_frames * HOP
    assert np.array_equal(first, codec.decode(encoded)[0, 0, : len(first)].numpy())


def test_gradient_reaches_every_weight():
    codec = make_codec().train()
    waveform = torch.from_numpy(speech_like(1.2))[None, None]
    speaker = codec.speaker_encoder(waveform)
    made = codec(waveform, speaker, n_codebooks=codec.n_codebooks)
    (made.waveform.abs().mean() + made.quantized.loss).backward()
    # The pitch tracker has a task of its own.
    missing = [name for name, p in codec.named_parameters() if p.grad is None and not name.startswith("pitch.")]
    assert missing == []
