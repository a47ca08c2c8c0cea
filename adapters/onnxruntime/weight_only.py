"""Weight-only quantization: matrices are stored in 4 or 8 bits, and the op computes with the values they stand for.

ONNX Runtime's ``MatMulNBits`` and ``GatherBlockQuantized`` read blocks of values with a scale and a zero point each;
:mod:`autotune.algorithms.blocks` says how these are chosen and how values are rounded. MatMuls gain where the time goes
into reading weights: one row at a time, or a model that must be small. Measured for a 384 x 1536 matrix and one row of
activations: 3.5 times (4 bits) and 3.6 times (8 bits) the speed of fp32; for 64 rows 1.2 and 1.6 times, less than
dynamic int8. Tables gain nothing but size: 64 rows of 384 values are read in 10 us, in 15 with 8 bits, in 33 with 4
(``benchmarks/weight_kernels.py``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from autotune.adapter import Array
from autotune.adapters.onnx.graph import Graph
from autotune.adapters.onnx.model import OnnxModel
from autotune.adapters.onnx.rewriting import CONTRIB_DOMAIN, replace_nodes, require_contrib_domain
from autotune.adapters.onnxruntime.choices.ops import LARGE, QuantizableOp
from autotune.adapters.onnxruntime.recipes.graph import OnnxGraph
from autotune.algorithms.blocks import BlockGrid, BlockLayer, block_grid, gptq_blocks, round_to_grid
from autotune.config import WEIGHT_ONLY, Precision, QuantizationConfig, WeightOnly
from autotune.errors import ApplyError

BITS = {Precision.INT8_WEIGHT: 8, Precision.INT4_WEIGHT: 4}

BLOCK = {8: 128, 4: 32}
"""Values that share a scale, by bits. The accuracy that larger blocks cost matters with 4 bits; see docs/recipes.md."""

_INT8_SUMS = 4
"""``accuracy_level`` at which the kernel rounds activations to 8 bits, block by block; the fast one."""


def weight_only_precisions(op: QuantizableOp, graph: Graph) -> tuple[Precision, ...]:
    """The precisions in which an op's weight can be stored: a large matrix that it multiplies with or gathers from."""
    if op.weight is None:
        return ()
    dims = graph.initializers[op.weight].dims
    if op.node.op_type == "Gather":
        # Two values of 4 bits share a byte within a row, and so do two zero points. Where their number is odd, ONNX
        # Runtime 1.24 reads the wrong ones.
        pairs = dims[-1] % 2 == 0 and -(-dims[-1] // BLOCK[4]) % 2 == 0
        return (Precision.INT8_WEIGHT, Precision.INT4_WEIGHT) if pairs else (Precision.INT8_WEIGHT,)
    matmul = op.node.op_type in ("MatMul", "Gemm") and op.weight_axis is not None
    return (Precision.INT8_WEIGHT, Precision.INT4_WEIGHT) if matmul and int(np.prod(dims)) >= LARGE else ()


def weight_only_grids(
    model: OnnxModel, ops: Sequence[QuantizableOp], config: QuantizationConfig
) -> dict[str, BlockGrid]:
    """By op: the grid of its weight, for those that ``config`` wants with 4-bit or 8-bit weights.

    Args:
        model: The model that holds the values of weights.
        ops: The model's ops.
        config: The config that says how.

    Raises:
        ApplyError: A weight holds infinities, or what is no number.
    """
    constants = {tensor.name: tensor for tensor in model.proto.graph.initializer}
    shared: dict[tuple[object, ...], BlockGrid] = {}
    grids = {}
    for op in ops:
        if config[op.name].precision in WEIGHT_ONLY:
            bits = BITS[config[op.name].precision]
            key = (op.weight, op.weight_axis, bits)
            if key not in shared:
                rows = weight_rows(op, model.tensor(constants[str(op.weight)]))
                if not np.isfinite(rows).all():
                    raise ApplyError(f"Weights must be finite to be stored in {bits} bits, but {op.weight!r} is not")
                shared[key] = block_grid(rows, bits, BLOCK[bits], config.recipe.weight_only)
            grids[op.name] = shared[key]
    return grids


def weight_rows(op: QuantizableOp, weight: Array) -> Array:
    """A weight as rows of values that are summed up, or read, together: float32, (rows, values)."""
    values = np.asarray(weight, np.float32)
    if op.node.op_type == "Gather":
        return values.reshape(-1, values.shape[-1])
    return np.ascontiguousarray(values if op.weight_axis == 0 else values.T)


def block_layers(
    model: OnnxModel, ops: Sequence[QuantizableOp], config: QuantizationConfig, grids: Mapping[str, BlockGrid]
) -> tuple[dict[str, BlockLayer], list[str]]:
    """The layers that GPTQ rounds, by op, and a note for each that is rounded to nearest instead."""
    if config.recipe.weight_only is not WeightOnly.GPTQ:
        return {}, []
    return gptq_blocks(OnnxGraph(model, ops), grids)


def quantize_weights_only(
    proto: onnx.ModelProto, model: OnnxModel, ops: Sequence[QuantizableOp], grids: Mapping[str, BlockGrid]
) -> None:
    """Replace the ops whose weights are stored in blocks.

    Args:
        proto: The candidate, whose other ops may be quantized already; changed in place.
        model: The model that holds the values of weights.
        ops: The model's ops; those without a grid are passed over.
        grids: The grids that :func:`weight_only_grids` returned.
    """
    chosen = [op for op in ops if op.name in grids]
    if not chosen:
        return
    nodes = {node.name: node for node in proto.graph.node}
    constants = {tensor.name: tensor for tensor in model.proto.graph.initializer}
    stored: set[str] = set()
    replacements = {}
    for op in chosen:
        grid = grids[op.name]
        table = op.node.op_type == "Gather"
        layout = "table" if table else "rows" if op.weight_axis == 0 else "columns"
        name = f"{op.weight}/{layout}/{grid.bits}_bits"
        names = [f"{name}/{part}" for part in ("integers", "scales", "zero_points")]
        values = model.tensor(constants[str(op.weight)])
        rows = weight_rows(op, values)
        if name not in stored:
            stored.add(name)
            arrays = pack_table(rows, grid, values.shape) if table else pack_blocks(rows, grid)
            proto.graph.initializer.extend(map(numpy_helper.from_array, arrays, names))
        node = nodes[op.name]
        replacements[op.name] = [_gather(node, names, grid)] if table else _matmul(op, node, names, rows.shape, grid)
    replace_nodes(proto, replacements)
    require_contrib_domain(proto)


def _gather(node: onnx.NodeProto, names: Sequence[str], grid: BlockGrid) -> onnx.NodeProto:
    return helper.make_node(
        "GatherBlockQuantized",
        [names[0], node.input[1], *names[1:]],
        [node.output[0]],
        node.name,
        domain=CONTRIB_DOMAIN,
        bits=grid.bits,
        block_size=grid.block,
        gather_axis=0,
        quantize_axis=-1,
    )


def _matmul(
    op: QuantizableOp, node: onnx.NodeProto, names: Sequence[str], shape: tuple[int, ...], grid: BlockGrid
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
        bits=grid.bits,
        block_size=grid.block,
        accuracy_level=_INT8_SUMS,
    )
    if op.bias is None:
        return [product]
    return [product, helper.make_node("Add", [output, node.input[2]], [node.output[0]], f"{op.name}/bias")]


def pack_blocks(rows: Array, grid: BlockGrid) -> tuple[Array, Array, Array]:
    """Round a matrix in the layout of ``MatMulNBits``.

    Args:
        rows: float32, (outputs, inputs).
        grid: Grid of the matrix; two 4-bit values share a byte, the first in its lower half.

    Returns:
        Integers, uint8 (outputs, blocks, bytes); scales, float32 (outputs, blocks); zero points, uint8
        (outputs, bytes). The last block is filled up.
    """
    integers = round_to_grid(rows, grid)
    if grid.bits == 4:
        integers = _in_pairs(integers)
        return integers, grid.scales, _in_pairs(grid.zero_points)
    return integers, grid.scales, grid.zero_points


def pack_table(rows: Array, grid: BlockGrid, shape: Sequence[int]) -> tuple[Array, Array, Array]:
    """Round a table in the layout of ``GatherBlockQuantized``, in which rows end where their values do.

    Args:
        rows: float32, (rows, values).
        grid: Grid of the rows.
        shape: Shape of the table, whose last axis holds a row's values.

    Returns:
        Integers, scales and zero points, of the table's shape but for the last axis.
    """
    integers = round_to_grid(rows, grid).reshape(len(rows), -1)[:, : rows.shape[1]]
    zero_points = grid.zero_points
    if grid.bits == 4:
        integers, zero_points = _in_pairs(integers), _in_pairs(zero_points)
    packed = (integers, grid.scales, zero_points)
    whole, scales, zeros = (np.ascontiguousarray(each.reshape(*shape[:-1], -1)) for each in packed)
    return whole, scales, zeros


def _in_pairs(integers: Array) -> Array:
    """Two 4-bit integers to a byte along the last axis, the first in the lower half; an odd count gets a zero."""
    if integers.shape[-1] % 2:
        integers = np.pad(integers, [(0, 0)] * (integers.ndim - 1) + [(0, 1)])
    return np.ascontiguousarray(integers[..., 0::2] | (integers[..., 1::2] << 4))
