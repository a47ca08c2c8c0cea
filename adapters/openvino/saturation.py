"""Which ops of a quantized model can saturate on x86 CPUs without VNNI, where two products are summed in 16 bits."""

from __future__ import annotations

import numpy as np
import openvino as ov

from autotune.adapter import Array
from autotune.adapters.openvino.model import OpenVinoModel
from autotune.adapters.openvino.ops import CONVOLUTIONS, QuantizableOp, op_name
from autotune.adapters.openvino.weights import summed_columns
from autotune.algorithms import can_saturate


def saturating_ops(model: OpenVinoModel) -> tuple[str, ...]:
    """The names of the ops at risk, in graph order.

    Exact for constant weights; a MatMul of two activations, of which the second is s8, is always at risk.
    """
    found = []
    for node in model.graph.get_ordered_ops():
        if node.get_type_name() not in (*CONVOLUTIONS, "MatMul") or not _is_quantized(node.input_value(0)):
            continue
        integers = _integers(node.input_value(1).get_node())
        if integers is None:
            at_risk = _is_quantized(node.input_value(1))
        else:
            op = QuantizableOp(name=op_name(node), node=node, activations=(0,), weight=integers)
            columns = summed_columns(op, op.rows)
            at_risk = columns is not None and can_saturate(columns)
        if at_risk:
            found.append(op_name(node))
    return tuple(found)


def _is_quantized(port: ov.Output) -> bool:
    return bool(port.get_node().get_type_name() == "FakeQuantize")


def _integers(node: ov.Node) -> Array | None:
    """The integers of a weight that is ``Constant i8 -> Convert -> Multiply``; a Reshape may follow."""
    while node.get_type_name() in ("Multiply", "Convert", "Subtract", "Reshape"):
        node = node.input_value(0).get_node()
    if node.get_type_name() != "Constant" or node.get_element_type() != ov.Type.i8:
        return None
    return np.asarray(node.data)
