"""Latents that look like something: points around a few centres."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def clustered() -> Callable[..., Tensor]:
    """``clustered(B, C, *dims, centres=40)``: latents around the same centres in every call."""
    generator = torch.Generator().manual_seed(1)

    def make(n_items: int, channels: int, *dims: int, centres: int = 40, noise: float = 0.1) -> Tensor:
        middle = torch.randn(centres, channels, generator=torch.Generator().manual_seed(2))
        which = torch.randint(centres, (n_items, *dims), generator=generator)
        latents = middle[which].movedim(-1, 1)
        return latents + noise * torch.randn(latents.shape, generator=generator)

    return make
