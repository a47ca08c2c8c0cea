"""Kernels and precisions of a compiled model: which kernel each op became part of, and in which type."""

from __future__ import annotations

from collections.abc import Mapping

import openvino as ov

from autotune.adapter import Execution
from autotune.adapters.openvino.model import OpenVinoModel
from autotune.adapters.openvino.ops import WITHOUT_BIAS, is_constant, op_name
from autotune.adapters.openvino.session import compile_for, compiled
from autotune.config import Precision

_LOWERED = ("_original", "/DequantizationMultiply", "/DequantizationSubtract")
"""Suffixes that OpenVINO appends to the name of an op whose inputs are integers, and to ops that it puts behind it."""

_FUSED = frozenset({"Add", "Subtract", "Multiply", "Relu", "Clamp", "Maximum", "Minimum", "Sigmoid", "Swish", "HSwish"})
"""Ops that a kernel takes over from behind, so that it may bear their names alone."""

_INTEGERS = frozenset({"u8", "i8"})
_NARROW = _INTEGERS | {"bf16", "f16"}


def kernels(model: ov.CompiledModel, ops: Mapping[str, ov.Node]) -> dict[str, tuple[str, ...]]:
    """By the name of a kernel: the ops that became part of it, convolutions and MatMuls before sums.

    Args:
        model: Compiled.
        ops: By name, those of the model's graph that can be int8.
    """
    aliases = _aliases(ops)
    found = {}
    for node in model.get_runtime_model().get_ordered_ops():
        info = node.get_rt_info()
        names = str(info["originalLayersNames"].value).split(",") if "originalLayersNames" in info else []
        names = [_named_by_user(name) for name in names]
        members = dict.fromkeys(name for name in names if name in ops)
        members |= dict.fromkeys(aliases[name] for name in names if name in aliases and not members)
        if members and str(info["layerType"].value) != "Const":
            found[str(node.get_friendly_name())] = tuple(
                sorted(members, key=lambda name: ops[name].get_type_name() == "Add")
            )
    return found


def _named_by_user(name: str) -> str:
    for suffix in (*_LOWERED, WITHOUT_BIAS):
        name = name.removesuffix(suffix)
    return name


def _aliases(ops: Mapping[str, ov.Node]) -> dict[str, str]:
    """By the name of a node that alone reads an op's result, and at the end of a chain of those: the op."""
    found: dict[str, str] = {}
    for name, op in ops.items():
        node = op
        while len(readers := list(node.output(0).get_target_inputs())) == 1:
            node = readers[0].get_node()
            if node.get_type_name() not in _FUSED or op_name(node) in ops:
                break
            others = [port.get_node() for port in node.input_values()]
            if sum(not is_constant(other) for other in others) > 1:
                break
            found[op_name(node)] = name
    return found


def not_as_asked(
    candidate: OpenVinoModel, asked: Mapping[str, Precision], shapes: tuple[tuple[int, ...], ...]
) -> list[str]:
    """Ops of a candidate that OpenVINO computes in more bits than they are to be in.

    Args:
        candidate: The model.
        asked: By op: int8, or a precision of 16 bits.
        shapes: Shapes of the inputs of one call; empty: OpenVINO compiles for any.

    Raises:
        ApplyError: OpenVINO refuses the candidate.
    """
    one = Execution(threads=1)
    made = compile_for(candidate, shapes, one) if shapes else compiled(candidate.graph, one, candidate.floats)
    nodes = {op_name(node): node for node in candidate.graph.get_ordered_ops()}
    owners = kernels(made, {name: nodes[name] for name in asked})
    computed = _precisions(made)
    # The rest of an op's name beside its kernel, such as the multiplication by its scales, computes in fp32.
    found = {name: {computed[kernel] for kernel, members in owners.items() if name in members} for name in asked}
    fitting = {name: _INTEGERS if precision is Precision.INT8 else _NARROW for name, precision in asked.items()}
    return [name for name in asked if fitting[name].isdisjoint(found[name])]


def _precisions(model: ov.CompiledModel) -> Mapping[str, str]:
    nodes = model.get_runtime_model().get_ordered_ops()
    return {str(node.get_friendly_name()): str(node.get_rt_info()["runtimePrecision"].value) for node in nodes}
