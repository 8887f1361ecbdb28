"""A GPU that is not there: tensors without values that know their devices, which torch refuses to mix."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

GPU = torch.device("cuda", 0)
NUMBER = 7
"""What every number read from a tensor is."""

torch._C._ensureCUDADeviceGuardSet()  # before the first backward pass of the process, which counts the devices

aten = torch.ops.aten
_COMPARISONS = (aten.equal.default, aten.allclose.default)


class _Mode(FakeTensorMode):
    """Gives a number where one is read from a tensor without values: False for truth values, True for equality."""

    def dispatch(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _COMPARISONS:
            FakeTensor._find_common_device(func, args[:2])
            return True
        if func is aten._local_scalar_dense.default:
            return {torch.bool: False}.get(args[0].dtype, NUMBER if args[0].dtype in INTEGERS else float(NUMBER))
        return super().dispatch(func, types, args, kwargs or {})


INTEGERS = (torch.int64, torch.int32)


def _numpy(tensor: FakeTensor) -> np.ndarray:
    if tensor.device.type != "cpu":
        raise TypeError(f"can't convert {tensor.device} device type tensor to numpy")
    dtype = torch.empty(0, dtype=tensor.dtype, device="cpu")
    return np.random.default_rng(0).random(tuple(tensor.shape)).astype(str(dtype.dtype).removeprefix("torch."))


def _backward(loss: FakeTensor) -> None:
    """Call the nodes of the graph one by one: torch's own engine asks the driver for streams of the GPU."""
    arguments: dict[Any, list[Any]] = {loss.grad_fn: [torch.ones_like(loss)]}
    with torch.no_grad():
        while arguments:
            node = max(arguments, key=lambda found: found._sequence_nr())  # those of a forward pass are made in order
            given = arguments.pop(node)
            if hasattr(node, "variable"):
                node.variable.grad = given[0] if node.variable.grad is None else node.variable.grad + given[0]
                continue
            results = (
                node.apply(*given) if isinstance(node, torch.autograd.function.BackwardCFunction) else node(*given)
            )
            results = results if isinstance(results, tuple) else (results,)
            for (following, place), result in zip(node.next_functions, results, strict=False):
                if following is not None and result is not None:
                    held, wanted = arguments.setdefault(following, []), following._input_metadata[place]
                    held += [None] * (len(following._input_metadata) - len(held))
                    assert result.device == wanted.device
                    gradient = result.sum_to_size(wanted.shape).to(wanted.dtype)
                    held[place] = gradient if held[place] is None else held[place] + gradient


def _deepcopy(tensor: FakeTensor, memo: dict[int, Any]) -> Tensor:
    """Torch's own copies the storage, which is not there."""
    copied = tensor.detach().clone()
    memo[id(tensor)] = nn.Parameter(copied, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else copied
    return memo[id(tensor)]


def _apply(module: nn.Module, function: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """As torch's, without its test that nobody else refers to a tensor: the mode does."""
    for child in module.children():
        _apply(child, function)
    for name, tensor in module._buffers.items():
        module._buffers[name] = None if tensor is None else function(tensor)
    for name, weight in module._parameters.items():
        if weight is not None:
            module._parameters[name] = nn.Parameter(function(weight.detach()), weight.requires_grad)
    return module


def _bytes(tensors: dict[str, Tensor]) -> bytes:
    assert tensors and {tensor.device.type for tensor in tensors.values()} == {"cpu"}
    return b""


@contextmanager
def pretended_gpu(*chosen_in: str) -> Iterator[None]:
    """Run a block in which tensors have no values and ``choose_device`` of the modules ``chosen_in`` returns the GPU.

    Tensors from outside are on the CPU. Values that reach numpy are random.
    """
    with ExitStack() as stack:
        for module in chosen_in:
            stack.enter_context(patch(f"lrsa_coupled.{module}.choose_device", lambda *_, **__: GPU))
        stack.enter_context(patch("torch.cuda.amp.common.amp_definitely_not_available", lambda: False))
        stack.enter_context(patch("torch.cuda.is_bf16_supported", lambda *_: True))
        stack.enter_context(patch("safetensors.torch.save", _bytes))
        stack.enter_context(patch.object(FakeTensor, "numpy", _numpy, create=True))
        stack.enter_context(patch.object(FakeTensor, "backward", _backward, create=True))
        stack.enter_context(patch.object(FakeTensor, "__deepcopy__", _deepcopy, create=True))
        stack.enter_context(patch.object(nn.Module, "_apply", _apply))
        stack.enter_context(_Mode(allow_non_fake_inputs=True))
        yield
