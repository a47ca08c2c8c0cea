"""One pass of the fp32 model over the calibration data, with its inner tensors exposed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from autotune.adapter import Execution, Feeds
from autotune.adapters.mxnet.framework import FAILURES, THREADS, mx, reason
from autotune.adapters.mxnet.graph import graph_of
from autotune.adapters.mxnet.model import MxnetModel
from autotune.adapters.mxnet.session import MxnetRunner
from autotune.algorithms.equalization import observed_tensors
from autotune.calibration import CalibrationStatistics
from autotune.calibration.checks import EXPOSED_BYTES
from autotune.calibration.gathering import Exposure, gather
from autotune.errors import ApplyError


def calibrate(
    model: MxnetModel, batches: Iterable[Feeds], seed: int, *, exposed_bytes: int = EXPOSED_BYTES
) -> CalibrationStatistics:
    """Run the fp32 model once over ``batches`` and gather the statistics of every tensor around its ops.

    Args:
        model: The fp32 model.
        batches: Iterated once.
        seed: Seed of the subsample that feeds the histograms.
        exposed_bytes: See :data:`~autotune.calibration.checks.EXPOSED_BYTES`.

    Raises:
        DataError: There is no batch, one that the model cannot read, or one with NaN in an input that is to be read.
        ModelError: A weight holds NaN.
    """
    prepared = model.prepared
    wanted = {name for op in model.ops for name in op.tensors} | set(observed_tensors(prepared.layers))
    order = [name for name in prepared.graph.tensors if name in wanted]
    names = {spec.name for spec in model.inputs}
    inner = [name for name in order if name not in names]
    exposure = Exposure(
        fed={name: name for name in order if name in names},
        inner=inner,
        sizes=lambda feeds: _sizes(prepared, inner, feeds),
        opened=lambda part: _exposed(prepared, part),
        limit=exposed_bytes,
    )
    return gather(
        model,
        batches,
        seed,
        tensors=dict.fromkeys(order, 1),
        observe=exposure,
        constants=lambda: (
            (f"the parameter {name!r}", array)
            for name, array in {**model.arguments, **model.states}.items()
            if array.dtype.kind == "f"
        ),
    )


def _exposed(model: MxnetModel, names: Sequence[str]) -> MxnetRunner:
    """The model with these tensors as its outputs."""
    internals = model.graph.symbol.get_internals()
    symbol = mx.sym.Group([internals[name] for name in names])
    return MxnetRunner(model.with_text(graph_of(symbol).text), Execution(threads=THREADS), fuses=False)


def _sizes(model: MxnetModel, names: Sequence[str], feeds: Feeds) -> Mapping[str, int]:
    """Bytes of each tensor for a batch."""
    internals = model.graph.symbol.get_internals()
    try:
        _, shapes, _ = internals.infer_shape(**{spec.name: feeds[spec.name].shape for spec in model.inputs})
    except FAILURES as error:
        raise ApplyError(f"MXNet cannot infer shapes: {reason(error)}") from error
    found = {name: 4 * math.prod(shape) for name, shape in zip(internals.list_outputs(), shapes, strict=True)}
    return {name: found[name] for name in names}
