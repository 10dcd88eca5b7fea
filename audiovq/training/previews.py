"""Previews of a run in TensorBoard: audio and spectrograms of validation items."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


def add_previews(writer: Any, step: int, reference: Iterable[Tensor], decoded: Iterable[Tensor], rate: int) -> None:
    """Audio and spectrogram of each reference and its decoded waveform (both (T,)), at ``rate`` Hz."""
    for i, (target, estimate) in enumerate(zip(reference, decoded, strict=True)):
        for name, signal in (("reference", target), ("decoded", estimate)):
            writer.add_audio(f"{name}/{i}", signal.float().cpu().clamp(-1, 1)[None], step, rate)
        figure = spectrograms(target, estimate, rate)
        if figure is not None:
            writer.add_figure(f"spectrogram/{i}", figure, step)


def spectrograms(reference: Tensor, decoded: Tensor, rate: int) -> Any:
    """A matplotlib figure: spectrogram of the reference above that of the decoded waveform (both (T,)).

    None without matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None
    figure = Figure(figsize=(8, 5), layout="constrained")
    for axis, signal, title in zip(figure.subplots(2), (reference, decoded), ("reference", "decoded"), strict=True):
        spectrum = torch.stft(signal.float().cpu(), 512, 128, window=torch.hann_window(512), return_complex=True).abs()
        level = 20 * torch.log10(spectrum + 1e-3)
        extent = (0, len(signal) / rate, 0, rate / 2000)
        axis.imshow(level.numpy(), origin="lower", aspect="auto", extent=extent, vmin=-50, vmax=40, cmap="magma")
        axis.set(title=title, ylabel="kHz")
    return figure
