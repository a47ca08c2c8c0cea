"""Whether this host executes float16 or bfloat16 faster than float32: measured, since no list could say it.

A kernel exists or not, by version and build of ONNX Runtime, and where it exists it is faster or not, by the CPU: on
x86-64, ONNX Runtime 1.29 has float16 kernels for MatMul (4 to 25 % of float32's speed) and Gemm (about 1 % or less).

:func:`measure` takes 0.4 to 0.6 s where there is no kernel, as with ONNX Runtime 1.32 on x86-64, and 1.3 s with 1.29;
where both are close, it is told to end each of 30 figures after half a second. ``benchmarks/half_precision.py`` prints
them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from autotune.adapter import Execution
from autotune.adapters.onnx.graph import Graph, attributes
from autotune.adapters.onnx.session import open_session, session_options
from autotune.adapters.onnxruntime.choices.ops import QuantizableOp
from autotune.adapters.onnxruntime.half.kernels import (
    HALF_TYPES,
    computes_in,
    defined_in,
    one_node_model,
    tried_node,
)
from autotune.config import Precision
from autotune.errors import ApplyError
from autotune.evaluation.latency import LatencyOptions, compare_latency

LEAST_SPEEDUP = 1.05
"""The whole interval has to lie beyond it."""

_OPTIONS = LatencyOptions(warmup=3, min_pairs=20, max_pairs=60, max_seconds=0.5)

_HOPELESS = 1.5
"""How many times longer than float32 the first calls take where no more of them are needed."""

_TOO_LONG_S = 0.1

_OPSETS = (17, 22)
"""Tried in turn: bfloat16 came to convolutions with the second."""


class Kind(StrEnum):
    """Ops whose speed is measured apart from one another."""

    MATMUL = "MatMul"
    GEMM = "Gemm"
    CONV = "Conv"
    POINTWISE = "Conv 1x1"
    DEPTHWISE = "Conv depthwise"

    @property
    def op_type(self) -> str:
        """The type of the standard operator."""
        return self.split()[0]


@dataclass(frozen=True, kw_only=True)
class Case:
    """An op of a certain size.

    Attributes:
        kind: Kind of op that is measured.
        source: Shape of what it reads: (rows, inputs), or (1, channels, height, width).
        outputs: Columns of the matrix, or output channels.
    """

    kind: Kind
    source: tuple[int, ...]
    outputs: int

    @property
    def weight(self) -> tuple[int, ...]:
        """Shape of the weight."""
        if self.kind in (Kind.MATMUL, Kind.GEMM):
            return (self.source[1], self.outputs)
        inputs = 1 if self.kind is Kind.DEPTHWISE else self.source[1]
        size = 1 if self.kind is Kind.POINTWISE else 3
        return (self.outputs, inputs, size, size)

    @property
    def work(self) -> int:
        """Multiplications in one call."""
        repeats = self.source[:1] if self.kind in (Kind.MATMUL, Kind.GEMM) else self.source[2:]
        return math.prod(repeats) * math.prod(self.weight)


CASES = (
    *(
        Case(kind=kind, source=source, outputs=outputs)
        for kind in (Kind.MATMUL, Kind.GEMM)
        for source, outputs in (((1, 384), 1536), ((64, 384), 384), ((64, 384), 1536))
    ),
    *(
        Case(kind=Kind.CONV, source=(1, size, side, side), outputs=size)
        for size, side in ((16, 16), (32, 32), (64, 56))
    ),
    *(
        Case(kind=Kind.POINTWISE, source=(1, size, side, side), outputs=size)
        for size, side in ((32, 16), (64, 28), (128, 28))
    ),
    *(
        Case(kind=Kind.DEPTHWISE, source=(1, size, side, side), outputs=size)
        for size, side in ((32, 16), (96, 28), (144, 56))
    ),
)
"""Sizes as they occur in small image and text models."""


@dataclass(frozen=True, kw_only=True)
class HalfFigure:
    """The speed of one op of a certain size in one precision.

    Attributes:
        kind: Kind of the op.
        work: Number of its multiplications.
        precision: FP16 or BF16.
        kernel: Whether ONNX Runtime computes in it; otherwise it computes in float32, or refuses the model.
        speedup: Float32's time over that of the op between Casts; None where it was not measured.
        low: Lower end of the interval; None where a few calls told that it is slower.
    """

    kind: Kind
    work: int
    precision: Precision
    kernel: bool
    speedup: float | None = None
    low: float | None = None

    @property
    def faster(self) -> bool:
        """Whether it is faster by more than noise."""
        return self.kernel and self.low is not None and self.low >= LEAST_SPEEDUP


@dataclass(frozen=True, kw_only=True)
class HalfSpeeds:
    """The measurements of one host. Without figures, no op counts as faster."""

    figures: tuple[HalfFigure, ...] = ()

    def offered(self, kind: Kind, work: int | None) -> tuple[Precision, ...]:
        """The precisions in which an op is faster, the fastest first.

        Both measured sizes around its own must be faster, or the nearest one where it is smaller or larger than all;
        every size where its own is unknown.
        """
        found: dict[Precision, float] = {}
        for precision in HALF_TYPES:
            figures = sorted(self._of(kind, precision), key=lambda figure: figure.work)
            around = figures
            if work is not None:
                around = [f for f in figures if f.work <= work][-1:] + [f for f in figures if f.work >= work][:1]
            if around and all(figure.faster for figure in around):
                found[precision] = min(figure.speedup or 0.0 for figure in around)
        return tuple(sorted(found, key=lambda precision: -found[precision]))

    def __str__(self) -> str:
        """The measurements on one line."""
        shared: dict[str, list[str]] = {}
        for precision in HALF_TYPES:
            shared.setdefault(self._summary(precision), []).append(precision)
        return "; ".join(f"{' and '.join(names)} {summary}" for summary, names in shared.items())

    def _of(self, kind: Kind, precision: Precision) -> list[HalfFigure]:
        return [figure for figure in self.figures if figure.kind is kind and figure.precision is precision]

    def _summary(self, precision: Precision) -> str:
        figures = [figure for figure in self.figures if figure.precision is precision]
        if not figures:
            return "not measured"
        if not any(figure.kernel for figure in figures):
            return "not offered: ONNX Runtime has no kernel for MatMul, Gemm and Conv here"
        parts = []
        for kind in Kind:
            speeds = [f.speedup for f in self._of(kind, precision) if f.kernel and f.speedup is not None]
            if speeds:
                low, high = (f"{speed:.3g}x" for speed in (min(speeds), max(speeds)))
                parts.append(f"{kind} {low}" if low == high else f"{kind} {low} to {high}")
        offered = "offered where faster" if any(figure.faster for figure in figures) else "not offered"
        return f"{offered}: {', '.join(parts)} of fp32's speed"


def measure(
    cases: Sequence[Case] = CASES, options: LatencyOptions = _OPTIONS, *, without_kernel: bool = False
) -> HalfSpeeds:
    """Measure fp16 and bf16 against float32, Casts included, both in turn, in one thread.

    Args:
        cases: Ops to measure.
        options: How long.
        without_kernel: Measure also what ONNX Runtime computes in float32 all the same.
    """
    return HalfSpeeds(
        figures=tuple(
            _figure(case, precision, options, without_kernel=without_kernel)
            for precision in HALF_TYPES
            for case in cases
        )
    )


def kind_of(op: QuantizableOp, graph: Graph) -> Kind | None:
    """Which of the measured kinds an op with a constant weight is; None where it is none of them."""
    if op.weight is None:
        return None
    if op.node.op_type in (Kind.MATMUL, Kind.GEMM):
        return Kind(op.node.op_type)
    if op.node.op_type != "Conv":
        return None
    dims = list(graph.initializers[op.weight].dims)
    group = attributes(op.node).get("group", 1)
    if group != 1:
        return Kind.DEPTHWISE if dims[1] == 1 and group == dims[0] else None
    return Kind.POINTWISE if all(size == 1 for size in dims[2:]) else Kind.CONV


def work_of(op: QuantizableOp, graph: Graph) -> int | None:
    """Multiplications of one call with one sample; None where the model does not say."""
    tensor = op.output if op.node.op_type == "Conv" else op.activations[0]
    known = graph.types.get(tensor)
    if op.weight is None or known is None or not known.HasField("shape"):
        return None
    sizes = [int(dim.dim_value) for dim in known.shape.dim]
    repeats = sizes[2:] if op.node.op_type == "Conv" else [max(sizes[0], 1), *sizes[1:-1]]
    return None if 0 in repeats else math.prod(repeats) * math.prod(graph.initializers[op.weight].dims)


def _figure(case: Case, precision: Precision, options: LatencyOptions, *, without_kernel: bool) -> HalfFigure:
    elem_type = HALF_TYPES[precision]
    opset = next((each for each in _OPSETS if defined_in(case.kind.op_type, each, precision)), None)
    missing = HalfFigure(kind=case.kind, work=case.work, precision=precision, kernel=False)
    if opset is None:
        return missing
    half = _model(case, elem_type, opset)
    kernel = computes_in(half, elem_type)
    if not kernel and not without_kernel:
        return missing
    try:
        calls = [_call(model, case) for model in (_model(case, TensorProto.FLOAT, opset), half)]
    except ApplyError:
        return missing
    first = [_first_seconds(call) for call in calls]
    if first[1] > _HOPELESS * first[0]:
        speedup, low = first[0] / first[1], None
    else:
        comparison = compare_latency(calls[0], calls[1], options)
        speedup, low = comparison.speedup, comparison.interval.low
    return HalfFigure(kind=case.kind, work=case.work, precision=precision, kernel=kernel, speedup=speedup, low=low)


def _model(case: Case, elem_type: int, opset: int) -> onnx.ModelProto:
    random = np.random.default_rng(0)
    dtype = helper.tensor_dtype_to_np_dtype(elem_type)
    shapes = {"w": case.weight, "b": (case.outputs,)}
    if case.kind is Kind.MATMUL:
        del shapes["b"]
    constants = tuple(
        numpy_helper.from_array(random.normal(0.0, 0.05, shape).astype(np.float32).astype(dtype), name)
        for name, shape in shapes.items()
    )
    options: dict[str, Any] = {}
    if case.kind.op_type == "Conv":
        options["pads"] = [case.weight[2] // 2] * 4
        options["group"] = case.source[1] // case.weight[1]
    node = tried_node(case.kind.op_type, ["x", *shapes], **options)
    source = helper.make_tensor_value_info("x", TensorProto.FLOAT, list(case.source))
    return one_node_model(node, [source], constants, elem_type, opset)


def _call(model: onnx.ModelProto, case: Case) -> Callable[[], object]:
    session = open_session(model, None, session_options(Execution()))
    feeds = {"x": np.random.default_rng(1).standard_normal(case.source, dtype=np.float32)}
    return lambda: session.run(None, feeds)


def _first_seconds(call: Callable[[], object]) -> float:
    """The quickest of three calls, or of one that takes too long to be repeated."""
    best = math.inf
    for _ in range(3):
        before = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - before)
        if best > _TOO_LONG_S:
            break
    return best
