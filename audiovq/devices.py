"""What PyTorch modules share: devices, compilation, precision, configurations, and weights in 8 bits.

Coding is in float32 whatever is asked for around it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from audiovq.errors import AudioVQError


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


P = ParamSpec("P")
R = TypeVar("R")


def full_precision(function: Callable[P, R]) -> Callable[P, R]:
    """The function without gradients and without autocast: codes and samples depend on neither."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        with torch.no_grad(), torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            return function(*args, **kwargs)

    return call


def check_float32(model: nn.Module) -> None:
    """See that a model's weights are float32. Raises `AudioVQError` when they are not."""
    found = {parameter.dtype for parameter in model.parameters()} - {torch.float32}
    if found:
        name = str(found.pop()).removeprefix("torch.")
        raise AudioVQError(f"a {type(model).__name__} codes in float32 alone, its weights are {name}: call .float()")


def arguments(given: Mapping[str, Any]) -> dict[str, Any]:
    """What ``config.json`` holds of a constructor that calls this with its ``locals()`` before anything else."""
    return {name: _plain(value) for name, value in given.items() if name not in ("self", "__class__")}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, Sequence) and not isinstance(value, str) else value


SCALE = ".row_scale"
"""The scales of the tensor NAME are stored as ``NAME.row_scale``."""


def round_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(..., O, I) -> int8 of the same shape and scales (..., O): each row's largest magnitude becomes 127."""
    weight = weight.detach().float()
    scale = weight.abs().amax(-1).clamp_min(1e-12) / 127
    return (weight / scale[..., None]).round().clamp(-127, 127).to(torch.int8), scale


def restore_rows(rows: Tensor, scale: Tensor) -> Tensor:
    """What `round_rows` gave -> float32; scales of fewer dimensions are for all that lies below theirs."""
    return rows.float() * scale.view(*scale.shape, *[1] * (rows.dim() - scale.dim()))


def restore(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a file, with those in 8 bits and all floating-point ones in float32 and the scales gone."""
    found = {}
    for name, tensor in tensors.items():
        if name.endswith(SCALE):
            continue
        scale = tensors.get(name + SCALE)
        if scale is not None:
            found[name] = restore_rows(tensor, scale)
        else:
            found[name] = tensor.float() if tensor.is_floating_point() else tensor
    return found
