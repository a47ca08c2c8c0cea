"""The choices of each op in ONNX Runtime on this host."""

from __future__ import annotations

from collections import Counter

from autotune.adapters.onnx.graph import Graph
from autotune.adapters.onnx.prepare import PER_CHANNEL_OPSET
from autotune.adapters.onnxruntime.choices.execution_options import offered_options
from autotune.adapters.onnxruntime.choices.ops import CLIPS, FOLLOWERS, QuantizableOp, quantizable_ops
from autotune.adapters.onnxruntime.dynamic.quantize import supports_dynamic
from autotune.adapters.onnxruntime.half.convert import supports_half
from autotune.adapters.onnxruntime.measure.half_speed import HalfSpeeds, kind_of, work_of
from autotune.adapters.onnxruntime.recipes.graph import described
from autotune.adapters.onnxruntime.weight_only import weight_only_precisions
from autotune.algorithms.graph import Connections
from autotune.algorithms.smoothquant import smoothing_sites
from autotune.config import (
    CALIBRATION_ALGORITHMS,
    BiasCorrection,
    Granularity,
    Precision,
    QuantizedType,
    SmoothQuant,
    TensorScheme,
    WeightOnly,
    WeightRounding,
)
from autotune.host import Host
from autotune.space import FP32_SPACE, OpSpace, PrecisionSpace, RecipeSpace, TuningSpace

_U8 = TensorScheme(dtype=QuantizedType.U8)
_U8_SYMMETRIC = TensorScheme(dtype=QuantizedType.U8, symmetric=True)
_S8 = TensorScheme(dtype=QuantizedType.S8)
_S8_SYMMETRIC = TensorScheme(dtype=QuantizedType.S8, symmetric=True)

# On x86, ONNX Runtime turns s8 activations back into u8 or runs slower kernels: s8s8 was measured at 0.72 to 0.83 of
# fp32's speed where u8s8 reaches 2.0 to 3.4. Arm has kernels for both.
_ACTIVATIONS = (_U8, _U8_SYMMETRIC, _S8, _S8_SYMMETRIC)

_PER_CHANNEL = TensorScheme(dtype=QuantizedType.S8, symmetric=True, granularity=Granularity.PER_CHANNEL)
_PER_TENSOR = TensorScheme(dtype=QuantizedType.S8, symmetric=True)

_FP32_FIRST = frozenset({"Softmax", "Sigmoid"})
"""Small steps around saturation carry these ops' results, and they cost little time; int8 is offered, not preferred."""


_FEW_MATMULS = 4
"""A model without convolutions counts as a transformer with so many constant matrices: see :func:`_op_space`."""


def tuning_space(graph: Graph, host: Host, half: HalfSpeeds | None = None) -> TuningSpace:
    """The space of a prepared model.

    Args:
        graph: The model's.
        host: The machine that will run it.
        half: Speedups measured for half precision there; None where none were, so that it is not offered.
    """
    ops, _ = quantizable_ops(graph)
    transformer = _is_transformer(ops)
    return TuningSpace(
        ops=tuple(_op_space(op, graph, half or HalfSpeeds(), transformer=transformer) for op in ops),
        recipe=_recipes(ops, graph, host),
    )


def _recipes(ops: list[QuantizableOp], graph: Graph, host: Host) -> RecipeSpace:
    convolutions = any(op.node.op_type == "Conv" for op in ops)
    weights = any(op.weight is not None and op.static for op in ops)
    sites = smoothing_sites(Connections(described(graph, ops), graph.outputs))
    blocks = any(weight_only_precisions(op, graph) for op in ops)
    return RecipeSpace(
        # Where two u8 x s8 products saturate, weights of 7 bits are what ONNX Runtime's documentation advises. Bounded
        # pairs have no scale that is larger, and most are smaller by a third: see docs/recipes.md.
        reduce_range=(False, True) if host.saturates_u8s8 else (False,),
        bound_pairs=(True, False) if host.saturates_u8s8 else (False,),
        # The preferred choices were measured on two models, see docs/recipes.md. No recipe costs speed in the result.
        equalization=(True, False) if convolutions else (False,),
        bias_correction=(BiasCorrection.FULL, BiasCorrection.FAST, BiasCorrection.NONE)
        if convolutions
        else (BiasCorrection.NONE,),
        weight_rounding=(WeightRounding.NEAREST, WeightRounding.GPTQ) if weights else (WeightRounding.NEAREST,),
        smooth_quant=tuple(SmoothQuant) if sites else (SmoothQuant.NONE,),
        weight_only=(WeightOnly.GPTQ, WeightOnly.HQQ, WeightOnly.RTN) if blocks else (WeightOnly.RTN,),
        options=offered_options(graph, ops),
    )


def _is_transformer(ops: list[QuantizableOp]) -> bool:
    """Whether MatMul, Gemm and LSTM do the model's work: there is no convolution, and not only a head."""
    types = Counter(op.node.op_type for op in ops if op.weight is not None)
    return not types["Conv"] and (types["LSTM"] > 0 or types["MatMul"] + types["Gemm"] >= _FEW_MATMULS)


def _op_space(op: QuantizableOp, graph: Graph, half: HalfSpeeds, *, transformer: bool) -> OpSpace:
    weights: tuple[TensorScheme, ...] = ()
    if op.weight is not None:
        per_channel = op.weight_axis is not None and graph.opset >= PER_CHANNEL_OPSET
        weights = (_PER_CHANNEL, _PER_TENSOR) if per_channel else (_PER_TENSOR,)
    static = PrecisionSpace(
        precision=Precision.INT8, activations=_ACTIVATIONS, weights=weights, algorithms=CALIBRATION_ALGORITHMS
    )
    quantized: tuple[PrecisionSpace, ...] = (static,) if op.static else ()
    if supports_dynamic(op, graph):
        dynamic = PrecisionSpace(precision=Precision.INT8_DYNAMIC, weights=weights)
        quantized = (dynamic, *quantized) if transformer else (*quantized, dynamic)
    # Last: they pay for single rows of activations and for size, and seldom for latency.
    smaller = tuple(PrecisionSpace(precision=precision) for precision in weight_only_precisions(op, graph))
    op_type = op.node.op_type
    stays = op_type in _FP32_FIRST or (transformer and op.weight is None)
    return OpSpace(
        name=op.name,
        op_type=op_type,
        precisions=(FP32_SPACE, *quantized)
        if stays
        else (*quantized, *_half_spaces(op, graph, half), FP32_SPACE, *smaller),
    )


def _half_spaces(op: QuantizableOp, graph: Graph, half: HalfSpeeds) -> tuple[PrecisionSpace, ...]:
    """Half precision where the host executes it faster, the fastest first."""
    kind = kind_of(op, graph)
    offered = () if kind is None else half.offered(kind, work_of(op, graph))
    return tuple(PrecisionSpace(precision=precision) for precision in offered if supports_half(op, graph, precision))


def observed_tensors(graph: Graph) -> tuple[tuple[str, ...], dict[str, int]]:
    """The tensors whose statistics :func:`~autotune.adapters.onnxruntime.apply.apply_config` may ask for.

    Returns:
        Their names in graph order, and the channel axis of those whose channels have a meaning.
    """
    ops, _ = quantizable_ops(graph)
    wanted: dict[str, None] = {}
    axes: dict[str, int] = {}
    for op in ops:
        for name in (*op.activations, op.output) if op.static else ():
            wanted[name] = None
            rank = graph.rank(name)
            if op.node.op_type == "Conv" and rank is not None:
                axes[name] = 1
            elif op.weight is not None and op.node.op_type in ("Gemm", "MatMul") and rank:
                # The constant makes channels of the last axis. Between two activations it may count steps or nodes.
                axes.setdefault(name, rank - 1)
    for node in graph.nodes:
        if node.op_type in CLIPS | FOLLOWERS and node.input[0] in wanted:
            wanted[node.output[0]] = None
            if node.op_type in CLIPS and node.input[0] in axes:
                axes.setdefault(node.output[0], axes[node.input[0]])
    for node in reversed(graph.nodes):
        # Tensors that a residual stream joins have the channels of the convolutions at its ends.
        if node.op_type in ("Add", "Relu") and node.output[0] in axes:
            rank = graph.rank(node.output[0])
            axes.update(
                {
                    name: axes[node.output[0]]
                    for name in node.input
                    if name in wanted and name not in axes and graph.rank(name) == rank
                }
            )
    order = {name: None for value in graph.proto.graph.input for name in (value.name,)}
    order.update({name: None for node in graph.nodes for name in node.output})
    return tuple(name for name in order if name in wanted), axes
