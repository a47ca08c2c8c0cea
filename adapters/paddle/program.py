"""Programs of Paddle's old representation as protocol buffers: what ops read and write, and their attributes.

A program is changed as what it is stored as. So one process can make many candidates without Paddle's global scopes,
and a candidate is bytes that any process reads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from autotune.adapter import Array
from autotune.adapters.paddle.framework import framework_pb2 as pb

TYPES = {
    np.dtype(np.bool_): pb.VarType.BOOL,
    np.dtype(np.int16): pb.VarType.INT16,
    np.dtype(np.int32): pb.VarType.INT32,
    np.dtype(np.int64): pb.VarType.INT64,
    np.dtype(np.float16): pb.VarType.FP16,
    np.dtype(np.float32): pb.VarType.FP32,
    np.dtype(np.float64): pb.VarType.FP64,
    np.dtype(np.uint8): pb.VarType.UINT8,
    np.dtype(np.int8): pb.VarType.INT8,
}
DTYPES = {number: dtype for dtype, number in TYPES.items()}
_ENDS = ("feed", "fetch")
METADATA = "autotune"
"""Attribute of the first op of a saved program: what was found out about it, as JSON."""

_OF_NO_CONSEQUENCE = (
    METADATA,
    "op_callstack",
    "op_namescope",
    "op_device",
    "op_role",
    "op_role_var",
    "with_quant_attr",
)
"""Attributes that say where an op was made, and not what it computes."""


def parse(content: bytes) -> Any:
    """A program from its bytes.

    Raises:
        ValueError: They are no program.
    """
    program = pb.ProgramDesc()
    try:
        program.ParseFromString(content)
    except Exception as error:  # protobuf's own class of error depends on its version
        raise ValueError(f"it is no ProgramDesc ({error})") from error
    if not program.blocks:
        raise ValueError("it has no block of ops")
    return program


def empty() -> Any:
    """A program without ops."""
    program = pb.ProgramDesc()
    block = program.blocks.add(idx=0, parent_idx=-1)
    for name, kind in (("feed", pb.VarType.FEED_MINIBATCH), ("fetch", pb.VarType.FETCH_LIST)):
        block.vars.add(name=name, persistable=True).type.type = kind
    return program


def copied(program: Any) -> Any:
    """A copy of a program."""
    made = pb.ProgramDesc()
    made.CopyFrom(program)
    return made


def ops(program: Any) -> list[Any]:
    """The ops of the main block that compute, in order."""
    return [op for op in program.blocks[0].ops if op.type not in _ENDS]


def read(op: Any, slot: str) -> str:
    """The only tensor that an op reads in a slot; empty where there is none."""
    return next((item.arguments[0] for item in op.inputs if item.parameter == slot and item.arguments), "")


def written(op: Any, slot: str) -> str:
    """The only tensor that an op writes in a slot; empty where there is none."""
    return next((item.arguments[0] for item in op.outputs if item.parameter == slot and item.arguments), "")


def all_read(op: Any) -> list[str]:
    """All tensors and constants that an op reads, in order."""
    return [name for item in op.inputs for name in item.arguments]


def all_written(op: Any) -> list[str]:
    """All tensors that an op writes, in order."""
    return [name for item in op.outputs for name in item.arguments]


def rename_read(op: Any, before: str, after: str) -> None:
    """Let an op read another tensor."""
    for item in op.inputs:
        for place, name in enumerate(item.arguments):
            if name == before:
                item.arguments[place] = after


def rename_written(op: Any, before: str, after: str) -> None:
    """Let an op write a tensor under another name."""
    for item in op.outputs:
        for place, name in enumerate(item.arguments):
            if name == before:
                item.arguments[place] = after


def attribute(op: Any, name: str, default: Any = None) -> Any:
    """The value of an op's attribute, a list for those of several values."""
    found = next((each for each in op.attrs if each.name == name), None)
    return default if found is None else _value(found)


def _value(attr: Any) -> Any:
    """The value of an attribute, of whatever kind."""
    kinds = {
        pb.INT: "i", pb.FLOAT: "f", pb.STRING: "s", pb.INTS: "ints", pb.FLOATS: "floats", pb.STRINGS: "strings",
        pb.BOOLEAN: "b", pb.BOOLEANS: "bools", pb.BLOCK: "block_idx", pb.LONG: "l", pb.BLOCKS: "blocks_idx",
        pb.LONGS: "longs", pb.FLOAT64S: "float64s", pb.FLOAT64: "float64",
    }  # fmt: skip
    if attr.type not in kinds:
        return attr.SerializeToString(deterministic=True)
    value = getattr(attr, kinds[attr.type])
    return value if isinstance(value, (int, float, str, bool)) else list(value)


def set_attribute(op: Any, name: str, value: float | str | Sequence[int]) -> None:
    """Set an attribute, with the type that Paddle expects of a value of this kind."""
    for place in reversed([place for place, each in enumerate(op.attrs) if each.name == name]):
        del op.attrs[place]
    attr = op.attrs.add(name=name)
    if isinstance(value, bool):
        attr.type, attr.b = pb.BOOLEAN, value
    elif isinstance(value, int):
        attr.type, attr.i = pb.INT, value
    elif isinstance(value, float):
        attr.type, attr.f = pb.FLOAT, value
    elif isinstance(value, str):
        attr.type, attr.s = pb.STRING, value
    else:
        attr.type = pb.INTS
        attr.ints.extend(value)


def attributes(op: Any) -> list[tuple[str, Any]]:
    """The attributes of an op that say what it computes, sorted by name."""
    return sorted((each.name, _value(each)) for each in op.attrs if each.name not in _OF_NO_CONSEQUENCE)


def strip(program: Any) -> None:
    """Remove where ops were made: files and lines of the machine that did."""
    for block in program.blocks:
        for op in block.ops:
            for place in reversed([place for place, each in enumerate(op.attrs) if each.name == "op_callstack"]):
                del op.attrs[place]


def new_op(
    kind: str,
    inputs: Mapping[str, Sequence[str]],
    outputs: Mapping[str, Sequence[str]],
    attrs: Mapping[str, float | str | Sequence[int]],
) -> Any:
    """An op."""
    op = pb.OpDesc(type=kind)
    for slot, names in inputs.items():
        op.inputs.add(parameter=slot, arguments=names)
    for slot, names in outputs.items():
        op.outputs.add(parameter=slot, arguments=names)
    for name, value in attrs.items():
        set_attribute(op, name, value)
    return op


def replace_ops(program: Any, made: Sequence[Any]) -> None:
    """Let the main block have these ops, in this order."""
    kept = [pb.OpDesc.FromString(op.SerializeToString()) for op in made]
    del program.blocks[0].ops[:]
    program.blocks[0].ops.extend(kept)


def variables(program: Any) -> dict[str, Any]:
    """By name: the variables of the main block."""
    return {var.name: var for var in program.blocks[0].vars}


def add_tensor(program: Any, name: str, dtype: np.dtype[Any], shape: Sequence[int], *, constant: bool = False) -> None:
    """Declare a tensor, in place of one that had its name."""
    block = program.blocks[0]
    for place in reversed([place for place, var in enumerate(block.vars) if var.name == name]):
        del block.vars[place]
    var = block.vars.add(name=name, persistable=constant)
    var.type.type = pb.VarType.DENSE_TENSOR
    var.type.dense_tensor.tensor.data_type = TYPES[np.dtype(dtype)]
    var.type.dense_tensor.tensor.dims.extend(shape)


def tensor_type(var: Any) -> tuple[np.dtype[Any], tuple[int, ...]] | None:
    """The element type and the shape of a variable, -1 for a free dimension; None where it is no tensor of numbers."""
    if var.type.type != pb.VarType.DENSE_TENSOR:
        return None
    tensor = var.type.dense_tensor.tensor
    dtype = DTYPES.get(tensor.data_type)
    return None if dtype is None else (dtype, tuple(tensor.dims))


def inputs(program: Any) -> list[str]:
    """Names of the model's inputs, in order."""
    fed = [op for op in program.blocks[0].ops if op.type == "feed"]
    return [written(op, "Out") for op in sorted(fed, key=lambda op: int(attribute(op, "col", 0)))]


def outputs(program: Any) -> list[str]:
    """Names of the model's outputs, in order."""
    fetched = [op for op in program.blocks[0].ops if op.type == "fetch"]
    return [read(op, "X") for op in sorted(fetched, key=lambda op: int(attribute(op, "col", 0)))]


def part(program: Any, chosen: Sequence[Any], reads: Sequence[str], writes: Sequence[str]) -> Any:
    """A program of some ops, with inputs and outputs of its own."""
    made = copied(program)
    feeds = [new_op("feed", {"X": ["feed"]}, {"Out": [name]}, {"col": place}) for place, name in enumerate(reads)]
    fetches = [new_op("fetch", {"X": [name]}, {"Out": ["fetch"]}, {"col": place}) for place, name in enumerate(writes)]
    replace_ops(made, [*feeds, *chosen, *fetches])
    return made


def constants(program: Any) -> list[str]:
    """Names of the constants in the order in which a file of parameters has them."""
    ends = (pb.VarType.FEED_MINIBATCH, pb.VarType.FETCH_LIST)
    return sorted(var.name for var in program.blocks[0].vars if var.persistable and var.type.type not in ends)


def drop_unused(program: Any, values: Mapping[str, Array]) -> dict[str, Array]:
    """Remove variables that no op uses, and return the constants that stay."""
    used = {name for block in program.blocks for op in block.ops for name in (*all_read(op), *all_written(op))}
    block = program.blocks[0]
    for place in reversed([place for place, var in enumerate(block.vars) if var.name not in used]):
        del block.vars[place]
    return {name: values[name] for name in constants(program)}
