"""Weight-only quantization: matrices are stored in 4 or 8 bits, and the op computes with the values they stand for.

ONNX Runtime's ``MatMulNBits`` reads blocks of 32 values with a scale and a zero point each, rounded to nearest (RTN).
It pays where the time goes into reading weights: one row at a time, or a model that must be small. Measured for a
384 x 1536 matrix and one row of activations: 2.8 times (4 bits) and 2.0 times (8 bits) the speed of fp32; for 64 rows
none is faster than fp32, where dynamic int8 is 3.2 times as fast. (Measured with scales alone.)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from autotune.adapter import Array
from autotune.adapters.onnxruntime.graph import Graph
from autotune.adapters.onnxruntime.model import OnnxModel
from autotune.adapters.onnxruntime.ops import QuantizableOp
from autotune.adapters.onnxruntime.rewriting import CONTRIB_DOMAIN, replace_nodes, require_contrib_domain
from autotune.config import Precision, QuantizationConfig

BLOCK = 32
"""Values that share a scale."""

MINIMUM_VALUES = 1 << 16
"""Smaller matrices stay in the cache: nothing is gained."""

_BITS = {Precision.INT8_WEIGHT: 8, Precision.INT4_WEIGHT: 4}

_INT8_SUMS = 4
"""``accuracy_level`` at which the kernel rounds activations to 8 bits, block by block; the fast one."""


def supports_weight_only(op: QuantizableOp, graph: Graph) -> bool:
    """Whether an op is a product with a constant matrix large enough to be worth it."""
    if op.node.op_type not in ("MatMul", "Gemm") or op.weight is None or op.weight_axis is None:
        return False
    return int(np.prod(graph.initializers[op.weight].dims)) >= MINIMUM_VALUES


def quantize_weights_only(
    proto: onnx.ModelProto, model: OnnxModel, ops: Sequence[QuantizableOp], config: QuantizationConfig
) -> None:
    """Replace the ops that ``config`` wants with 4-bit or 8-bit weights.

    Args:
        proto: The candidate, whose other ops may be quantized already; changed in place.
        model: Where the values of weights come from.
        ops: Of the model; those of other precisions are passed over.
        config: How.
    """
    chosen = [op for op in ops if config[op.name].precision in _BITS]
    if not chosen:
        return
    nodes = {node.name: node for node in proto.graph.node}
    constants = {tensor.name: tensor for tensor in model.proto.graph.initializer}
    stored: set[str] = set()
    replacements = {}
    for op in chosen:
        bits = _BITS[config[op.name].precision]
        values = np.asarray(model.tensor(constants[str(op.weight)]), np.float32)
        columns = np.ascontiguousarray(values if op.weight_axis == 0 else values.T)
        name = f"{op.weight}/{'rows' if op.weight_axis == 0 else 'columns'}/{bits}_bits"
        names = [f"{name}/{part}" for part in ("integers", "scales", "zero_points")]
        if name not in stored:
            stored.add(name)
            for each, array in zip(names, pack_blocks(columns, bits), strict=True):
                proto.graph.initializer.append(numpy_helper.from_array(array, each))
        replacements[op.name] = _nodes(op, nodes[op.name], names, columns.shape, bits)
    replace_nodes(proto, replacements)
    require_contrib_domain(proto)


def _nodes(
    op: QuantizableOp, node: onnx.NodeProto, names: Sequence[str], shape: tuple[int, ...], bits: int
) -> list[onnx.NodeProto]:
    output = node.output[0] if op.bias is None else f"{op.name}/product"
    outputs, inputs = shape
    product = helper.make_node(
        "MatMulNBits",
        [node.input[0], *names],
        [output],
        op.name,
        domain=CONTRIB_DOMAIN,
        K=inputs,
        N=outputs,
        bits=bits,
        block_size=BLOCK,
        accuracy_level=_INT8_SUMS,
    )
    if op.bias is None:
        return [product]
    return [product, helper.make_node("Add", [output, node.input[2]], [node.output[0]], f"{op.name}/bias")]


def pack_blocks(columns: Array, bits: int) -> tuple[Array, Array, Array]:
    """Round a matrix to nearest, block by block, in the layout of ``MatMulNBits``.

    Args:
        columns: float32, (outputs, inputs).
        bits: 4 or 8; two 4-bit values share a byte, the first in its lower half.

    Returns:
        Integers, uint8 (outputs, blocks, bytes); scales, float32 (outputs, blocks); zero points, uint8
        (outputs, bytes). The last block is filled up with zeros.
    """
    outputs, inputs = columns.shape
    blocks = -(-inputs // BLOCK)
    padded = np.zeros((outputs, blocks * BLOCK), np.float32)
    padded[:, :inputs] = columns
    values = padded.reshape(outputs, blocks, BLOCK)
    largest = 2**bits - 1
    low = np.minimum(values.min(axis=2), 0.0)
    high = np.maximum(values.max(axis=2), 0.0)
    scales = np.where(high > low, (high - low) / np.float32(largest), np.float32(1.0)).astype(np.float32)
    zero_points = np.clip(np.rint(-low / scales), 0, largest).astype(np.uint8)
    integers = np.rint(values / scales[..., None]) + zero_points[..., None]
    integers = np.clip(integers, 0, largest).astype(np.uint8)
    if bits == 4:
        integers = integers[..., 0::2] | (integers[..., 1::2] << 4)
        even = np.zeros((outputs, blocks + blocks % 2), np.uint8)
        even[:, :blocks] = zero_points
        zero_points = even[:, 0::2] | (even[:, 1::2] << 4)
    return np.ascontiguousarray(integers), scales, np.ascontiguousarray(zero_points)
