"""Devices and floating-point formats; the only file that names bfloat16 for the blocks.

With ``bf16`` the blocks run under autocast: matrix products and attention in bfloat16, accumulated in float32. By
``in_full_precision`` or by its type stays in float32:

* master weights, optimiser states and averages: an update is smaller than the spacing of bfloat16;
* coordinates, their sinusoids and the lift: neighbours on a fine mesh have the same bfloat16 coordinates;
* the stream of features that the blocks add to: sums of many small terms would lose them;
* the head, the return to physical units, the loss: errors of 1e-3 are measured there;
* sums of exponentials over the points in chunks and over ranks: their number is not bounded;
* FFTs: there are none in bfloat16;
* all of an operator that predicts a basis, by the user's choice: small differences between its columns count, which
  rounding hides (the shipped Helmholtz modes: 4.0 % off in float32, 11.1 % in bfloat16).

What is in bfloat16 beside the products: the scores of attention, their exponentials and, with ``by_products``, the sums
that divide them. Torch's own attention is no faster in bfloat16 than in float32 on a CPU, its backward pass two to
three times slower. Where the scores a point are few, attention in training is therefore written as products of
matrices; elsewhere it runs in float32 then.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from torch import Tensor

MAX_TOKENS = 256
"""Scores a point up to which they are kept for the backward pass."""


def choose_device(name: str, *, rank: int = 0) -> torch.device:
    """Return the CPU for ``cpu``, a GPU for ``cuda`` and, when there is one, for ``auto``; ranks share few GPUs.

    ValueError for another name, or when a GPU is asked for and none is usable.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device must be auto, cpu or cuda, got '{name}'")
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device cuda was asked for, but torch finds no usable GPU; use device auto or cpu")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", rank % torch.cuda.device_count())


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Return the context in which the blocks run, autocast to bfloat16 for ``bf16``; ValueError for another name."""
    if precision not in ("fp32", "bf16"):
        raise ValueError(f"precision must be fp32 or bf16, got '{precision}'")
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def in_full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Return the context of what stays out of bfloat16, for the reasons above."""
    return torch.autocast(device.type, enabled=False)


def by_products(queries: Tensor, keys: Tensor, values: Tensor) -> bool:
    """Return whether attention is to be written as products of matrices, for the reason above."""
    few = min(queries.shape[-2], keys.shape[-2]) <= MAX_TOKENS
    return few and _trains_on_cpu(values) and values.dtype == torch.bfloat16


def for_attention(queries: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries, keys and values in the type for torch's attention: that of the values, or see above."""
    dtype = torch.promote_types(values.dtype, torch.float32) if _trains_on_cpu(values) else values.dtype
    return queries.to(dtype), keys.to(dtype), values.to(dtype)


def _trains_on_cpu(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu" and torch.is_grad_enabled()


def product_rate(precision: str, device: torch.device) -> float:
    """Measure the rate of large square matrix products [FLOP/s] on the device, on the CPU with this number of threads.

    ``fp32`` products are those of the operators: on a GPU without TF32 unless torch is set so.
    """
    from torch.utils.benchmark import Timer

    size = 8192 if device.type == "cuda" else 2048
    factor = torch.rand(size, size, device=device, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
    timer = Timer("factor @ factor", globals={"factor": factor}, num_threads=torch.get_num_threads())
    return 2.0 * size**3 / min(timer.timeit(1).median for _ in range(10))


def cpu_has_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Return whether the CPU multiplies bfloat16 natively (AVX512-BF16, AMX, Arm BF16); else bf16 is slower."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    flags = next((line.split(":", 1)[1].split() for line in lines if line.startswith(("flags", "Features"))), [])
    return any(flag in flags for flag in ("avx512_bf16", "amx_bf16", "bf16"))
