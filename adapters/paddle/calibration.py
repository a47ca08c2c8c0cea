"""One pass of the fp32 model over the calibration data, with its inner tensors exposed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from autotune.adapter import Array, Execution, Feeds
from autotune.adapters.paddle import program as programs
from autotune.adapters.paddle.layers import PaddleGraph
from autotune.adapters.paddle.model import PaddleModel
from autotune.adapters.paddle.ops import QuantizableOp, quantizable_ops
from autotune.adapters.paddle.session import PaddleRunner
from autotune.adapters.paddle.tensors import Tensors
from autotune.algorithms.equalization import observed_tensors
from autotune.batch import axes_of
from autotune.calibration import CalibrationStatistics
from autotune.calibration.checks import EXPOSED_BYTES
from autotune.calibration.gathering import Exposure, gather

_ONE_THREAD = Execution(threads=1)


def calibrate(
    model: PaddleModel, batches: Iterable[Feeds], seed: int, *, exposed_bytes: int = EXPOSED_BYTES
) -> CalibrationStatistics:
    """Run the fp32 model once over ``batches`` and gather the statistics of every tensor that int8 ops read or write.

    Args:
        model: The fp32 model.
        batches: Iterated once.
        seed: Seed of the subsample that feeds the histograms.
        exposed_bytes: See :data:`~autotune.calibration.checks.EXPOSED_BYTES`.

    Raises:
        DataError: There is no batch, one that the model cannot read, or one with NaN in an input that is to be read.
        ModelError: A weight holds NaN.
    """
    program = model.program
    ops = quantizable_ops(program, model.constants, model.names)
    wanted, axes = observed(program, model, ops)
    names = {spec.name for spec in model.inputs}
    inner = [name for name in wanted if name not in names]
    exposure = Exposure(
        fed={name: name for name in wanted if name in names},
        inner=inner,
        sizes=lambda feeds: _sizes(model, inner, feeds),
        opened=lambda part: PaddleRunner(_exposed(model, part), _ONE_THREAD),
        limit=exposed_bytes,
    )
    return gather(
        model,
        batches,
        seed,
        tensors={name: axes.get(name) for name in wanted},
        observe=exposure,
        constants=lambda: (
            (f"the constant {constant!r}", model.constants[constant]) for op in ops for constant in (op.weight, op.bias)
        ),
    )


def observed(program: Any, model: PaddleModel, ops: Sequence[QuantizableOp]) -> tuple[list[str], dict[str, int]]:
    """Tensors that int8 ops and recipes ask for, in graph order, and the axis that counts channels of each."""
    graph = PaddleGraph(program, model.constants, ops)
    axes = dict.fromkeys(observed_tensors(graph), 1)
    axes.update(dict.fromkeys((op.source for op in ops), 1))
    wanted = {*axes, *Tensors(program, model.constants).around(ops)}
    order = [*programs.inputs(program), *(name for op in programs.ops(program) for name in programs.all_written(op))]
    return [name for name in dict.fromkeys(order) if name in wanted], axes


def _exposed(model: PaddleModel, names: Sequence[str]) -> PaddleModel:
    """The model with these tensors as its outputs; Paddle leaves out what none of them needs."""
    program = model.program
    made = programs.part(program, programs.ops(program), programs.inputs(program), names)
    return PaddleModel(content=made.SerializeToString(), constants=model.constants)


def _sizes(model: PaddleModel, names: Sequence[str], feeds: Feeds) -> Mapping[str, int]:
    """Bytes of each tensor for a batch, by what the program declares; what it leaves open is seen on one sample."""
    variables = programs.variables(model.program)
    declared = {name: (programs.tensor_type(variables[name]) or (None, ()))[1] for name in names}
    batch = axes_of(model)
    open_ = [name for name, shape in declared.items() if not shape or any(dim < 0 for dim in shape[1:])]
    one = batch.resized(feeds, 1)
    samples = batch.size(feeds) // batch.size(one)
    seen: Sequence[Array] = ()
    if open_:
        # A program may declare no more than ranks. Tensors taken for longer than they are would be run in many parts.
        seen = PaddleRunner(_exposed(model, open_), _ONE_THREAD)(one)
    found = {name: array.nbytes * samples for name, array in zip(open_, seen, strict=True)}
    first = next(iter(feeds.values())).shape[0]
    closed = {name: shape for name, shape in declared.items() if name not in found}
    return found | {
        name: 4 * math.prod(first if dim < 0 else int(dim) for dim in shape) for name, shape in closed.items()
    }
