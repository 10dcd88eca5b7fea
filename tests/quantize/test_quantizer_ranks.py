"""Two real processes with half of the batch each end where one process with the whole batch does."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from audiovq.quantize import FiniteScalarQuantizer, ResidualVectorQuantizer, VectorQuantizer

STEPS = 24


def quantizers() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    quick = {"decay": 0.8, "restart_below": 0.2, "init_batches": 2}
    return {
        "ema": VectorQuantizer(8, 24, init_after=0, **quick),
        "delayed": VectorQuantizer(8, 24, init_after=4, **quick),
        "gradient": VectorQuantizer(8, 24, codebook="gradient", **quick),
        "factorised": VectorQuantizer(8, 24, codebook_dim=3, normalised=True, **quick),
        "residual": ResidualVectorQuantizer(8, 3, 24, init_after=2, **quick),
        "finite": FiniteScalarQuantizer((4,) * 4, 8),
    }


def batch(step: int) -> Tensor:
    """Half of the centres move away half-way, so that codes die and restart."""
    centres = 3 * torch.randn(40, 8, generator=torch.Generator().manual_seed(5))
    centres[:20] += 20.0 * (step >= STEPS // 2)
    generator = torch.Generator().manual_seed(100 + step)
    which = torch.randint(40, (8, 30), generator=generator)
    return (centres[which] + 0.1 * torch.randn(8, 30, 8, generator=generator)).movedim(-1, 1)


def train(rank: int, world: int) -> dict[str, dict]:
    states = {}
    for name, quantizer in quantizers().items():
        torch.manual_seed(rank)  # whatever the ranks draw for themselves differs
        restarts, metrics = 0.0, []
        for step in range(STEPS):
            # The second rank has fewer items than the first.
            part = batch(step).tensor_split([5])[rank] if world > 1 else batch(step)
            quantized = quantizer(part)
            restarts += float(quantized.metrics["restarts"])
            metrics.append(float(quantized.metrics["perplexity"]))
        states[name] = {"state": quantizer.state_dict(), "restarts": restarts, "perplexity": metrics}
    return states


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.save(train(rank, 2), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def runs() -> list[dict[str, dict]]:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(worker, (folder,), nprocs=2)
        ranks = [torch.load(Path(folder) / f"{rank}.pt") for rank in range(2)]
    return [*ranks, train(0, 1)]


@pytest.mark.parametrize("name", ["ema", "delayed", "gradient", "factorised", "residual", "finite"])
def test_two_ranks_end_where_one_does(runs, name):
    first, second, joint = (run[name] for run in runs)
    for key, value in joint["state"].items():
        assert torch.equal(first["state"][key], second["state"][key]), f"ranks disagree on {key}"
        torch.testing.assert_close(
            first["state"][key], value, rtol=1e-4, atol=1e-4, msg=lambda m, key=key: f"{key}: {m}"
        )
    assert first["restarts"] == second["restarts"] == joint["restarts"]
    torch.testing.assert_close(first["perplexity"], joint["perplexity"], rtol=1e-4, atol=1e-4)
    if name != "finite":
        assert joint["restarts"] > 0, "the test must see restarts"
