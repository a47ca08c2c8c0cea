"""What the recipe does to weights and biases of int8 ops: how weights become integers, how biases make up for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import openvino as ov

from autotune.adapter import Array, Feeds
from autotune.adapters.openvino.layers import Bias, OpenVinoGraph, bias_name, weight_name
from autotune.adapters.openvino.model import OpenVinoModel
from autotune.adapters.openvino.ops import QuantizableOp, tensor_name
from autotune.adapters.openvino.weights import WeightGrid
from autotune.algorithms.bias_correction import convolution_shift, matmul_shift
from autotune.algorithms.gptq import LARGEST_INPUTS, PairBound, convolution_moments, matmul_moments, round_by_gptq
from autotune.algorithms.graph import Convolution, Values
from autotune.algorithms.layerwise import walk
from autotune.algorithms.saturation import LARGEST_PAIR
from autotune.batch import BatchAxes, axes_of
from autotune.calibration import CalibrationStatistics
from autotune.config import BiasCorrection, Recipe, WeightRounding

_FEWEST_VALUES = 256
"""Per channel, for a mean that tells more than chance; a head answers once per example."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """An int8 op with a weight; see :class:`autotune.algorithms.layerwise.Correction`."""

    op: QuantizableOp
    grid: WeightGrid
    recipe: Recipe
    statistics: CalibrationStatistics
    stored_bias: Array | None

    @property
    def source(self) -> str:
        """The tensor that the op multiplies by its weight."""
        return tensor_name(self.op.node.input_value(0))

    def weights(self, source: Values) -> Mapping[str, Array]:
        """The weight on its grid, and the bias where it is corrected by statistics."""
        rounded = self.rounded(source)
        constants = {weight_name(self.op): rounded}
        if self.recipe.bias_correction is BiasCorrection.FAST and self.stored_bias is not None:
            shift = self.fast_shift(rounded)
            if shift is not None:
                constants[bias_name(self.op)] = np.asarray(self.stored_bias - shift, np.float32)
        return constants

    def bias(self, outputs: Values, target: Values) -> tuple[Mapping[str, Array], Array | None]:
        """The bias that makes the means of what the op writes those of fp32."""
        axis = 1 if self.op.convolves else -1
        if self.recipe.bias_correction is not BiasCorrection.FULL or self.stored_bias is None:
            return {}, None
        if sum(array.size // array.shape[axis] for array in outputs) < _FEWEST_VALUES:
            return {}, None
        difference = [np.moveaxis(a.astype(np.float64) - b, axis, 0) for a, b in zip(outputs, target, strict=True)]
        values = np.concatenate([each.reshape(len(each), -1) for each in difference], axis=1)
        shift = np.asarray(values.mean(axis=1), np.float32)
        bias = {bias_name(self.op): self.stored_bias - shift}
        return bias, shift.reshape(-1, *[1] * (outputs[0].ndim - 2)) if self.op.convolves else shift

    def rounded(self, source: Values | None = None) -> Array:
        """What is left of the weight."""
        moments = self._moments(source) if source and self.recipe.weight_rounding is WeightRounding.GPTQ else None
        return self.grid.nearest if moments is None else self._by_gptq(moments)

    def fast_shift(self, rounded: Array) -> Array | None:
        """Of the mean output, from statistics; None where the input's channels were not observed."""
        found = self.statistics.tensors.get(self.source)
        if found is None or found.channels is None:
            return None
        mean, error = found.channels.mean, rounded - self.grid.rows
        if self.op.convolves:
            fits = found.channels.axis == 1 and mean.size == error.shape[1] * self.op.groups
            return convolution_shift(error, mean, self.op.groups) if fits else None
        return matmul_shift(error, mean) if mean.size == error.shape[1] else None

    def _moments(self, source: Values) -> Array | None:
        if not self.op.has_channels or self.grid.rows[0].size > LARGEST_INPUTS:
            return None
        if not self.op.convolves:
            return matmul_moments(source)
        convolution = convolution_of(self.op)
        kernel = self.grid.rows.shape[2:]
        return None if convolution.pads is None else convolution_moments(convolution, kernel, source)

    def _by_gptq(self, moments: Array) -> Array:
        rows, parameters, limits = self.grid.rows, self.grid.parameters, self.grid.limits
        shape = (self.op.groups, len(rows) // self.op.groups)
        scale = np.broadcast_to(parameters.scale, rows.shape[:1]).reshape(shape)
        zero_point = np.broadcast_to(parameters.zero_point, rows.shape[:1]).reshape(shape)
        neighbours = limits.neighbours(rows.shape, 0)
        pairs = None if neighbours is None else PairBound(neighbours=neighbours, most=LARGEST_PAIR)
        integers = limits.integers(self.grid.scheme)
        found = round_by_gptq(rows.reshape(*shape, -1), scale, zero_point, moments, integers, pairs)
        return np.ascontiguousarray(found.reshape(rows.shape), np.float32)


def convolution_of(op: QuantizableOp) -> Convolution:
    """How a convolution goes over what it reads."""
    options = op.node.get_attributes()
    chosen_at_run_time = options["auto_pad"].startswith("same")
    return Convolution(
        groups=op.groups,
        strides=tuple(options["strides"]),
        dilations=tuple(options["dilations"]),
        pads=None if chosen_at_run_time else (*options["pads_begin"], *options["pads_end"]),
    )


def correct_constants(
    model: OpenVinoModel,
    graph: ov.Model,
    grids: Mapping[str, tuple[QuantizableOp, WeightGrid]],
    fake_quantizers: Mapping[str, Callable[[Array], Array]],
    recipe: Recipe,
    statistics: CalibrationStatistics,
) -> tuple[dict[str, Array], list[str]]:
    """Weights on their grids, and biases that differ from the model's, by name; and a line for what was left undone.

    Args:
        model: The fp32 model.
        graph: The same with biases where they are to be corrected; stays as it is.
        grids: By op that becomes int8, with its grid.
        fake_quantizers: By tensor that is quantized.
        recipe: Of the candidate.
        statistics: Of the fp32 model.
    """
    layers = {
        name: Layer(op=op, grid=grid, recipe=recipe, statistics=statistics, stored_bias=Bias(op).values)
        for name, (op, grid) in grids.items()
    }
    served = {name: layer for name, layer in layers.items() if layer.op.has_channels}
    constants = {weight_name(layer.op): layer.rounded() for layer in layers.values()}
    careful = recipe.weight_rounding is WeightRounding.GPTQ or recipe.bias_correction is BiasCorrection.FULL
    if careful and statistics.examples:
        examples, axes = _examples(model, statistics.examples)
        constants |= walk(OpenVinoGraph(graph.clone()), examples, fake_quantizers, served, {}, axes)
        return constants, []
    notes = []
    if careful:
        recipe = dataclasses.replace(recipe, bias_correction=BiasCorrection.FAST)
        served = {name: dataclasses.replace(layer, recipe=recipe) for name, layer in served.items()}
        notes = [
            "Full bias correction and GPTQ need calibration samples, and none was kept: one sample exceeds the limit. "
            "Biases are corrected from statistics, weights are rounded to nearest"
        ]
    for layer in served.values():
        constants |= layer.weights([])
    return constants, notes


def _examples(model: OpenVinoModel, examples: Sequence[Feeds]) -> tuple[list[Feeds], BatchAxes]:
    """The samples by the names of their tensors in the graph, and the axes likewise."""
    names = {
        spec.name: tensor_name(port.get_node().output(0))
        for spec, port in zip(model.inputs, model.graph.inputs, strict=True)
    }
    axes = axes_of(model)
    renamed = dataclasses.replace(axes, inputs={names[name]: axis for name, axis in axes.inputs.items()})
    return [{names[name]: array for name, array in feeds.items()} for feeds in examples], renamed
