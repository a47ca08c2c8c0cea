"""Values of the tensors inside of an OpenVINO model, by names that a tuned model shares with the fp32 one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from autotune.adapter import Array, Feeds, Layer
from autotune.adapters.openvino.calibration import exposed
from autotune.adapters.openvino.model import OpenVinoModel
from autotune.adapters.openvino.ops import is_constant, tensor_name

_NO_LAYERS = frozenset({"Constant", "Parameter", "Result"})


def layers(model: OpenVinoModel) -> list[Layer]:
    """The tensors of floats that the nodes of the graph write from activations, in the order of the graph."""
    return [
        Layer(
            tensor=tensor_name(port),
            op=node.get_friendly_name(),
            op_type=node.get_type_name(),
            reads=tuple(tensor_name(value) for value in node.input_values()),
        )
        for node in model.graph.get_ordered_ops()
        if node.get_type_name() not in _NO_LAYERS and not is_constant(node)
        for port in node.outputs()
        if port.get_element_type().is_real()
    ]


def activations(
    model: OpenVinoModel, batches: Iterable[Feeds], tensors: Sequence[str]
) -> Iterator[Mapping[str, Array]]:
    """For each batch, the values of those of ``tensors`` that a model has.

    Raises:
        ApplyError: OpenVINO refuses the model.
    """
    own = {layer.tensor for layer in layers(model)}
    names = [tensor for tensor in tensors if tensor in own]
    run = exposed(model, names)
    for feeds in batches:
        # The runtime uses the memory again.
        yield {name: np.array(value) for name, value in zip(names, run(feeds), strict=True)}
