"""What the processor that numba compiles for can do."""

from __future__ import annotations

from typing import Any

from llvmlite import binding
from numba.core import config as numba_config

config: Any = numba_config  # its settings are made at run time


def cpu_features() -> set[str]:
    """Names (LLVM's) of its instruction sets."""
    if config.CPU_FEATURES is not None:
        return {name[1:] for name in config.CPU_FEATURES.split(",") if name.startswith("+")}
    return {name for name, present in binding.get_host_cpu_features().items() if present}
