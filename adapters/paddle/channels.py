"""Equalization of channels before anything is quantized, which leaves what the model computes in fp32 as it is."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from autotune.adapter import Array
from autotune.adapters.paddle import program as programs
from autotune.adapters.paddle.layers import PaddleGraph
from autotune.adapters.paddle.ops import QuantizableOp
from autotune.algorithms.equalization import equalize
from autotune.calibration import CalibrationStatistics
from autotune.config import QuantizationConfig


@dataclass(frozen=True, kw_only=True, eq=False)
class Channels:
    """A model whose channels are as the recipe wants them.

    Attributes:
        program: To be quantized.
        reference: Computes in fp32 what the original computes. The end of a Relu6 whose channels were scaled is a
            minimum here, with one value per channel. ``program`` does without: no range reaches beyond the ends.
        constants: Constants of both, and more of ``reference``.
        statistics: Statistics of both, as far as scaling tells.
        ranges: ``(low, high)`` of the tensors whose range the recipe has chosen.
        notes: Pairs that were left as they are and why, a line each.
    """

    program: Any
    reference: Any
    constants: Mapping[str, Array]
    statistics: CalibrationStatistics
    ranges: Mapping[str, tuple[float, float]]
    notes: tuple[str, ...]


def prepare_channels(
    program: Any,
    constants: Mapping[str, Array],
    ops: Sequence[QuantizableOp],
    config: QuantizationConfig,
    statistics: CalibrationStatistics,
    *,
    quantized: Collection[str],
) -> Channels:
    """Equalize channels before scales are chosen.

    Args:
        program: A copy of the fp32 program.
        constants: Its constants.
        ops: Its ops that can be int8.
        config: The candidate's config.
        statistics: Statistics of the fp32 model.
        quantized: The tensors that become integers.
    """
    if not config.recipe.equalization:
        return Channels(
            program=program, reference=program, constants=constants, statistics=statistics, ranges={}, notes=()
        )
    found = equalize(PaddleGraph(program, constants, ops), config, statistics, quantized=quantized)
    reference = programs.copied(program)
    changed = {
        **constants,
        **{name: np.asarray(value, np.float32) for name, value in found.constants.items()},
        **_with_bounds(reference, found.bounds),
    }
    _with_bounds(program, dict.fromkeys(found.bounds))
    return Channels(
        program=program,
        reference=reference,
        constants=changed,
        statistics=found.statistics,
        ranges=found.ranges,
        notes=tuple(found.notes),
    )


def _with_bounds(program: Any, bounds: Mapping[str, Array | None]) -> dict[str, Array]:
    """Put a Relu in place of activations with two ends, by the tensors that they write, and a minimum per channel.

    Returns:
        The constants that the minima read.
    """
    made: list[Any] = []
    constants: dict[str, Array] = {}
    for op in program.blocks[0].ops:
        name = programs.written(op, "Out")
        if op.type not in ("relu6", "clip") or name not in bounds:
            made.append(op)
            continue
        caps = bounds[name]
        inner = name if caps is None else f"{name}/unbounded"
        made.append(programs.new_op("relu", {"X": [programs.read(op, "X")]}, {"Out": [inner]}, {}))
        if caps is None:
            continue
        dtype, shape = programs.tensor_type(programs.variables(program)[name]) or (np.dtype(np.float32), ())
        programs.add_tensor(program, inner, dtype, shape)
        constants[f"{name}/bound"] = np.asarray(caps, np.float32)
        programs.add_tensor(program, f"{name}/bound", np.dtype(np.float32), caps.shape, constant=True)
        slots = {"X": [inner], "Y": [f"{name}/bound"]}
        made.append(programs.new_op("elementwise_min", slots, {"Out": [name]}, {"axis": 1}))
    programs.replace_ops(program, made)
    return constants
