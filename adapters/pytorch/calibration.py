"""One pass of the fp32 graph over the calibration data, every tensor that an int8 op reads watched on the way."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import fx

from autotune.adapter import Feeds
from autotune.adapters.pytorch.graph import array, constant
from autotune.adapters.pytorch.layers import CLIPS
from autotune.adapters.pytorch.model import PytorchModel
from autotune.adapters.pytorch.ops import QuantizableOp, argument_names, nodes_by_name
from autotune.adapters.pytorch.session import threads
from autotune.calibration import CalibrationStatistics, StatisticsCollector
from autotune.calibration.checks import require_numbers
from autotune.calibration.gathering import gather
from autotune.errors import DataError, ModelError


def calibrate(model: PytorchModel, batches: Iterable[Feeds], seed: int) -> CalibrationStatistics:
    """Run the fp32 model once over ``batches`` and gather the statistics of every activation of an int8 op.

    Tensors are freed as the graph goes on, so that memory does not grow with the number of ops.

    Args:
        model: The fp32 model.
        batches: Iterated once.
        seed: Seed of the subsample that feeds the histograms.

    Raises:
        DataError: There is no batch, one that the model cannot read, or one with NaN in an input that is to be read.
        ModelError: A weight holds NaN, or the model is a package, whose tensors cannot be seen.
    """
    if model.graph is None:
        raise ModelError("A package that was compiled cannot be calibrated. Give the module it was made of")
    graph = model.graph
    axes = observed(graph, model.ops)
    watch = _Watch(graph, frozenset(axes))

    def observe(feeds: Feeds, collector: StatisticsCollector, index: int) -> None:
        arrays = [np.asarray(feeds[spec.name], spec.dtype, order="C") for spec in model.inputs]
        for spec, each in zip(model.inputs, arrays, strict=True):
            if each.dtype.kind == "f":
                require_numbers(spec.name, each, index)
        try:
            with torch.no_grad(), threads(1):
                watch.observe([torch.from_numpy(each.copy()) for each in arrays], collector)
        except (RuntimeError, IndexError) as error:
            raise DataError(
                f"Calibration batch {index} must run through the fp32 model, but: "
                f"{str(error).strip().splitlines()[0]}. Make the loader yield what `forward` takes"
            ) from error

    return gather(
        model,
        batches,
        seed,
        tensors=axes,
        observe=observe,
        constants=lambda: (
            (f"the weight of {op.name!r}", array(constant(graph, name))) for op in model.ops for name in op.constants
        ),
    )


def observed(graph: fx.GraphModule, ops: Sequence[QuantizableOp]) -> Mapping[str, int | None]:
    """The tensors that ops read and write, and what an activation behind them writes, in graph order.

    By tensor: the axis that counts its channels; None where nothing says which one does.
    """
    nodes = nodes_by_name(graph)
    axes: dict[str, int | None] = {}
    for op in ops:
        if op.recurs:  # dynamic int8 needs no ranges
            continue
        node = nodes[op.node]
        written = [node.name, *(user.name for user in node.users if user.target in CLIPS)]
        for name in (*argument_names(node, op.activations), *written):
            if op.kind != "Linear":
                axes[name] = 1
            elif axes.get(name) is None:
                axes[name] = nodes[name].meta["val"].ndim - 1
    return {node.name: axes[node.name] for node in graph.graph.nodes if node.name in axes}


class _Watch(fx.Interpreter):
    """Runs a graph and hands some of its tensors to a collector."""

    def __init__(self, graph: fx.GraphModule, names: frozenset[str]) -> None:
        super().__init__(graph)
        self.extra_traceback = False
        self._names = names
        self._collector: StatisticsCollector | None = None

    def observe(self, inputs: Sequence[torch.Tensor], collector: StatisticsCollector) -> None:
        """Run a batch; the collector gets the tensors."""
        self._collector = collector
        self.run(*inputs)

    def run_node(self, n: fx.Node) -> Any:
        """Run one node; the name of the argument is that of the method it overrides."""
        value = super().run_node(n)
        if n.name in self._names and self._collector is not None:
            self._collector.update(n.name, array(value))
        return value
