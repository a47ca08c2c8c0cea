"""Changes to weights and biases once scales are chosen: GPTQ, fast and full bias correction, in order.

Weights are rounded first. Fast bias correction makes up for their errors from statistics; full bias correction and GPTQ
walk through the graph layer by layer, :mod:`.layerwise`, on the examples that calibration kept.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from autotune.adapter import Array, Feeds
from autotune.algorithms.affine import AffineParameters, representable
from autotune.algorithms.bias_correction import convolution_shift, matmul_shift, mean_difference
from autotune.algorithms.gptq import LARGEST_INPUTS, PairBound, convolution_moments, matmul_moments, round_by_gptq
from autotune.algorithms.graph import Connections, Layer, LayerGraph, Values
from autotune.algorithms.grids import WeightGrid
from autotune.algorithms.layerwise import Correction, fake_quantizer, walk
from autotune.algorithms.saturation import LARGEST_PAIR, WeightLimits
from autotune.batch import BatchAxes
from autotune.calibration import CalibrationStatistics
from autotune.config import BiasCorrection, QuantizedType, Recipe, TensorScheme, WeightRounding
from autotune.notes import listed

_FEWEST_VALUES = 256
"""Positions per channel for a mean that is more than chance. A head answers once per example: correcting
MobileNetV2's by the mean over 32 answers raised the loss from 0.28 to 0.87 %."""

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
class QuantizedLayer:
    """How the weight of an int8 layer is quantized.

    Attributes:
        layer: The layer.
        scheme: Scheme of the layer's weight.
        parameters: Scales and zero points of its weight, shape () or (outputs,).
        limits: Makes the limits of its integers; called when they are needed, since they may be larger than the weight.
    """

    layer: Layer
    scheme: TensorScheme
    parameters: AffineParameters
    limits: Callable[[], WeightLimits] = WeightLimits


@dataclass(frozen=True, kw_only=True)
class QuantizedGraph:
    """The layers and tensors of a graph that are quantized, and how.

    Attributes:
        graph: Graph of the fp32 model.
        layers: The int8 layers with a weight of their own.
        tensors: By tensor that is quantized: scale and zero point, both of shape (), and integer type.
        ranges: ``(low, high)`` of tensors at which fp32 values are cut even where they are not quantized, those that
            equalization has chosen for example.
        blocks: Rounds the weights of layers that are stored in blocks, by layer; see :mod:`.blocks`.
    """

    graph: LayerGraph
    layers: Sequence[QuantizedLayer]
    tensors: Mapping[str, tuple[AffineParameters, QuantizedType]]
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    blocks: Mapping[str, Correction] = field(default_factory=dict)


def quantized_layers(graph: LayerGraph, grids: Mapping[str, WeightGrid]) -> list[QuantizedLayer]:
    """The layers of a graph whose weights have grids; a graph may have no layer of that name.

    Args:
        graph: Graph of the fp32 model.
        grids: By name of an int8 op: the grid of its weight.
    """
    known = {node.name: node for node in graph.nodes if isinstance(node, Layer)}
    return [
        QuantizedLayer(
            layer=known[name],
            scheme=grid.scheme,
            parameters=grid.parameters,
            limits=functools.partial(getattr, grid, "limits"),
        )
        for name, grid in grids.items()
        if name in known
    ]


def corrected_constants(
    quantized: QuantizedGraph, recipe: Recipe, statistics: CalibrationStatistics, axes: BatchAxes
) -> tuple[dict[str, Array], list[str]]:
    """Weights and biases to quantize in place of the graph's own.

    Args:
        quantized: The quantized layers and tensors.
        recipe: How weights are rounded and biases corrected.
        statistics: Statistics with channel moments of the layers' inputs, and examples for walks through it.
        axes: How samples lie in these.

    Returns:
        The constants by name, each of the shape of the graph's own. Rounded weights are real values that quantize to
        themselves. And what was left as it is and why, a line each.
    """
    served, notes = _served(quantized, recipe)
    blocks = quantized.blocks
    if not served and not blocks:
        return {}, notes
    layers = [
        _LayerCorrection(
            quantized=each,
            input_scale=float(quantized.tensors[each.layer.source][0].scale),
            constants=quantized.graph.constants,
            recipe=recipe,
            statistics=statistics,
        )
        for each in served
    ]
    nearest = recipe.weight_rounding is WeightRounding.NEAREST
    if recipe.bias_correction is not BiasCorrection.FULL and nearest and not blocks:
        return _fast(layers, notes), notes
    if not statistics.examples:
        notes.append(
            "Full bias correction and GPTQ need calibration samples, and none was kept: one sample "
            "exceeds the limit. Biases are corrected from statistics, weights are rounded to nearest"
        )
        return _fast(layers, notes), notes
    quantizers = {name: fake_quantizer(*each) for name, each in quantized.tensors.items()}
    ends = {name: representable(*each) for name, each in quantized.tensors.items()}
    corrections: dict[str, Correction] = {each.layer.name: each for each in layers} | dict(blocks)
    examples = _enough(layers, statistics) if nearest and not blocks else statistics.examples
    return walk(quantized.graph, examples, quantizers, corrections, {**quantized.ranges, **ends}, axes), notes


def _enough(layers: Sequence[_LayerCorrection], statistics: CalibrationStatistics) -> Sequence[Feeds]:
    """The examples that suffice for the means of outputs; rounding weights by GPTQ takes all that there are.

    No layer that all of them would correct is left out for want of positions.
    """
    examples = statistics.examples
    written = sum(tensor.count for tensor in statistics.tensors.values()) // max(1, statistics.samples)
    positions = [layer.positions for layer in layers]
    needed = [math.ceil(_FEWEST_VALUES / each) for each in positions if each * len(examples) >= _FEWEST_VALUES]
    count = min(len(examples), max(_FEWEST_EXAMPLES, _ENOUGH_VALUES // max(1, written), *needed))
    return [examples[index * len(examples) // count] for index in range(count)]


@dataclass(frozen=True, kw_only=True)
class _LayerCorrection:
    """The :class:`~autotune.algorithms.layerwise.Correction` of an int8 layer with a weight of its own."""

    quantized: QuantizedLayer
    input_scale: float
    constants: Mapping[str, Array]
    recipe: Recipe
    statistics: CalibrationStatistics

    @property
    def layer(self) -> Layer:
        return self.quantized.layer

    @property
    def source(self) -> str:
        """See :class:`~autotune.algorithms.layerwise.Correction`."""
        return self.layer.source

    @property
    def axis(self) -> int:
        """Axis of the weight's output channels; only layers that have one are corrected."""
        return self.layer.axis or 0

    def constant(self, name: str) -> Array:
        return np.asarray(self.constants[name], np.float32)

    @property
    def positions(self) -> float:
        """How many values of a channel of its output one sample makes, on average; 0 where it was not observed."""
        observed = self.statistics.tensors.get(self.layer.output)
        channels = 0 if self.layer.bias is None else self.constant(self.layer.bias).size
        return 0.0 if observed is None or not channels else observed.count / self.statistics.samples / channels

    def nearest(self, weight: Array) -> Array:
        each = self.quantized
        axis = self.axis if each.parameters.scale.ndim else None
        return each.limits().fake_quantize(weight, each.parameters, each.scheme, axis)

    def fast_shift(self, error: Array) -> Array | None:
        """Shift of the mean output by a weight's error; None where the input's channels were not observed."""
        observed = self.statistics.tensors.get(self.layer.source)
        if observed is None or observed.channels is None:
            return None
        mean = observed.channels.mean
        if self.layer.convolution is not None:
            return convolution_shift(error, mean, self.layer.groups) if observed.channels.axis == 1 else None
        rows = np.moveaxis(error, self.axis, 0)
        return matmul_shift(rows, mean) if mean.size == rows.shape[1] else None

    def shifted(self, shift: Array) -> Array:
        """The bias less ``shift``, no larger than its 32 bits can say."""
        assert self.layer.bias is not None
        bias = self.constant(self.layer.bias)
        most = _BIAS_REACH * self.input_scale * np.asarray(self.quantized.parameters.scale, np.float64)
        return np.asarray(np.clip(bias - shift, -most, most), np.float32)

    def weights(self, source: Values) -> Mapping[str, Array]:
        """See :class:`~autotune.algorithms.layerwise.Correction`."""
        weight = self.constant(self.layer.weight)
        gptq = self.recipe.weight_rounding is WeightRounding.GPTQ
        rounded = (
            self._rounded_by_gptq(weight, source)
            if gptq and weight.size // max(1, weight.shape[self.axis]) <= LARGEST_INPUTS
            else self.nearest(weight)
        )
        constants = {self.layer.weight: rounded}
        if self.recipe.bias_correction is BiasCorrection.FAST and self.layer.bias is not None:
            shift = self.fast_shift(rounded - weight)
            if shift is not None:
                constants[self.layer.bias] = self.shifted(shift)
        return constants

    def bias(self, outputs: Values, target: Values) -> tuple[Mapping[str, Array], Array | None]:
        """See :class:`~autotune.algorithms.layerwise.Correction`."""
        if self.recipe.bias_correction is not BiasCorrection.FULL or self.layer.bias is None:
            return {}, None
        axis = -1 if self.layer.convolution is None else 1
        if sum(array.size // array.shape[axis] for array in outputs) < _FEWEST_VALUES:
            return {}, None
        bias = self.shifted(mean_difference(outputs, target, axis))
        shift = self.constant(self.layer.bias) - bias
        return {self.layer.bias: bias}, shift.reshape(-1, *[1] * (outputs[0].ndim - 2)) if axis == 1 else shift

    def _rounded_by_gptq(self, weight: Array, source: Values) -> Array:
        convolution, parameters = self.layer.convolution, self.quantized.parameters
        rows = np.moveaxis(weight, self.axis, 0)
        moments = (
            matmul_moments(source)
            if convolution is None
            else convolution_moments(convolution, weight.shape[2:], source)
        )
        shape = (self.layer.groups, rows.shape[0] // self.layer.groups)
        scale = np.broadcast_to(parameters.scale, rows.shape[:1]).reshape(shape)
        zero_point = np.broadcast_to(parameters.zero_point, rows.shape[:1]).reshape(shape)
        limits = self.quantized.limits()
        pairs = None
        if (neighbours := limits.neighbours(weight.shape, self.axis)) is not None:
            pairs = PairBound(neighbours=neighbours, most=LARGEST_PAIR)
        integers = limits.integers(self.quantized.scheme)
        rounded = round_by_gptq(rows.reshape(*shape, -1), scale, zero_point, moments, integers, pairs)
        return np.ascontiguousarray(np.moveaxis(rounded.reshape(rows.shape), 0, self.axis))


def _fast(layers: Sequence[_LayerCorrection], notes: list[str]) -> dict[str, Array]:
    """Biases corrected from statistics; what could not be is added to ``notes``."""
    constants: dict[str, Array] = {}
    unknown = []
    for each in layers:
        bias = each.layer.bias
        if bias is None or each.recipe.bias_correction is BiasCorrection.NONE:
            continue
        weight = each.constant(each.layer.weight)
        shift = each.fast_shift(each.nearest(weight) - weight)
        if shift is None:
            unknown.append(each.layer.name)
        else:
            constants[bias] = each.shifted(shift)
    if unknown:
        notes.append(f"Bias correction leaves {listed(unknown)} as is: the means of its input were not observed")
    return constants


def _served(quantized: QuantizedGraph, recipe: Recipe) -> tuple[list[QuantizedLayer], list[str]]:
    """The layers whose constants may be changed, and why not those of others."""
    if recipe.bias_correction is BiasCorrection.NONE and recipe.weight_rounding is WeightRounding.NEAREST:
        return [], []
    connections = Connections(quantized.graph.nodes, quantized.graph.outputs)
    served: list[QuantizedLayer] = []
    shared, shapeless = [], []
    for each in quantized.layers:
        layer = each.layer
        if not all(connections.read_once(name) for name in (layer.weight, layer.bias) if name is not None):
            shared.append(layer.name)
        elif layer.axis is None or (layer.convolution is not None and layer.convolution.pads is None):
            shapeless.append(layer.name)
        elif layer.bias is not None or recipe.weight_rounding is not WeightRounding.NEAREST:
            served.append(each)
    notes = []
    if shared:
        notes.append(f"Weights and bias of {listed(shared)} are not corrected: other ops read them too")
    if shapeless:
        notes.append(
            f"Weights and bias of {listed(shapeless)} are not corrected: a stack of matrices, or automatic padding"
        )
    return served, notes
