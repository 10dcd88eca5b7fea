"""Sizes of a codec's networks on which windows, packets and overlap-add depend, whatever computes the networks."""

from __future__ import annotations

from dataclasses import dataclass

from audiovq.interfaces import Stretch


@dataclass(frozen=True)
class CodecShape:
    """Sizes of a codec's networks.

    Attributes:
        sample_rate: Hz.
        hop_length: samples of a frame.
        latent_dim: channels of the latents.
        encoder_context, detail_context, pitch_context, decoder_context: frames on either side that one frame of the
            encoder (of its detail trunk alone), of the pitch tracker and of the decoder may depend on.
        step: samples between the decoder's short frames.
        overlap: short frames that cover one sample.
        direct_from: fewest codebooks of speech that gets the part without a source.
        speaker_dim, speaker_levels: values of a quantized speaker vector, and of how many levels each is.
    """

    sample_rate: int
    hop_length: int
    latent_dim: int
    encoder_context: int
    detail_context: int
    pitch_context: int
    decoder_context: int
    step: int
    overlap: int
    direct_from: int
    speaker_dim: int
    speaker_levels: int

    @property
    def rate(self) -> int:
        """Short frames of a frame."""
        return self.hop_length // self.step

    @property
    def n_fft(self) -> int:
        """Samples of a short frame."""
        return self.step * self.overlap

    @property
    def trim(self) -> int:
        """Samples by which a short frame reaches beyond its step on either side."""
        return (self.n_fft - self.step) // 2

    @property
    def around(self) -> int:
        """Short frames needed on either side of those that are wanted."""
        return self.overlap // 2 + 1

    @property
    def margin(self) -> int:
        """Samples of the source needed before and after those that are decoded."""
        return self.around * self.step + self.trim

    def short_frames(self, stretch: Stretch) -> range:
        """The short frames that cover the wanted frames; there are none before the recording or behind it."""
        low, high = stretch.first * self.rate - self.around, stretch.last * self.rate + self.around
        return range(max(low, 0), high if stretch.total is None else min(high, stretch.total * self.rate))
