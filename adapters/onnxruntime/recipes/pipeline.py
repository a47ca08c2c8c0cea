"""The order in which recipes act: channels before scales are chosen, weights and biases after."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from autotune.adapter import Array, Feeds
from autotune.adapters.onnx.graph import Graph, attributes
from autotune.adapters.onnx.model import OnnxModel
from autotune.adapters.onnxruntime.choices.limits import op_limits
from autotune.adapters.onnxruntime.choices.ops import QuantizableOp, quantizable_ops
from autotune.adapters.onnxruntime.recipes.equalization import equalize
from autotune.adapters.onnxruntime.recipes.graph import OnnxGraph, convolution_of, with_constants
from autotune.adapters.onnxruntime.static.placement import Placement
from autotune.algorithms import AffineParameters, WeightLimits, integer_range
from autotune.algorithms.bias_correction import convolution_shift, matmul_shift
from autotune.algorithms.gptq import (
    LARGEST_INPUTS,
    PairBound,
    convolution_moments,
    matmul_moments,
    round_by_gptq,
)
from autotune.algorithms.graph import Values
from autotune.algorithms.layerwise import Correction, FakeQuantization, walk
from autotune.algorithms.saturation import LARGEST_PAIR
from autotune.algorithms.smoothquant import smooth
from autotune.batch import axes_of
from autotune.calibration import CalibrationStatistics
from autotune.config import (
    BiasCorrection,
    Precision,
    QuantizationConfig,
    QuantizedType,
    Recipe,
    SmoothQuant,
    TensorScheme,
    WeightRounding,
)
from autotune.notes import listed

_CORRECTED = frozenset({"Conv", "Gemm"})
"""Ops with a bias of their own."""

_FEWEST_VALUES = 256
"""Per channel, for a mean that tells more than chance. A head answers once per example: correcting MobileNetV2's by the
mean over 32 answers raised the loss from 0.28 to 0.87 %."""

_ENOUGH_VALUES = 32 * 43 * 10**5
_FEWEST_EXAMPLES = 4
"""Values that the observed tensors hold after which biases are corrected from no further example: every position of a
large picture is a value of a channel's mean, and an example costs what it makes the model write. MobileNetV2 at
128 x 128 writes 4.3 million for each and gets 32. A text detector at 256 x 320 has an output error of 0.162
uncorrected, 0.093 with 4 pictures, 0.097 with 8 and 16, and 0.091 with 30, which take 9.4 s of processor time. A
recogniser of text lines (51 million) has 0.073 uncorrected, 0.036 with 4, 0.027 with 8, 0.025 with 16 and 0.029 with
32, which take 10.6 s instead of 2.0: with 4 its last layers have too few positions to be corrected at all."""

_BIAS_REACH = 0.999 * np.iinfo(np.int32).max
"""Largest integer that a corrected bias may become; the rest is for rounding."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A model whose channels are as the recipe wants them.

    Attributes:
        model: To be quantized.
        reference: Computes in fp32 what the original computes, with the nodes and tensors of ``model``.
        statistics: Of both.
        ranges: ``(low, high)`` of tensors whose range the recipe has chosen.
    """

    model: OnnxModel
    reference: OnnxModel
    statistics: CalibrationStatistics
    ranges: Mapping[str, tuple[float, float]]


def prepare_channels(model: OnnxModel, config: QuantizationConfig, statistics: CalibrationStatistics) -> Prepared:
    """What comes before placement; ``model`` stays as it is."""
    recipe = config.recipe
    ranges: Mapping[str, tuple[float, float]] = {}
    if recipe.smooth_quant is not SmoothQuant.NONE:
        smoothed = smooth(OnnxGraph(model, quantizable_ops(Graph(model.proto))[0]), config, statistics)
        model = _noted(with_constants(model, smoothed.constants), smoothed.notes)
        statistics, ranges = smoothed.statistics, smoothed.ranges
    if recipe.bias_correction is not BiasCorrection.NONE:
        model = _with_biases(model, config)
    if not recipe.equalization:
        return Prepared(model=model, reference=model, statistics=statistics, ranges=ranges)
    equalized = equalize(model, config, statistics)
    return Prepared(
        model=equalized.without_bounds(),
        reference=equalized.model,
        statistics=equalized.statistics,
        ranges={**ranges, **equalized.ranges},
    )


def correct_constants(
    prepared: Prepared,
    placement: Placement,
    config: QuantizationConfig,
    activations: Mapping[str, AffineParameters],
    weights: Mapping[str, AffineParameters],
    blocks: Mapping[str, Correction],
) -> OnnxModel:
    """The model to be quantized, with weights rounded and biases corrected as the recipe says.

    Args:
        prepared: The model.
        placement: What is quantized.
        config: How.
        activations: Scales by tensor.
        weights: Scales of the ops' weights by op.
        blocks: What rounds the weights of ops that are stored in blocks, by op.
    """
    recipe = config.recipe
    graph = Graph(prepared.model.proto)
    served, notes = _served(graph, placement.ops, recipe)
    if not served and not blocks:
        return _noted(prepared.model, notes)
    layers = [
        _Layer(
            op=op,
            parameters=weights[op.name],
            input_scale=float(activations[op.activations[0]].scale),
            config=config,
            model=prepared.model,
            statistics=prepared.statistics,
        )
        for op in served
    ]
    nearest = recipe.weight_rounding is WeightRounding.NEAREST
    if recipe.bias_correction is not BiasCorrection.FULL and nearest and not blocks:
        constants = _fast(layers, notes)
    elif not prepared.statistics.examples:
        notes.append(
            "Full bias correction and GPTQ need calibration samples, and none was kept: one sample "
            "exceeds the limit. Biases are corrected from statistics, weights are rounded to nearest"
        )
        constants = _fast(layers, notes)
    else:
        quantizers = {
            name: _fake_quantizer(parameters, placement.groups[name].dtype) for name, parameters in activations.items()
        }
        ends = {name: _ends(parameters, placement.groups[name].dtype) for name, parameters in activations.items()}
        corrections: dict[str, Correction] = {layer.op.name: layer for layer in layers} | dict(blocks)
        kept = prepared.statistics.examples
        examples = _enough(layers, prepared.statistics) if nearest and not blocks else kept
        constants = walk(
            OnnxGraph(prepared.reference),
            examples,
            quantizers,
            corrections,
            {**prepared.ranges, **ends},
            axes_of(prepared.reference),
        )
    return _noted(with_constants(prepared.model, constants), notes)


def _enough(layers: Sequence[_Layer], statistics: CalibrationStatistics) -> Sequence[Feeds]:
    """As many of the examples as tell the means of outputs; rounding weights with care takes all that there are.

    No layer that all of them would correct is left out for want of positions.
    """
    examples = statistics.examples
    written = sum(tensor.count for tensor in statistics.tensors.values()) // max(1, statistics.samples)
    positions = [layer.positions for layer in layers]
    needed = [math.ceil(_FEWEST_VALUES / each) for each in positions if each * len(examples) >= _FEWEST_VALUES]
    count = min(len(examples), max(_FEWEST_EXAMPLES, _ENOUGH_VALUES // max(1, written), *needed))
    return [examples[index * len(examples) // count] for index in range(count)]


@dataclass(frozen=True, kw_only=True)
class _Layer:
    """An int8 op with a weight of its own."""

    op: QuantizableOp
    parameters: AffineParameters
    input_scale: float
    config: QuantizationConfig
    model: OnnxModel
    statistics: CalibrationStatistics

    @property
    def scheme(self) -> TensorScheme:
        scheme = self.config[self.op.name].weight
        assert scheme is not None
        return scheme

    @property
    def axis(self) -> int | None:
        return self.op.weight_axis if self.parameters.scale.ndim else None

    @property
    def groups(self) -> int:
        groups = attributes(self.op.node).get("group", 1)
        assert isinstance(groups, int)
        return groups

    def constant(self, name: str | None) -> Array:
        tensor = next(tensor for tensor in self.model.proto.graph.initializer if tensor.name == name)
        return np.asarray(self.model.tensor(tensor), np.float32)

    @property
    def positions(self) -> float:
        """How many values of a channel of its output one sample makes, on average; 0 where it was not observed."""
        observed = self.statistics.tensors.get(self.op.output)
        channels = 0 if self.op.bias is None else self.constant(self.op.bias).size
        return 0.0 if observed is None or not channels else observed.count / self.statistics.samples / channels

    def limits(self, weight: Array) -> WeightLimits:
        return op_limits(self.op.node, weight.shape, self.scheme, self.config.recipe)

    def nearest(self, weight: Array) -> Array:
        return self.limits(weight).fake_quantize(weight, self.parameters, self.scheme, self.axis)

    def fast_shift(self, error: Array) -> Array | None:
        """Of the mean output, from statistics; None where the input's channels were not observed."""
        observed = self.statistics.tensors.get(self.op.activations[0])
        if observed is None or observed.channels is None:
            return None
        mean = observed.channels.mean
        if self.op.node.op_type == "Conv":
            return convolution_shift(error, mean, self.groups) if observed.channels.axis == 1 else None
        rows = np.moveaxis(error, self.op.weight_axis or 0, 0)
        return matmul_shift(rows, mean) if mean.size == rows.shape[1] else None

    def shifted(self, shift: Array) -> Array:
        """The bias less ``shift``, no larger than its 32 bits can say."""
        bias = self.constant(self.op.bias)
        most = _BIAS_REACH * self.input_scale * np.asarray(self.parameters.scale, np.float64)
        return np.asarray(np.clip(bias - shift, -most, most), np.float32)

    @property
    def source(self) -> str:
        """See :class:`~autotune.algorithms.layerwise.Correction`."""
        return self.op.activations[0]

    def weights(self, source: Values) -> Mapping[str, Array]:
        """See :class:`~autotune.algorithms.layerwise.Correction`."""
        weight = self.constant(self.op.weight)
        gptq = self.config.recipe.weight_rounding is WeightRounding.GPTQ
        rounded = (
            self._rounded_by_gptq(weight, source)
            if gptq and _inputs(weight, self.op) <= LARGEST_INPUTS
            else self.nearest(weight)
        )
        constants = {str(self.op.weight): rounded}
        if self.config.recipe.bias_correction is BiasCorrection.FAST and self.op.bias is not None:
            shift = self.fast_shift(rounded - weight)
            if shift is not None:
                constants[self.op.bias] = self.shifted(shift)
        return constants

    def bias(self, outputs: Values, target: Values) -> tuple[Mapping[str, Array], Array | None]:
        """See :class:`~autotune.algorithms.layerwise.Correction`."""
        if self.config.recipe.bias_correction is not BiasCorrection.FULL or self.op.bias is None:
            return {}, None
        axis = 1 if self.op.node.op_type == "Conv" else -1
        if sum(array.size // array.shape[axis] for array in outputs) < _FEWEST_VALUES:
            return {}, None
        bias = self.shifted(_mean_difference(outputs, target, axis))
        shift = self.constant(self.op.bias) - bias
        return {self.op.bias: bias}, shift.reshape(-1, *[1] * (outputs[0].ndim - 2)) if axis == 1 else shift

    def _rounded_by_gptq(self, weight: Array, source: Values) -> Array:
        convolution = self.op.node.op_type == "Conv"
        groups = self.groups if convolution else 1
        rows = np.moveaxis(weight, self.op.weight_axis or 0, 0)
        moments = (
            convolution_moments(convolution_of(self.op.node, weight.ndim - 2), weight.shape[2:], source)
            if convolution
            else matmul_moments(source)
        )
        shape = (groups, rows.shape[0] // groups)
        scale = np.broadcast_to(self.parameters.scale, rows.shape[:1]).reshape(shape)
        zero_point = np.broadcast_to(self.parameters.zero_point, rows.shape[:1]).reshape(shape)
        limits = self.limits(weight)
        pairs = None
        if (neighbours := limits.neighbours(weight.shape, self.op.weight_axis or 0)) is not None:
            pairs = PairBound(neighbours=neighbours, most=LARGEST_PAIR)
        integers = limits.integers(self.scheme)
        rounded = round_by_gptq(rows.reshape(*shape, -1), scale, zero_point, moments, integers, pairs)
        return np.ascontiguousarray(np.moveaxis(rounded.reshape(rows.shape), 0, self.op.weight_axis or 0))


def _inputs(weight: Array, op: QuantizableOp) -> int:
    return int(weight.size // max(1, weight.shape[op.weight_axis or 0]))


def _mean_difference(values: Values, target: Values, axis: int) -> Array:
    """Mean over everything but the channels along ``axis``, float64, shape (C,)."""
    sums = []
    for array, other in zip(values, target, strict=True):
        # One sample at a time adds up in float32, all of them in float64.
        samples = (
            (array - other).reshape(len(array), array.shape[axis], -1) if axis == 1 else (array - other)[..., None]
        )
        inner = samples.sum(axis=-1).astype(np.float64)
        sums.append(inner.reshape(-1, array.shape[axis]).sum(axis=0))
    count = sum(a.size // a.shape[axis] for a in values)
    return np.asarray(sum(sums) / max(count, 1))


def _fast(layers: Sequence[_Layer], notes: list[str]) -> dict[str, Array]:
    constants: dict[str, Array] = {}
    unknown = []
    for layer in layers:
        if layer.op.bias is None or layer.config.recipe.bias_correction is BiasCorrection.NONE:
            continue
        weight = layer.constant(layer.op.weight)
        shift = layer.fast_shift(layer.nearest(weight) - weight)
        if shift is None:
            unknown.append(layer.op.name)
        else:
            constants[layer.op.bias] = layer.shifted(shift)
    if unknown:
        notes.append(f"Bias correction leaves {listed(unknown)} as is: the means of its input were not observed")
    return constants


def _served(graph: Graph, ops: Sequence[QuantizableOp], recipe: Recipe) -> tuple[list[QuantizableOp], list[str]]:
    """The ops whose constants may be changed, and why not those of others."""
    if recipe.bias_correction is BiasCorrection.NONE and recipe.weight_rounding is WeightRounding.NEAREST:
        return [], []
    served, shared, shapeless = [], [], []
    for op in ops:
        if op.weight is None:
            continue
        if not all(graph.read_once(name) for name in (op.weight, op.bias) if name is not None):
            shared.append(op.name)
        elif op.weight_axis is None or attributes(op.node).get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
            shapeless.append(op.name)
        elif op.bias is not None or recipe.weight_rounding is not WeightRounding.NEAREST:
            served.append(op)
    notes = []
    if shared:
        notes.append(f"Weights and bias of {listed(shared)} are not corrected: other ops read them too")
    if shapeless:
        notes.append(
            f"Weights and bias of {listed(shapeless)} are not corrected: a stack of matrices, or automatic padding"
        )
    return served, notes


def _with_biases(model: OnnxModel, config: QuantizationConfig) -> OnnxModel:
    """The same with a bias of zeros for int8 convolutions that have none."""
    graph = Graph(model.proto)
    missing = [
        op
        for op in quantizable_ops(graph)[0]
        if config[op.name].precision is Precision.INT8 and op.node.op_type in _CORRECTED and op.bias is None
    ]
    if not missing:
        return model
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    nodes = {node.name: node for node in proto.graph.node}
    for op in missing:
        if len(op.node.input) > 2 and op.node.input[2]:
            continue
        assert op.weight is not None
        size = graph.initializers[op.weight].dims[op.weight_axis or 0]
        name = f"{op.name}/bias"
        proto.graph.initializer.append(numpy_helper.from_array(np.zeros(size, np.float32), name))
        inputs = [*list(nodes[op.name].input)[:2], name]
        del nodes[op.name].input[:]
        nodes[op.name].input.extend(inputs)
    return dataclasses.replace(model, proto=proto)


def _noted(model: OnnxModel, notes: Sequence[str]) -> OnnxModel:
    return dataclasses.replace(model, notes=(*model.notes, *notes)) if notes else model


def _ends(parameters: AffineParameters, dtype: QuantizedType) -> tuple[float, float]:
    """The smallest and the largest value that a tensor's integers can say."""
    smallest, largest = integer_range(TensorScheme(dtype=dtype))
    scale, zero_point = float(parameters.scale), int(parameters.zero_point)
    return scale * (smallest - zero_point), scale * (largest - zero_point)


def _fake_quantizer(parameters: AffineParameters, dtype: QuantizedType) -> FakeQuantization:
    smallest, largest = integer_range(TensorScheme(dtype=dtype))
    scale, zero_point = np.float32(parameters.scale), np.float32(parameters.zero_point)

    def quantize_and_back(array: Array) -> Array:
        values = np.asarray(array / scale, np.float32)
        np.rint(values, out=values)
        np.clip(values, smallest - zero_point, largest - zero_point, out=values)
        values *= scale
        return values

    return quantize_and_back
