"""Changes before quantization: batch normalizations are folded into convolutions, and each convolution has a bias.

Paddle does both when it makes a predictor; here it is done before weights become integers. Names of tensors stay: what
a normalization wrote is what the addition of the bias writes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from autotune.adapter import Array
from autotune.adapters.paddle import program as programs
from autotune.adapters.paddle.model import PaddleModel
from autotune.adapters.paddle.ops import CONVOLUTIONS, adds_vector, only_reader, readers_of

_LINEAR = ("matmul", "matmul_v2", "mul")


def prepare(given: PaddleModel) -> PaddleModel:
    """The model to be quantized; ``given`` stays as it is."""
    program, constants = given.program, dict(given.constants)
    _vector_biases(program, constants)
    names = _own_weights(program, constants, dict(given.names))
    _fold(program, constants)
    _without_dropout(program)
    kept = programs.drop_unused(program, constants)
    return dataclasses.replace(
        given,
        content=program.SerializeToString(),
        constants=kept,
        names=names,
        given=given,
        file_bytes=None,
        told=(*given.told, *_left_out(given, program, kept)),
    )


def _left_out(given: PaddleModel, program: Any, constants: Mapping[str, Array]) -> list[str]:
    """A line for each reason why ops cannot be int8."""
    lines = []
    linear = [op for op in programs.ops(program) if op.type in _LINEAR and programs.read(op, "Y") in constants]
    if linear:
        lines.append(
            f"{len(linear)} Linear layers stay in fp32: Paddle's int8 kernel gives their output channels the scales of "
            "others"
        )
    if given.integers:
        lines.append("Ops of this program that are quantized already stay so")
    return lines


def _vector_biases(program: Any, constants: dict[str, Array]) -> None:
    """Let additions read the vector of a bias, where Paddle reshapes it first."""
    vectors = {}
    for op in programs.ops(program):
        bias = constants.get(programs.read(op, "X")) if op.type == "reshape2" else None
        shape = programs.attribute(op, "shape", []) if bias is not None else []
        if bias is not None and bias.ndim == 1 and list(shape) == [1, bias.size, 1, 1]:
            vectors[programs.written(op, "Out")] = programs.read(op, "X")
    for op in programs.ops(program):
        name = programs.read(op, "Y")
        if op.type == "elementwise_add" and name in vectors:
            programs.rename_read(op, name, vectors[name])
            programs.set_attribute(op, "axis", 1)
    readers = readers_of(program)
    kept = [
        op
        for op in program.blocks[0].ops
        if not (op.type == "reshape2" and programs.written(op, "Out") in vectors)
        or programs.written(op, "Out") in readers
    ]
    programs.replace_ops(program, kept)


def _own_weights(program: Any, constants: dict[str, Array], names: dict[str, str]) -> dict[str, str]:
    """Give each convolution a weight of its own, also where several share one."""
    taken: set[str] = set()
    for op in programs.ops(program):
        name = programs.read(op, "Filter")
        if op.type not in CONVOLUTIONS or name not in constants:
            continue
        own, count = name, 1
        while own in taken:
            count += 1
            own = f"{name}/{count}"
        taken.add(own)
        if own != name:
            constants[own] = constants[name]
            programs.add_tensor(program, own, constants[own].dtype, constants[own].shape, constant=True)
            programs.rename_read(op, name, own)
            names[own] = names.get(name, name)
    return names


def _fold(program: Any, constants: dict[str, Array]) -> None:
    made: list[Any] = []
    gone: set[int] = set()
    readers = readers_of(program)
    place_of = {id(op): place for place, op in enumerate(program.blocks[0].ops)}
    for place, op in enumerate(program.blocks[0].ops):
        if place in gone:
            continue
        made.append(op)
        weight = constants.get(programs.read(op, "Filter")) if op.type in CONVOLUTIONS else None
        if weight is None or weight.dtype != np.float32:
            continue
        weight_name, output = programs.read(op, "Filter"), programs.written(op, "Output")
        bias = np.zeros(len(weight), np.float64)
        last = output
        follower = only_reader(output, readers)
        if follower is not None and adds_vector(follower, output, constants):
            bias = constants[programs.read(follower, "Y")].astype(np.float64)
            gone.add(place_of[id(follower)])
            last = programs.written(follower, "Out")
            follower = only_reader(last, readers)
        if follower is not None and follower.type == "batch_norm" and _is_foldable(follower, constants):
            factor, shift = _normalization(follower, constants)
            weight = np.asarray(weight * factor.reshape(-1, 1, 1, 1), np.float32)
            bias = bias * factor + shift
            gone.add(place_of[id(follower)])
            last = programs.written(follower, "Y")
        name = f"{weight_name}/bias"
        constants[weight_name], constants[name] = weight, np.asarray(bias, np.float32)
        programs.add_tensor(program, name, np.dtype(np.float32), bias.shape, constant=True)
        inner = output if output != last else f"{last}/unbiased"
        if inner != output:
            _, shape = programs.tensor_type(programs.variables(program)[last]) or (None, (-1, len(bias), -1, -1))
            programs.add_tensor(program, inner, np.dtype(np.float32), shape)
            programs.rename_written(op, output, inner)
        slots = {"X": [inner], "Y": [name]}
        made.append(programs.new_op("elementwise_add", slots, {"Out": [last]}, {"axis": 1}))
    programs.replace_ops(program, made)


def _is_foldable(op: Any, constants: dict[str, Array]) -> bool:
    slots = ("Scale", "Bias", "Mean", "Variance")
    trained = bool(programs.attribute(op, "trainable_statistics", False)) or not bool(
        programs.attribute(op, "is_test", True) or programs.attribute(op, "use_global_stats", False)
    )
    return not trained and all(programs.read(op, slot) in constants for slot in slots)


def _normalization(op: Any, constants: dict[str, Array]) -> tuple[Array, Array]:
    """Factor and shift of a batch normalization, float64."""
    slots = ("Scale", "Bias", "Mean", "Variance")
    scale, bias, mean, variance = (constants[programs.read(op, slot)].astype(np.float64) for slot in slots)
    factor = scale / np.sqrt(variance + float(programs.attribute(op, "epsilon", 1e-5)))
    return factor, bias - mean * factor


def _without_dropout(program: Any) -> None:
    """Leave out dropout that does nothing in inference."""
    aliases: dict[str, str] = {}
    kept = []
    for op in program.blocks[0].ops:
        for name in programs.all_read(op):
            if name in aliases and op.type != "fetch":
                programs.rename_read(op, name, aliases[name])
        upscaled = programs.attribute(op, "dropout_implementation", "") == "upscale_in_train"
        out = programs.written(op, "Out")
        if op.type == "dropout" and upscaled and out not in programs.outputs(program):
            aliases[out] = programs.read(op, "X")
        else:
            kept.append(op)
    programs.replace_ops(program, kept)
