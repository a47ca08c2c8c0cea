"""Kernels that ran: the program that Paddle executes after all fusions, and oneDNN's own log of one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from autotune.adapter import Execution, Feeds
from autotune.adapters.paddle import program as programs
from autotune.adapters.paddle.framework import onednn, quiet
from autotune.adapters.paddle.model import PaddleModel
from autotune.adapters.paddle.session import PaddleRunner
from autotune.errors import ApplyError
from autotune.notes import counted
from autotune.owned_folder import OwnedFolder

_CONVOLVING = ("conv2d", "depthwise_conv2d", "fused_conv2d")
_PASSING = ("quantize", "dequantize", "requantize", "pool2d", "feed", "fetch", "save")
"""Ops that move integers about, and compute nothing that costs accuracy."""


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """A convolution as it ran.

    Attributes:
        weight: Name of its weight in the program.
        implementation: oneDNN's name for the kernel, such as ``brg_conv_fwd:avx512_core_vnni``.
        reads: Type of what it read: ``f32``, ``s8`` or ``u8``.
        seconds: Seconds that it took.
    """

    weight: str
    implementation: str
    reads: str
    seconds: float

    @property
    def integers(self) -> bool:
        """Whether it multiplied integers."""
        return self.reads in ("s8", "u8")


class Probe:
    """A model whose kernels can be looked at.

    Args:
        model: The model.
        execution: How it runs.

    Raises:
        ApplyError: Paddle refuses it.
    """

    def __init__(self, model: PaddleModel, execution: Execution) -> None:
        with OwnedFolder() as folder:
            self._runner = PaddleRunner(model, execution, optimized=Path(folder))
            found = sorted(Path(folder).glob("*.pdmodel"))
            if not found:
                raise ApplyError("Paddle must say which program it executes, but has written none")
            self._ops: Sequence[Any] = programs.ops(programs.parse(found[0].read_bytes()))
        self._weights = [programs.read(op, "Filter") for op in self._ops if op.type in _CONVOLVING]

    @property
    def uncalled(self) -> list[str]:
        """Kinds of the ops other than convolutions that compute in integers, each once."""
        return list(
            dict.fromkeys(
                op.type
                for op in self._ops
                if programs.attribute(op, "mkldnn_data_type", "") == "int8" and op.type not in (*_CONVOLVING, *_PASSING)
            )
        )

    def run(self, feeds: Feeds) -> tuple[list[Kernel], float]:
        """The convolutions of one call in order, and the seconds of all conversions of tensors.

        Raises:
            ApplyError: Paddle fails, or has run other convolutions than its program holds.
        """
        log = logged(self._runner, feeds)
        lines = [line for line in log if line[1] == "convolution"]
        if len(lines) != len(self._weights):
            raise ApplyError(
                f"oneDNN's log must have the {counted(len(self._weights), 'convolution')} of the "
                f"program, but has {len(lines)}"
            )
        kernels = [
            Kernel(weight=weight, implementation=line[2], reads=_source_type(line[3]), seconds=line[4])
            for weight, line in zip(self._weights, lines, strict=True)
        ]
        return kernels, sum(line[4] for line in log if line[1] == "reorder")


def logged(runner: PaddleRunner, feeds: Feeds) -> list[tuple[str, str, str, str, float]]:
    """The log of oneDNN for one call, a tuple for each primitive: shapes, kind, implementation, tensors and seconds."""
    library = onednn()
    with quiet() as captured:
        library.dnnl_set_verbose(1)
        try:
            runner(feeds)
        finally:
            library.dnnl_set_verbose(0)
    found = []
    for line in captured.lines:
        parts = line.split(",")
        if not line.startswith("onednn_verbose") or "exec" not in parts[:4]:
            continue
        rest = parts[parts.index("exec") + 1 :]  # engine, kind, implementation, direction, tensors, ..., shapes, ms
        found.append((rest[-2], rest[1], rest[2], rest[4], float(rest[-1]) / 1e3))
    return found


def _source_type(tensors: str) -> str:
    """The type of what a primitive reads, of ``src:u8:a:blocked:acdb::f0 wei:...``."""
    source = next((each for each in tensors.split() if each.startswith("src")), "src:")
    return source.split(":")[1]


def op_of(weight: str) -> str:
    """The weight of the fp32 program that a weight of a candidate stands for."""
    return weight.removesuffix("/integers").removesuffix("/quantized")


def zeros(model: PaddleModel, shapes: Sequence[Sequence[int]]) -> Mapping[str, Any]:
    """Inputs of these shapes."""
    specs = zip(model.inputs, shapes, strict=True)
    return {spec.name: np.zeros(shape, spec.dtype) for spec, shape in specs}
