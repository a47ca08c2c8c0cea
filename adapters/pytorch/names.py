"""Names of ops as a PyTorch user knows them: by the module that computes them, ``layer1.0.conv1``.

A module of ``torch.nn`` that computes one op gives it its own path. A function that is called in a ``forward`` is named
after the module whose ``forward`` it is: ``layer1.0.add``. Further ones are counted: ``layer1.0.relu_1``. The names
depend on the module alone, and are the same for an exported program and for the ONNX graph that is made of it.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

_FUNCTIONS = {
    "native_batch_norm_legit_no_training": "batch_norm",
    "native_layer_norm": "layer_norm",
    "native_group_norm": "group_norm",
    "convolution": "conv",
    "conv1d": "conv",
    "conv2d": "conv",
    "conv3d": "conv",
    "addmm": "linear",
    "mm": "matmul",
    "bmm": "matmul",
}
"""Names of one function before and after it is decomposed."""

_WEIGHTED = frozenset({"conv", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "linear", "matmul"})
"""Functions that multiply by a weight, after which they are named."""

_FACTORS = 2
"""Such a function multiplies as many of the tensors that it reads, the first ones; a bias comes after them."""

_MAIN = _WEIGHTED | {"batch_norm", "group_norm", "layer_norm", "lstm", "gru", "rnn_tanh", "rnn_relu"}
"""Functions that do the work of a module of ``torch.nn``, beside which others only make ready."""


@dataclass(frozen=True, kw_only=True)
class NamedOp:
    """The origin of an op in the user's code.

    Attributes:
        path: The module whose ``forward`` calls it.
        function: Function that is called.
        call: Identifies the call; a call may become several ops.
        builtin: Whether the module is one of ``torch.nn``.
        weight: The parameter that it multiplies by; None where it is none.
        kind: Kind of the op, where a call became several.
        main: Whether the op does the work of such a call.
    """

    path: str
    function: str
    call: str
    builtin: bool
    weight: str | None = None
    kind: str = ""
    main: bool = False


def op_names(ops: Sequence[NamedOp]) -> list[str]:
    """A name for each op, no two alike.

    Args:
        ops: In graph order.
    """
    calls: defaultdict[str, set[str]] = defaultdict(set)
    main_calls: defaultdict[str, set[str]] = defaultdict(set)
    parts: Counter[str] = Counter()
    mains: Counter[str] = Counter()
    for op in ops:
        calls[op.path].add(op.call)
        parts[op.call] += 1
        mains[op.call] += op.main
        if op.function in _MAIN:
            main_calls[op.path].add(op.call)
    wanted = []
    for op in ops:
        alone = {op.call} in (calls[op.path], main_calls[op.path])
        # A weight that modules share has the name of one of them; a batch norm's own path is not that of its product.
        own = op.builtin and alone
        base = op.path if own else _joined(op.path, op.function)
        if op.weight is not None and (op.function == "batch_norm" or not own):
            base = _owner(op.weight)
        if parts[op.call] > 1 and not (op.main and mains[op.call] == 1):
            base = _joined(base, op.kind)
        wanted.append(base or op.function)
    return _distinct(wanted)


def program_names(program: torch.export.ExportedProgram) -> dict[str, str]:
    """The name of each call of an exported program, by the name of its node in the graph."""
    parameters = program.graph_signature.inputs_to_parameters
    nodes = [node for node in program.graph.nodes if node.op == "call_function"]
    ops = []
    for node in nodes:
        stack = list((node.meta.get("nn_module_stack") or {}).values())
        path, kind = stack[-1] if stack else ("", "")
        function = function_name(getattr(node.target, "overloadpacket", node.target).__name__)
        read = [arg.name for arg in node.all_input_nodes]
        ops.append(
            NamedOp(
                path=module_path(path),
                function=function,
                call=node.name,
                builtin=is_builtin(kind),
                weight=weight_of(function, read, parameters),
            )
        )
    return dict(zip((node.name for node in nodes), op_names(ops), strict=True))


def weight_of(function: str, read: Sequence[str], parameters: Mapping[str, str]) -> str | None:
    """The parameter that a call multiplies by; None where it does not multiply, or by none.

    A weight that is computed, such as that of ``weight_norm``, is no parameter, and the bias behind it is no weight.

    Args:
        function: Function that is called.
        read: Names of the nodes that it reads, in order.
        parameters: By name of a node of the program, the parameter that it is.
    """
    if function not in _WEIGHTED:
        return None
    return next((parameters[name] for name in read[:_FACTORS] if name in parameters), None)


def function_name(name: str) -> str:
    """The user's name for an op of PyTorch's, such as ``_native_batch_norm_legit_no_training``."""
    built_in = re.fullmatch(r"<built-in function (\w+)>", name)
    plain = (built_in[1] if built_in else name).strip("_")
    return _FUNCTIONS.get(plain, plain)


def module_path(path: str) -> str:
    """A module's path, without the count by which PyTorch tells its calls apart."""
    return "" if path.startswith("_empty_nn_module_stack") else re.sub(r"@\d+", "", path)


def is_builtin(kind: object) -> bool:
    """Whether a class, or its qualified name, is a module of PyTorch's own."""
    name = kind if isinstance(kind, str) else f"{kind.__module__}.{getattr(kind, '__qualname__', '')}"
    return name.startswith("torch.")


def _owner(parameter: str) -> str:
    """The module of a parameter that is its weight; the parameter itself where a module has several."""
    return re.sub(r"(^|[._])weight$", "", parameter)


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path and name else path or name


def _distinct(wanted: Sequence[str]) -> list[str]:
    """The names, counted where one occurs again, past names that others have."""
    taken: set[str] = set()
    counts: defaultdict[str, int] = defaultdict(int)
    others, names = set(wanted), []
    for name in wanted:
        own = name
        while own in taken or (own != name and own in others):
            counts[name] += 1
            own = f"{name}_{counts[name]}"
        taken.add(own)
        names.append(own)
    return names
