"""Coding in single precision, whatever precision is asked for around it: codes must not depend on the machine."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from torch import nn

from audiovq.errors import AudioVQError

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
    """See that a model's weights are float32.

    Raises:
        AudioVQError: when they are not.
    """
    found = {parameter.dtype for parameter in model.parameters()} - {torch.float32}
    if found:
        name = str(found.pop()).removeprefix("torch.")
        raise AudioVQError(f"a {type(model).__name__} codes in float32 alone, its weights are {name}: call .float()")
