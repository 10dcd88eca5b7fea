"""Which precision trains fastest here, so that one configuration does on every machine."""

from __future__ import annotations

import torch

_BFLOAT16 = frozenset({"avx512bf16", "amx-bf16", "bf16"})
"""Features of processors, as LLVM names them (x86-64 and ARM), with which products of bfloat16 are fast."""


def precision_for(name: str, accelerator: str) -> str:
    """Lightning's name of a precision; ``"auto"`` is ``"bf16-mixed"`` where bfloat16 is fast, else ``"32-true"``.

    On a processor without instructions for bfloat16 the products are emulated, many times slower than those of float32.
    """
    if name != "auto":
        return name
    return "bf16-mixed" if bfloat16_is_fast(accelerator) else "32-true"


def bfloat16_is_fast(accelerator: str) -> bool:
    """Whether Lightning's ``accelerator`` has instructions for products of bfloat16."""
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if accelerator == "mps" or (accelerator == "auto" and torch.backends.mps.is_available()):
        return False
    return bool(_BFLOAT16 & processor_features())


def processor_features() -> set[str]:
    """What the processor can do, by LLVM's names; empty where LLVM does not know."""
    import llvmlite.binding as llvm

    try:
        return {name for name, has in llvm.get_host_cpu_features().items() if has}
    except RuntimeError:
        return set()
