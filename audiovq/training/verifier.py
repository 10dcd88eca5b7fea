"""Who speaks, as a network tells it: the judge that conversion is trained against."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiovq.errors import AudioVQError
from audiovq.files import atomic_write, cache_dir
from audiovq.nn import DilatedResidualUnit
from audiovq.training.losses import stft

_N_FFT, _HOP = 512, 160


class SpeakerVerifier(nn.Module):
    """Log-mel spectrogram, dilated residual units, attentive mean and deviation, and a vector of length one.

    Each training speaker has a direction; the score is the cosine (Deng et al. 2019, ArcFace; additive margin as Wang
    et al. 2018). Made for stretches of about a second: what a converter is trained on.

    Args:
        speakers: names, in the order of the scores.
        dim: of the vector.
        channels, dilations: of the units, at 50 frames a second.
        n_mels: bands between 40 Hz and 7600 Hz.
    """

    window: Tensor
    bands: Tensor

    def __init__(
        self,
        speakers: Sequence[str],
        dim: int = 128,
        channels: int = 192,
        dilations: Sequence[int] = (1, 2, 4, 1),
        n_mels: int = 64,
    ) -> None:
        super().__init__()
        import librosa

        self.config = {
            "speakers": list(speakers),
            "dim": dim,
            "channels": channels,
            "dilations": list(dilations),
            "n_mels": n_mels,
        }
        self.speakers = list(speakers)
        window = torch.hann_window(_N_FFT)
        self.register_buffer("window", window / window.square().sum().sqrt(), persistent=False)
        bands = torch.from_numpy(librosa.filters.mel(sr=16000, n_fft=_N_FFT, n_mels=n_mels, fmin=40, fmax=7600))
        self.register_buffer("bands", bands / bands.sum(1, keepdim=True), persistent=False)
        self.entry = nn.Conv1d(n_mels, channels, 5, stride=2, padding=2)
        self.units = nn.Sequential(*[DilatedResidualUnit(channels, dilation=d) for d in dilations])
        self.attention = nn.Conv1d(channels, channels, 1)
        self.project = nn.Linear(2 * channels, dim)
        self.directions = nn.Parameter(torch.randn(len(self.speakers), dim))

    def features(self, waveform: Tensor) -> Tensor:
        """(B, 1, T) -> log-mel magnitudes (B, n_mels, frames); the level of the recording is taken out."""
        with torch.autocast(waveform.device.type, enabled=False):
            spectrum = stft(waveform.squeeze(1).float(), self.window, _HOP)
            power = torch.matmul(self.bands, spectrum.real.square() + spectrum.imag.square())
            size = power.mean(dim=(1, 2), keepdim=True) + 1e-8
            return 0.5 * torch.log(power / size + 1e-5) + 2.0

    def forward(self, waveform: Tensor) -> Tensor:
        """(B, 1, T) at 16 kHz -> vectors of length one (B, dim)."""
        x = self.units(self.entry(self.features(waveform)))
        weights = torch.softmax(self.attention(x).float(), dim=-1)
        x = x.float()
        mean = (weights * x).sum(-1)
        deviation = ((weights * x.square()).sum(-1) - mean.square()).clamp_min(1e-5).sqrt()
        return F.normalize(self.project(torch.cat([mean, deviation], dim=1)).float(), dim=1)

    def cosines(self, vectors: Tensor) -> Tensor:
        """(B, dim) -> cosines to each speaker's direction (B, n_speakers)."""
        return vectors @ F.normalize(self.directions.float(), dim=1).t()

    def loss(self, vectors: Tensor, speaker: Tensor, margin: float = 0.2, scale: float = 20.0) -> Tensor:
        """Cross-entropy of scaled cosines, the right one diminished by ``margin``; ``speaker`` (B,) int."""
        cosines = self.cosines(vectors)
        cosines = cosines - margin * F.one_hot(speaker, len(self.speakers))
        return F.cross_entropy(scale * cosines, speaker)

    def nearer(
        self, vectors: Tensor, wanted: Tensor, other: Tensor, margin: float = 0.2, scale: float = 20.0
    ) -> Tensor:
        """Cross-entropy of being nearer to ``wanted`` than to ``other`` by ``margin``; vectors (B, dim) each."""
        ahead = (vectors * (wanted - other)).sum(1) - margin
        return F.softplus(-scale * ahead).mean()

    def save(self, folder: str | Path) -> None:
        """Write ``config.json`` and ``model.safetensors``."""
        from safetensors.torch import save_file

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(folder / "config.json") as path:
            path.write_text(json.dumps(self.config, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        with atomic_write(folder / "model.safetensors") as path:
            save_file({k: v.contiguous() for k, v in self.state_dict().items()}, path)

    @classmethod
    def load(cls, folder: str | Path) -> SpeakerVerifier:
        """From a folder that `save` wrote, or from the run of that name.

        Raises:
            AudioVQError: when there is none.
        """
        from safetensors.torch import load_file

        run = cache_dir() / "runs" / folder / "latest"
        folder = run if run.is_dir() else Path(folder)
        if not (folder / "model.safetensors").is_file():
            raise AudioVQError(f"no speaker verifier in {folder}: train one with experiment=verifier_debian")
        verifier = cls(**json.loads((folder / "config.json").read_text(encoding="utf-8")))
        verifier.load_state_dict(load_file(folder / "model.safetensors"))
        return verifier.eval().requires_grad_(False)
