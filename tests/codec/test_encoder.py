import pytest
import torch

from audiovq.codec.encoder import Filterbank, Trunk, gabor_filters


def test_context_covers_what_a_latent_depends_on():
    torch.manual_seed(0)
    trunk = Trunk(4, [6, 6], [2, 2], [4, 4], [[1], [1, 2]], {"n_filters": 4, "kernel_size": 40, "stride": 10})
    waveform = torch.randn(1, 1, 40 * trunk.hop_length, requires_grad=True)
    trunk(waveform)[0, :, 20].sum().backward()
    touched = waveform.grad[0, 0].nonzero()[:, 0]
    reach = trunk.context_frames * trunk.hop_length
    assert touched.min() >= 20 * trunk.hop_length - reach
    assert touched.max() < 21 * trunk.hop_length + reach


def test_a_length_that_is_no_multiple_of_the_hop_is_refused():
    with pytest.raises(ValueError, match="multiple"):
        Trunk(4, [6], [2], [4], [[]])(torch.zeros(1, 1, 31))


@pytest.mark.parametrize("frequency", [200.0, 1000.0, 4000.0])
def test_filters_start_as_a_mel_spaced_analysis(frequency):
    bank = Filterbank(32, 320, 80, phase=False)
    tone = torch.sin(2 * torch.pi * frequency * torch.arange(8000) / 16000)[None, None]
    loudest = int(bank(tone)[0, :, 40].argmax())
    response = torch.fft.rfft(gabor_filters(32, 320, 16000)[loudest, 0], 16000).abs().argmax()
    assert abs(float(response) - frequency) < 0.15 * frequency + 40
