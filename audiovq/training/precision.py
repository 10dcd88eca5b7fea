"""Device and precision of a run, so that one configuration trains well on every machine."""

from __future__ import annotations

import torch

from audiovq.errors import AudioVQError

_BFLOAT16 = frozenset({"avx512bf16", "amx-bf16", "bf16"})
"""Features of processors, as LLVM names them (x86-64 and ARM), with which products of bfloat16 are fast."""


def pick_device(name: str) -> torch.device:
    """A device of torch by its name; ``auto`` is the GPU where there is one for CUDA, else the CPU.

    Raises:
        AudioVQError: when there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise AudioVQError(f"unknown device {name!r}: give auto, cpu, cuda or mps") from None
    missing = device.type == "cuda" and not torch.cuda.is_available()
    if missing or (device.type == "mps" and not torch.backends.mps.is_available()):
        raise AudioVQError(f"training.device={name}, but PyTorch sees no such device here")
    return device


def use_bfloat16(precision: str, device: torch.device) -> bool:
    """Whether to compute in bfloat16 where that is safe; with ``auto``, where the device has instructions for it.

    Without them its products are emulated, many times slower than those of float32.

    Raises:
        AudioVQError: for an unknown precision.
    """
    if precision not in ("auto", "float32", "bfloat16"):
        raise AudioVQError(f"unknown precision {precision!r}: give auto, float32 or bfloat16")
    return precision == "bfloat16" or (precision == "auto" and bfloat16_is_fast(device.type))


def bfloat16_is_fast(device_type: str) -> bool:
    """Whether a type of device has instructions for products of bfloat16."""
    if device_type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device_type == "cpu" and bool(_BFLOAT16 & processor_features())


def processor_features() -> set[str]:
    """LLVM's names of the processor's instruction sets; empty where LLVM does not know."""
    from audiovq.processor import cpu_features

    try:
        return cpu_features()
    except RuntimeError:
        return set()
