"""A device that is not there: tensors that are moved to "cuda" stay on the CPU and are marked.

Operations on a marked tensor and one that is not raise the error that a GPU would give, and so does `Tensor.numpy` of a
marked one. Code that forgets to move something fails here, on any machine.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten

CUDA, CPU = torch.device("cuda"), torch.device("cpu")
#: What takes tensors of two devices on a GPU, too: copies, and indices from the CPU.
_MOVES = {
    torch.Tensor.to,
    torch.Tensor.copy_,
    torch.Tensor.__getitem__,
    torch.Tensor.data.__set__,
    torch._has_compatible_shallow_copy_type,
}


class FakeDevice(TorchFunctionMode):
    """While it is entered, ``tensor.to("cuda")``, ``module.to("cuda")`` and ``device="cuda"`` work, in name."""

    def __init__(self) -> None:
        super().__init__()
        self._marked: dict[int, Any] = {}  # storages by address; kept, so that no address is used again

    def is_marked(self, value: Any) -> bool:
        return isinstance(value, torch.Tensor) and value.untyped_storage().data_ptr() in self._marked

    def _mark(self, value: Any) -> None:
        for tensor in tree_flatten(value)[0]:
            if isinstance(tensor, torch.Tensor) and tensor.numel():
                storage = tensor.untyped_storage()
                self._marked[storage.data_ptr()] = storage

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func == torch.Tensor.device.__get__:
            return CUDA if self.is_marked(args[0]) else CPU
        if func in (torch.Tensor.numpy, torch.Tensor.__array__) and self.is_marked(args[0]):
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        if func is torch.Tensor.cpu:
            return args[0].clone() if self.is_marked(args[0]) else args[0]
        wanted = self._wanted(func, args, kwargs)
        if func is torch.Tensor.to and wanted is not None:
            rest = [None if isinstance(a, torch.device | str) else a for a in args[1:]]
            dtype = next((a for a in rest if isinstance(a, torch.dtype)), kwargs.get("dtype"))
            moved = args[0].clone() if dtype is None else args[0].to(dtype).clone()
            if wanted == "cuda":
                self._mark(moved)
            return moved
        tensors = [t for t in tree_flatten((args, kwargs))[0] if isinstance(t, torch.Tensor) and t.dim() and t.numel()]
        marked = [self.is_marked(tensor) for tensor in tensors]
        if func not in _MOVES and any(marked) and not all(marked):
            raise RuntimeError(f"{func}: expected all tensors to be on the same device, but found cuda:0 and cpu")
        kwargs.pop("device", None)
        result = func(*args, **kwargs)
        if (marked and marked[0]) or wanted == "cuda":
            self._mark(result)
        return result

    def _wanted(self, func: Any, args: Any, kwargs: Any) -> str | None:
        """The type of the device that is asked for."""
        device = kwargs.get("device")
        if device is None and func is torch.Tensor.to:
            device = next((a for a in args[1:] if isinstance(a, torch.device | str)), None)
            if device is None and len(args) > 1 and isinstance(args[1], torch.Tensor):
                device = CUDA if self.is_marked(args[1]) else CPU
        return None if device is None else torch.device(device).type
