from __future__ import annotations

import pytest
import torch

from audiovq.codec.filterbank import Filterbank, gabor_filters
from audiovq.speech.backbone import interleave
from audiovq.speech.encoder import SpeechEncoder
from audiovq.speech.parallel import InverseSTFTHead


def test_context_covers_what_a_latent_depends_on():
    torch.manual_seed(0)
    encoder = SpeechEncoder(
        4, [6, 6], [2, 2], [4, 4], [[1], [1, 2]], filterbank={"n_filters": 4, "kernel_size": 40, "stride": 10}
    )
    waveform = torch.randn(1, 1, 40 * encoder.hop_length, requires_grad=True)
    encoder(waveform)[0, :, 20].sum().backward()
    touched = waveform.grad[0, 0].nonzero()[:, 0]
    reach = encoder.context_frames * encoder.hop_length
    assert touched.min() >= 20 * encoder.hop_length - reach
    assert touched.max() < 21 * encoder.hop_length + reach


def test_a_length_that_is_no_multiple_of_the_hop_is_refused():
    encoder = SpeechEncoder(4, [6], [2], [4], [[]])
    with pytest.raises(ValueError, match="multiple"):
        encoder(torch.zeros(1, 1, 31))


@pytest.mark.parametrize("frequency", [200.0, 1000.0, 4000.0])
def test_filters_start_as_a_mel_spaced_analysis(frequency):
    bank = Filterbank(32, 320, 80, phase=False)
    tone = torch.sin(2 * torch.pi * frequency * torch.arange(8000) / 16000)[None, None]
    loudest = int(bank(tone)[0, :, 40].argmax())
    response = torch.fft.rfft(gabor_filters(32, 320, 16000)[loudest, 0], 16000).abs().argmax()
    assert abs(float(response) - frequency) < 0.15 * frequency + 40


def test_overlap_add_of_a_constant_spectrum_has_no_ripple():
    """The windows add up to a constant, so that a steady tone comes out steady."""
    head = InverseSTFTHead(3, hop_length=20)
    frames = torch.ones(1, 30, head.n_fft) * torch.hann_window(head.n_fft) * head.window
    middle = head.add(frames)[0, head.n_fft : -head.n_fft]
    torch.testing.assert_close(middle, torch.ones_like(middle), atol=1e-5, rtol=1e-5)


def test_interleave_orders_steps_of_time():
    x = torch.arange(12.0).view(1, 6, 2)  # 3 channels x factor 2, 2 steps
    assert interleave(x, 3)[0, 0].tolist() == [0.0, 2.0, 1.0, 3.0]
