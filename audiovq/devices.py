"""Moving small tensors to an accelerator without waiting for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor


def to_device(values: Tensor | np.ndarray, device: torch.device) -> Tensor:
    """Values in host memory -> a tensor on ``device``. The host does not wait for work that is under way there."""
    tensor = values if isinstance(values, Tensor) else torch.from_numpy(values)
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)  # from pageable memory the copy would wait


def compile_modules(modules: Iterable[Any], report: Callable[[str], None]) -> None:
    """Let calls of modules go through `compiled`."""
    for module in modules:
        module.forward = compiled(module.forward, type(module).__name__, report)


def compiled(function: Callable[..., Any], name: str, report: Callable[[str], None]) -> Callable[..., Any]:
    """``function`` through torch.compile, or as it is when that fails; ``report`` is called with a line about it."""
    fast: Callable[..., Any] | None = torch.compile(function, dynamic=False)

    def call(*arguments: Any, **settings: Any) -> Any:
        nonlocal fast
        if fast is not None:
            try:
                return fast(*arguments, **settings)
            except Exception as error:
                first = (str(error).splitlines() or [type(error).__name__])[0]
                report(f"{name} cannot be compiled and runs as it is: {first}")
                fast = None
        return function(*arguments, **settings)

    return call
