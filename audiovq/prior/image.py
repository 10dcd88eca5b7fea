"""Sampling of images: an image codec and a prior for each of its levels."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from audiovq.errors import AudioVQError
from audiovq.image.codec import EncodedImage, ImageCodec
from audiovq.prior.pixel import PixelPrior
from audiovq.prior.sampling import SamplingConfig


def prior_folder(model: Path, level: int) -> Path:
    """Folder of the prior of a level (0 is the coarsest) in an image model's folder."""
    return model / f"prior_{level}"


def load_priors(codec: ImageCodec) -> list[PixelPrior]:
    """The priors in a loaded codec's folder, coarse to fine; an empty list when one is missing.

    Raises:
        AudioVQError: when one is damaged.
    """
    if codec.folder is None:
        return []
    folders = [prior_folder(codec.folder, level) for level in range(len(codec.levels))]
    if not all((folder / "config.json").is_file() for folder in folders):
        return []
    return [PixelPrior.from_pretrained(folder) for folder in folders]


class ImagePrior:
    """Samples codes level by level, each conditioned on the coarser one.

    Args:
        codec: the codec whose codes are modelled.
        priors: one for each level, coarse to fine.

    Raises:
        AudioVQError: when they do not fit each other.
    """

    def __init__(self, codec: ImageCodec, priors: list[PixelPrior]) -> None:
        levels = [(k, n) for k, n, _ in codec.levels]
        if [(p.n_codebooks, p.codebook_size) for p in priors] != levels:
            raise AudioVQError(f"the priors do not fit the levels {levels} of model {codec.name}")
        stale = [p.name for p in priors if p.codec not in ("", codec.model_hash.hex())]
        if stale:
            raise AudioVQError(f"prior {stale[0]} was trained on the codes of another model than {codec.name}")
        self.codec, self.priors = codec, priors

    @classmethod
    def from_pretrained(cls, name_or_dir: str | Path | None = None) -> ImagePrior:
        """Load a bundled image model, or one in a folder, with the priors in its folder.

        Raises:
            AudioVQError: when the model or a prior is missing or damaged.
        """
        codec = ImageCodec.from_pretrained(name_or_dir)
        priors = load_priors(codec)
        if not priors:
            raise AudioVQError(f"model {codec.name} has no priors in {codec.folder}: train them (see recipes/images)")
        return cls(codec, priors)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the images in pixels."""
        height, width = self.priors[-1].size
        return height * self.codec.levels[-1][2], width * self.codec.levels[-1][2]

    @property
    def n_classes(self) -> int:
        """Number of classes; 0 for an unconditional model."""
        return int(self.priors[0].config["n_classes"])

    def sample(
        self,
        n: int = 1,
        label: int | None = None,
        sampling: SamplingConfig | None = None,
        seed: int = 0,
        first: int = 0,
        progress: Callable[[int, int], None] | None = None,
    ) -> EncodedImage:
        """Sample the codes of ``n`` images; see `PixelPrior.sample`.

        Args:
            label: class index; None for no class.
            progress: called with the number of codes done and the total.

        Raises:
            AudioVQError: for a class that the model does not have.
        """
        if label is not None and not 0 <= label < self.n_classes:
            raise AudioVQError(f"model {self.codec.name} has {self.n_classes} classes, got class {label}")
        labels = None if label is None else torch.full((n,), label)
        codes: list[Tensor] = []
        n_codes = sum(math.prod(prior.size) for prior in self.priors)
        for prior in self.priors:
            before = sum(c[0].numel() for c in codes)

            def report(rows: int, _: int, before: int = before, width: int = prior.size[1]) -> None:
                if progress is not None:
                    progress(before + rows * width, n_codes)

            coarser = codes[-1] if prior.context is not None else None
            codes.append(prior.sample(n, sampling, seed, first, report, label=labels, coarser=coarser))
        return EncodedImage(tuple(codes), self.size)
