"""The backends alive in this process, and one way to hold all of them to the oracle.

``torch`` always; ``triton-cuda`` where there is a GPU, otherwise ``triton-interpret``: the kernels run by
Triton's interpreter on CPU tensors, which needs TRITON_INTERPRET=1 before Triton is imported
(`tests.conftest`). While a backend is entered every output of a kernel is poisoned and lies between canaries.
"""

import os
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings

from fast import _launch

MARGIN = 64  # elements before and after every buffer
# what lies in memory that nothing has written: NaN, or a number that no result has
POISON = {True: float("nan"), False: 85}


@dataclass
class Backend:
    """Where and how an operation runs. ``with backend:`` makes `fast` use it."""

    name: str
    examples: int  # per cent of the examples that `equivalence` asks for
    buffers: list[torch.Tensor] = field(default_factory=list)
    _stack: ExitStack = field(default_factory=ExitStack)

    @property
    def device(self) -> torch.device:
        return torch.device("cuda" if self.name == "triton-cuda" else "cpu")

    @property
    def kernels(self) -> bool:
        """Whether kernels run, which compute in float32, and not the torch code."""
        return self.name != "torch"

    def __enter__(self) -> "Backend":
        self.buffers.clear()
        self._stack.enter_context(_launch.use_backend("triton" if self.kernels else "torch"))
        before, _launch.allocate = _launch.allocate, self._allocate
        self._stack.callback(setattr, _launch, "allocate", before)
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.close()
        if error[0] is None:
            self.check_canaries()

    def check_canaries(self) -> None:
        """Nothing wrote outside its buffer."""
        for buffer in self.buffers:
            for margin in (buffer[:MARGIN], buffer[-MARGIN:]):
                intact = margin.isnan() if margin.is_floating_point() else margin == POISON[False]
                assert intact.all(), "a kernel wrote outside its output"

    def _allocate(self, shape, stride, *, dtype, device) -> torch.Tensor:
        size = 1 + sum((n - 1) * s for n, s in zip(shape, stride, strict=True)) if 0 not in shape else 0
        buffer = torch.empty(size + 2 * MARGIN, dtype=dtype, device=device)
        buffer.fill_(POISON[dtype.is_floating_point])
        self.buffers.append(buffer)
        # through DLPack it looks like a tensor of its own, without an offset, as `torch.library.opcheck` asks
        inner = torch.from_dlpack(buffer[MARGIN : MARGIN + size])
        return inner.as_strided(tuple(shape), tuple(stride))

    def tensor(self, array: Any, layout: torch.memory_format = torch.contiguous_format) -> torch.Tensor:
        """A copy of `array` on this backend's device, laid out as asked, in the middle of poisoned memory."""
        x = torch.as_tensor(np.asarray(array) if not isinstance(array, torch.Tensor) else array)
        stride = torch.empty(x.shape).contiguous(memory_format=layout).stride()
        buffer = self._allocate(x.shape, stride, dtype=x.dtype, device=self.device)
        return buffer.copy_(x)


def _alive() -> list[Backend]:
    found = [Backend("torch", 100)]
    if torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1":
        found.append(Backend("triton-cuda", 40))  # new settings are new kernels, seconds to compile
    elif os.environ.get("TRITON_INTERPRET") == "1" and _launch.triton_installed():
        found.append(Backend("triton-interpret", 15))  # some ten milliseconds a program
    return found


BACKENDS = _alive()
KERNELS = [b for b in BACKENDS if b.kernels]
LAYOUTS = [torch.contiguous_format, torch.channels_last]

each_backend = pytest.mark.parametrize("backend", BACKENDS, ids=lambda b: b.name)
each_kernel_backend = pytest.mark.parametrize("backend", KERNELS, ids=lambda b: b.name)


def kernels_only(value: Any) -> Any:
    """A parameter of a fixture that torch need not run: `tests.conftest` leaves those tests out."""
    return pytest.param(value, marks=pytest.mark.kernels)


def equivalence(examples: int, backends: list[Backend] = BACKENDS, **strategies):
    """A test of (backend, drawn values), run on every backend with examples of the given strategies."""

    def decorate(test):
        def run(backend):
            def example(**drawn):
                with backend:
                    test(backend, **drawn)

            example.__qualname__ = f"{test.__qualname__}.{backend.name}"  # examples are remembered by name
            number = max(1, examples * backend.examples // 100)
            # examples of kernels are small already, and shrinking them would take minutes
            phases = [p for p in Phase if p != Phase.shrink or not backend.kernels]
            settings(max_examples=number, phases=phases)(given(**strategies)(example))()

        run.__name__, run.__doc__ = test.__name__, test.__doc__
        return pytest.mark.parametrize("backend", backends, ids=lambda b: b.name)(run)

    return decorate
