"""LSTM in dynamic int8: both matrices are stored in 8 bits, and what they multiply is quantized at every step.

ONNX Runtime's ``DynamicQuantizeLSTM`` is its LSTM with integer MatMuls: peepholes, clipping, coupled gates, other
activations, initial states, lengths and both directions go on unchanged (each was compared with fp32). It wants its
matrices transposed, ``(directions, inputs, 4 * hidden)``, with one scale for each direction or one for each column.
There is no integer kernel for GRU and RNN.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from autotune.adapter import Array
from autotune.adapters.onnx.model import OnnxModel
from autotune.adapters.onnx.rewriting import CONTRIB_DOMAIN, replace_nodes, require_contrib_domain
from autotune.adapters.onnxruntime.choices.ops import QuantizableOp
from autotune.algorithms.saturation import weight_limits
from autotune.config import CalibrationMethod, Granularity, Precision, QuantizationConfig, Recipe, TensorScheme
from autotune.errors import ApplyError

LSTM_KERNEL = "DynamicQuantizeLSTM"

LSTM_WEIGHTS = (1, 2)
"""Inputs of the kernel, and of LSTM itself, that are its matrices: of the inputs, and of the hidden state."""

_STANDARD_INPUTS = 8
"""Inputs of the standard LSTM; the kernel's scales and zero points follow."""


def quantize_lstms(
    proto: onnx.ModelProto, model: OnnxModel, ops: Sequence[QuantizableOp], config: QuantizationConfig
) -> None:
    """Replace the LSTMs that ``config`` wants in dynamic int8.

    Args:
        proto: The candidate, whose other ops may be quantized already; changed in place.
        model: The model that holds the values of weights.
        ops: The model's ops; those of other types and precisions are passed over.
        config: The config that says how.

    Raises:
        ApplyError: A weight holds infinities, or what is no number.
    """
    chosen = [op for op in ops if op.node.op_type == "LSTM" and config[op.name].precision is Precision.INT8_DYNAMIC]
    if not chosen:
        return
    nodes = {node.name: node for node in proto.graph.node}
    constants = {tensor.name: tensor for tensor in model.proto.graph.initializer}
    stored: set[str] = set()
    replacements = {}
    for op in chosen:
        scheme = config[op.name].weight
        assert scheme is not None
        node = nodes[op.name]
        inputs = [*node.input, *[""] * (_STANDARD_INPUTS - len(node.input))]
        for index in LSTM_WEIGHTS:
            weight = inputs[index]
            name = f"{weight}/{str(scheme).replace(' ', '_')}"
            names = [f"{name}/{part}" for part in ("integers", "scale", "zero_point")]
            if name not in stored:
                stored.add(name)
                values = np.asarray(model.tensor(constants[weight]), np.float32)
                if not np.isfinite(values).all():
                    raise ApplyError(f"Weights must be finite to be quantized, but {weight!r} is not")
                arrays = _quantized(values, scheme, config.recipe)
                proto.graph.initializer.extend(map(numpy_helper.from_array, arrays, names))
            inputs[index] = names[0]
            inputs += names[1:]
        new = helper.make_node(LSTM_KERNEL, inputs, list(node.output), op.name, domain=CONTRIB_DOMAIN)
        new.attribute.extend(each for each in node.attribute if each.name != "layout")
        replacements[op.name] = [new]
    replace_nodes(proto, replacements)
    require_contrib_domain(proto)


def _quantized(weight: Array, scheme: TensorScheme, recipe: Recipe) -> tuple[Array, Array, Array]:
    """Integers, scales and zero points of a matrix (directions, 4 * hidden, inputs), as the kernel wants them."""
    axis = 0 if scheme.granularity == Granularity.PER_CHANNEL else None
    limits = weight_limits(np.arange(weight[0].size).reshape(weight.shape[1:]).T, scheme, recipe)
    parts = []
    for matrix in weight:
        parameters = limits.parameters(matrix, scheme, 0, CalibrationMethod.MINMAX)
        integers = limits.quantize(matrix, parameters, scheme, axis)
        parts.append((integers.T, parameters.scale, parameters.zero_point))
    integers, scales, zero_points = (np.stack(each) for each in zip(*parts, strict=True))
    return np.ascontiguousarray(integers), scales.astype(np.float32), zero_points.astype(integers.dtype)
