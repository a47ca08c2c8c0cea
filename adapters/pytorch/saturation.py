"""Which ops of a quantized model can saturate on x86 CPUs without VNNI, where two products are summed in 16 bits."""

from __future__ import annotations

from autotune.adapters.pytorch.graph import constant
from autotune.adapters.pytorch.model import PytorchModel
from autotune.adapters.pytorch.ops import nodes_by_name
from autotune.adapters.pytorch.recurrent import integers_name
from autotune.adapters.pytorch.weights import summed_columns
from autotune.algorithms import can_saturate
from autotune.config import Precision

_INTEGERS = (Precision.INT8, Precision.INT8_DYNAMIC)


def saturating_ops(model: PytorchModel) -> tuple[str, ...]:
    """The names of the ops at risk, in graph order."""
    if model.graph is None:
        return ()
    nodes = nodes_by_name(model.graph)
    found = []
    for op in model.ops:
        if model.asked.get(op.name) not in _INTEGERS:
            continue
        names = [integers_name(op.node, place) for place in range(len(op.matrices))]
        if op.weight is not None:
            names = [str(nodes[op.node].args[1].args[0].target)]
        columns = [summed_columns(op, constant(model.graph, name).numpy()) for name in names]
        if any(each is not None and can_saturate(each) for each in columns):
            found.append(op.name)
    return tuple(found)
