"""Whether an operation runs as a Triton kernel or in torch, and how a kernel is launched.

Tensors on a CUDA or ROCm GPU take the kernels, all others the vectorised torch code. The environment variable
``YOLOV2_BACKEND=torch`` keeps to torch everywhere. Triton itself is imported when the first kernel is needed.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache, wraps
from importlib.util import find_spec
from threading import RLock
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.utils._python_dispatch import _get_current_dispatch_mode

from reference.region import Region

T = TypeVar("T")

Backend = Literal["auto", "torch", "triton"]

#: what the kernels read; they compute in float32, so float64 stays with torch
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


class Launch(NamedTuple):
    """One launch as `recording` saw it."""

    kernel: Any  # the function under @triton.jit
    args: tuple
    warps: int
    alone: bool
    constants: dict[str, Any]


def _chosen() -> Backend:
    choice = os.environ.get("YOLOV2_BACKEND", "auto")
    if choice == "torch":
        return "torch"
    if choice == "auto":
        return "auto"
    raise ValueError(f"YOLOV2_BACKEND={choice}: not one of auto, torch")


_backend: Backend = _chosen()
#: where `empty_strided` gets its memory; tests put poison in and canaries around it
allocate: Callable[..., Tensor] = torch.empty_strided
_recorded: list[Launch] | None = None


@lru_cache(maxsize=1)
def triton_installed() -> bool:
    """Whether Triton can be imported; it exists for Linux only."""
    return find_spec("triton") is not None


def use_triton(x: Tensor) -> bool:
    """Whether an operation on `x` runs as a kernel."""
    if _backend == "torch":
        return False
    return (x.is_cuda or _backend == "triton") and triton_installed()


@contextmanager
def use_backend(name: Backend) -> Iterator[None]:
    """Choose for a while: "torch" never runs a kernel, "triton" does on CPU tensors too.

    The latter needs ``TRITON_INTERPRET=1`` in the environment before Triton is imported: the kernels then
    run in its interpreter, for tests.
    """
    global _backend
    before, _backend = _backend, name
    try:
        yield
    finally:
        _backend = before


@contextmanager
def recording() -> Iterator[list[Launch]]:
    """Collect launches instead of running them, so that they can be compiled without a GPU.

    Results of operations are uninitialised memory meanwhile.
    """
    global _recorded
    before, _recorded = _recorded, []
    try:
        with use_backend("triton"):
            yield _recorded
    finally:
        _recorded = before


def empty_strided(
    shape: Sequence[int], stride: Sequence[int], like: Tensor, dtype: torch.dtype | None = None
) -> Tensor:
    """Uninitialised memory for a kernel's output, on the device of `like` and, unless given, of its dtype.

    Every output comes from here: tests put poison in and canaries around it.
    """
    return allocate(tuple(shape), tuple(stride), dtype=dtype or like.dtype, device=like.device)


def empty(shape: Sequence[int], like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """As `empty_strided`, row-major."""
    strides, size = [], 1
    for n in reversed(shape):
        strides.append(size)
        size *= max(n, 1)
    return empty_strided(shape, strides[::-1], like, dtype)


def layout(x: Tensor) -> torch.memory_format:
    """The memory format that results shaped like `x` (B, C, H, W) get."""
    last = x.stride(1) == 1 and x.shape[1] > 1
    return torch.channels_last if last else torch.contiguous_format


def all_registers(warps: int) -> int:
    """Registers that a thread can have at most, of the 65,536 of an NVIDIA multiprocessor."""
    return min(255, 65536 // (32 * warps))


def launch(
    kernel: Any,
    grid: tuple[int, ...],
    *args: Any,
    warps: int = 4,
    alone: bool = False,
    **constants: Any,
) -> None:
    """Run `kernel` over `grid`, on the device of its first tensor; an empty grid runs nothing.

    Parameters
    ----------
    kernel
        A function under ``@triton.jit``.
    grid : tuple of int
        Programs along up to three axes.
    args
        Tensors and numbers.
    warps : int
        Warps a program.
    alone : bool
        A program may have a multiprocessor to itself, and its threads all the registers there are. NVIDIA's
        assembler otherwise spills a few of them to memory to make room for a second program.
    constants
        The kernel's ``tl.constexpr`` arguments.
    """
    if _recorded is not None:
        _recorded.append(Launch(kernel, args, warps, alone, constants))
        return
    if 0 in grid:
        return
    device = next(a.device for a in args if isinstance(a, Tensor))
    on_device: AbstractContextManager = torch.cuda.device(device) if device.type == "cuda" else nullcontext()
    nvidia = device.type == "cuda" and torch.version.hip is None
    limit = {"maxnreg": all_registers(warps)} if alone and nvidia else {}
    with on_device:
        # contraction to fused multiply-adds would move comparisons away from what the oracle decides
        kernel[grid](*args, num_warps=warps, enable_fp_fusion=False, **limit, **constants)


@lru_cache(maxsize=64)
def region_of(settings: str) -> Region:
    """The region behind the text that an operator was given (`Region.settings`)."""
    return Region.from_settings(settings)


#: held while a CUDA graph is captured: another capture, or torch's synchronisation before one, would break it
CAPTURING = RLock()


class Operator:
    """A function of tensors as an operator of torch, and called as what it is where nobody asks for that.

    Compilers, exports, modes and gradients see the operator. Torch's first call of such an operator imports
    its compiler, which takes longer than finding the objects in a picture.

    Parameters
    ----------
    name : str
        "yolov2::...".
    function : callable
        With annotations, from which torch takes the schema. What it returns shares no memory with its
        arguments.
    """

    def __init__(self, name: str, function: Callable[..., Any]):
        self.function = function
        self.op = torch.library.custom_op(name, function, mutates_args=())
        self.register_fake, self.register_autograd = self.op.register_fake, self.op.register_autograd

    def __call__(self, *args: Any) -> Any:
        traced = torch.compiler.is_compiling() or _get_current_dispatch_mode() is not None
        return (self.op if traced or any(map(_watched, args)) else self.function)(*args)


def operator(name: str) -> Callable[[Callable[..., Any]], Operator]:
    """Make an `Operator` of a function."""
    return lambda function: Operator(name, function)


def _watched(value: Any) -> bool:
    """Whether that is a tensor of which more than its values matters."""
    if not isinstance(value, Tensor):
        return False
    return type(value) not in (Tensor, Parameter) or (value.requires_grad and torch.is_grad_enabled())


def once(make: Callable[..., T]) -> Callable[..., T]:
    """Keep the tensors that `make` makes of hashable arguments, and make them in a thread of their own.

    Where they are needed first must not matter later, and modes belong to threads: made in inference mode
    they could not be saved for a backward pass; made while torch.compile warms up for CUDA graphs they would
    lie in the memory of one graph. A trace has its own, which are no tensors outside it. None is ever
    dropped: a captured graph goes on reading where they are.
    """
    made: dict[tuple, T] = {}

    @wraps(make)
    def kept(*key: Any) -> T:
        if torch.compiler.is_compiling() or _get_current_dispatch_mode() is not None:
            return make(*key)
        if key not in made:
            with ThreadPoolExecutor(1) as thread:
                made[key] = thread.submit(make, *key).result()
        return made[key]

    return kept


@once
def anchor_tensor(settings: str, device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    """Anchors of a region, (A, 2) in cells, made once per device."""
    return torch.tensor(region_of(settings).anchors, dtype=dtype, device=device)


@once
def class_map_tensor(settings: str, device: torch.device) -> Tensor:
    """The class map of a region that has one, int32, made once per device."""
    return torch.tensor(region_of(settings).class_map, dtype=torch.int32, device=device)
