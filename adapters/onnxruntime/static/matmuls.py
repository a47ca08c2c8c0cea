"""Static int8 MatMul and Gemm that write fp32: straight to the kernel, bias included.

ONNX Runtime fuses DQ-MatMul into ``MatMulIntegerToFloat``, but the bias that an Add brings in afterwards stays an
operator of its own, or ends in a slow ``BiasGelu`` (measured: 119 us instead of 66 for 64 x 1536 values). Written out
here, the kernel takes the bias along. ONNX Runtime makes an fp32 ``FusedGemm`` of a Gemm and the activation after it
before it looks for integer kernels; written out as ``QGemm``, the MatMul stays an integer one.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import onnx
from onnx import helper

from autotune.adapters.onnx.graph import Graph
from autotune.adapters.onnx.quantized import is_pair
from autotune.adapters.onnx.rewriting import CONTRIB_DOMAIN, replace_nodes, require_contrib_domain
from autotune.adapters.onnxruntime.choices.ops import QuantizableOp

_KERNEL = "MatMulIntegerToFloat"
_GEMM_KERNEL = "QGemm"


def write_out_matmuls(
    proto: onnx.ModelProto, ops: Sequence[QuantizableOp], given: Collection[str] = frozenset()
) -> None:
    """Replace MatMul and Gemm nodes between DequantizeLinear nodes and an fp32 output by the integer kernel.

    Args:
        proto: A candidate with Q/DQ pairs in place; changed in place.
        ops: The static int8 ops.
        given: Names of the Q and DQ nodes of the user's own, which stay.
    """
    graph = Graph(proto)
    nodes = {node.name: node for node in graph.nodes}
    replacements: dict[str, list[onnx.NodeProto]] = {}
    for op in ops:
        if op.node.op_type == "MatMul" and op.weight_axis is not None:
            _write_out(nodes[op.name], graph, replacements)
        elif op.node.op_type == "Gemm":
            _write_out_gemm(nodes[op.name], graph, replacements)
    if replacements:
        replace_nodes(proto, replacements)
        require_contrib_domain(proto)
        _drop_unread_pairs(proto, given)


def _write_out(node: onnx.NodeProto, graph: Graph, replacements: dict[str, list[onnx.NodeProto]]) -> None:
    sides = [graph.producers.get(name) for name in node.input]
    readers = graph.readers.get(node.output[0], [])
    if any(side is None or side.op_type != "DequantizeLinear" for side in sides):
        return
    if any(reader.op_type == "QuantizeLinear" for reader in readers):
        return  # QLinearMatMul, which writes integers
    (left, left_scale, left_zero), (right, right_scale, right_zero) = (list(side.input) for side in sides if side)
    inputs = [left, right, left_scale, right_scale, left_zero, right_zero]
    output = node.output[0]
    add = readers[0] if len(readers) == 1 and graph.read_once(output) else None
    bias = _bias(add, output, right_scale, graph) if add is not None else None
    if add is not None and bias is not None:
        inputs.append(bias)
        output = add.output[0]
        replacements[add.name] = []
    replacements[node.name] = [helper.make_node(_KERNEL, inputs, [output], node.name, domain=CONTRIB_DOMAIN)]


def _write_out_gemm(node: onnx.NodeProto, graph: Graph, replacements: dict[str, list[onnx.NodeProto]]) -> None:
    sources = [graph.producers.get(name) for name in node.input if name]
    if any(source is None or source.op_type != "DequantizeLinear" for source in sources):
        return
    if any(reader.op_type == "QuantizeLinear" for reader in graph.readers.get(node.output[0], [])):
        return
    left, right, *bias = (list(source.input) for source in sources if source is not None)
    # The scale of the bias is the product of the other two.
    inputs = [left[0], left[1], left[2], right[0], right[1], right[2], *(each[0] for each in bias)]
    new = helper.make_node(_GEMM_KERNEL, inputs, list(node.output), node.name, domain=CONTRIB_DOMAIN)
    new.attribute.extend(each for each in node.attribute if each.name == "transB")
    replacements[node.name] = [new]


def _bias(add: onnx.NodeProto, product: str, scale: str, graph: Graph) -> str | None:
    """The constant vector that an Add brings in, one value for each column; None where it is something else."""
    if add.op_type != "Add":
        return None
    names = [name for name in add.input if name != product]
    constant = graph.initializers.get(names[0]) if names else None
    if constant is None or constant.data_type != onnx.TensorProto.FLOAT or len(constant.dims) != 1:
        return None
    channels = list(graph.initializers[scale].dims)
    known = graph.types.get(add.output[0])
    columns = channels or ([known.shape.dim[-1].dim_value] if known is not None and known.shape.dim else [])
    return str(constant.name) if list(constant.dims) == columns else None


def read_originals(proto: onnx.ModelProto, int8: Collection[str], given: Collection[str] = frozenset()) -> None:
    """Make fp32 nodes read the outputs of fp32 nodes, and not what a Q/DQ pair for other readers leaves of them.

    It costs nothing, since the tensor is there, and often saves the DequantizeLinear.

    Args:
        proto: A candidate with Q/DQ pairs in place; changed in place.
        int8: Names of the nodes that compute in static int8 or pass integers on.
        given: Names of the Q and DQ nodes of the user's own: what they round stays rounded.
    """
    graph = Graph(proto)
    changed = False
    for node in proto.graph.node:
        if node.name in int8 or node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            continue
        for index, name in enumerate(node.input):
            original = _original(name, graph, int8, given)
            if original is not None:
                node.input[index] = original
                changed = True
    if changed:
        _drop_unread_pairs(proto, given)


def _original(tensor: str, graph: Graph, int8: Collection[str], given: Collection[str]) -> str | None:
    """The tensor that a Q/DQ pair reads, where an fp32 node wrote it."""
    back = graph.producers.get(tensor)
    there = graph.producers.get(back.input[0]) if back is not None and back.op_type == "DequantizeLinear" else None
    if there is None or there.op_type != "QuantizeLinear" or there.name in given:
        return None
    source = str(there.input[0])
    writer = graph.producers.get(source)
    return None if writer is not None and writer.name in int8 else source


def _drop_unread_pairs(proto: onnx.ModelProto, given: Collection[str]) -> None:
    """Drop QuantizeLinear and DequantizeLinear nodes that nobody reads; their constants are small and stay."""
    while True:
        graph = Graph(proto)
        read = set(graph.readers) | graph.outputs | graph.read_by_subgraphs
        unread = {
            node.name: ()
            for node in graph.nodes
            if is_pair(node) and node.name not in given and node.output[0] not in read
        }
        if not unread:
            return
        replace_nodes(proto, unread)
