"""One pass of the fp32 model over the calibration data, with its inner tensors exposed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import openvino as ov

from autotune.adapter import Array, Execution, Feeds
from autotune.adapters.openvino.layers import OpenVinoGraph
from autotune.adapters.openvino.model import OpenVinoModel
from autotune.adapters.openvino.ops import QuantizableOp, quantizable_ops, tensor_name
from autotune.adapters.openvino.session import OpenVinoRunner
from autotune.algorithms.equalization import observed_tensors
from autotune.calibration import CalibrationStatistics
from autotune.calibration.checks import EXPOSED_BYTES
from autotune.calibration.gathering import Exposure, gather

_ONE_THREAD = Execution(threads=1)


def calibrate(
    model: OpenVinoModel, batches: Iterable[Feeds], seed: int, *, exposed_bytes: int = EXPOSED_BYTES
) -> CalibrationStatistics:
    """Run the fp32 model once over ``batches`` and gather the statistics of every activation of an int8 op.

    Args:
        model: The fp32 model.
        batches: Iterated once.
        seed: Seed of the subsample that feeds the histograms.
        exposed_bytes: See :data:`~autotune.calibration.checks.EXPOSED_BYTES`.

    Raises:
        DataError: There is no batch, one that the model cannot read, or one with NaN in an input that is to be read.
        ModelError: A weight holds NaN.
    """
    ops, _ = quantizable_ops(model.graph)
    ports, axes = observed(model.graph, ops)
    fed = {
        tensor_name(port.get_node().output(0)): spec.name
        for port, spec in zip(model.graph.inputs, model.inputs, strict=True)
    }
    inner = [name for name in ports if name not in fed]
    exposure = Exposure(
        fed={tensor: name for tensor, name in fed.items() if tensor in ports},
        inner=inner,
        sizes=lambda feeds: _sizes(model, inner, feeds),
        opened=lambda part: exposed(model, part),
        limit=exposed_bytes,
    )
    return gather(
        model,
        batches,
        seed,
        tensors={name: axes.get(name) for name in ports},
        observe=exposure,
        constants=lambda: ((f"the weight of {op.name!r}", op.weight) for op in ops if op.weight is not None),
    )


def observed(graph: ov.Model, ops: Sequence[QuantizableOp]) -> tuple[Mapping[str, Any], Mapping[str, int]]:
    """Ports that int8 ops and recipes ask for, by name in graph order, and the axis that counts channels of each."""
    axes = dict.fromkeys(observed_tensors(OpenVinoGraph(graph)), 1)
    wanted = set(axes)
    for op in ops:
        for place in op.activations:
            port = op.node.input_value(place)
            name = tensor_name(port)
            wanted.add(name)
            if op.convolves:
                axes[name] = 1
            elif op.weight is not None:
                axes.setdefault(name, port.get_partial_shape().rank.get_length() - 1)
    ports = ((tensor_name(port), port) for node in graph.get_ordered_ops() for port in node.outputs())
    return {name: port for name, port in ports if name in wanted}, axes


def exposed(model: OpenVinoModel, names: Sequence[str]) -> Callable[[Feeds], Sequence[Array]]:
    """Runs the model with these tensors as further outputs, and returns them alone."""
    graph = model.graph.clone()
    by_name = {tensor_name(port): port for node in graph.get_ordered_ops() for port in node.outputs()}
    graph.add_outputs([by_name[name] for name in names])
    runner = OpenVinoRunner(OpenVinoModel(graph=graph), _ONE_THREAD)
    return lambda feeds: runner(feeds)[-len(names) :]


def _sizes(model: OpenVinoModel, names: Sequence[str], feeds: Feeds) -> dict[str, int]:
    """Bytes of each tensor; what the inputs have, where its shape is not known before it is computed."""
    graph = model.graph.clone()
    inputs = sum(array.nbytes for array in feeds.values())
    shapes = (ov.PartialShape(list(feeds[spec.name].shape)) for spec in model.inputs)
    try:
        graph.reshape(dict(zip(graph.inputs, shapes, strict=True)))
    except RuntimeError:
        return dict.fromkeys(names, inputs)
    known = {
        tensor_name(port): 4 * int(np.prod(list(port.get_shape())))
        for node in graph.get_ordered_ops()
        for port in node.outputs()
        if port.get_partial_shape().is_static
    }
    return {name: known.get(name, inputs) for name in names}
