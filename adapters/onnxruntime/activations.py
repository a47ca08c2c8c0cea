"""Values of the tensors inside of an ONNX model, by names that a tuned model shares with the fp32 one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import onnx

from autotune.adapter import Array, Feeds, Layer
from autotune.adapters.onnx.model import OnnxModel
from autotune.adapters.onnxruntime.calibration import Exposure
from autotune.calibration.checks import EXPOSED_BYTES

_QUANTIZED, _DEQUANTIZED = "_QuantizeLinear_Output", "_DequantizeLinear_Output"
"""Ends of the names that a quantizer gives a tensor in integers, and in the numbers that these stand for."""

_SHOWN = "_autotune_shown"


def layers(model: OnnxModel) -> list[Layer]:
    """The tensors that the nodes of the main graph write, in the order of the graph."""
    return [
        Layer(tensor=tensor, op=node.name or tensor, op_type=node.op_type, reads=tuple(filter(None, node.input)))
        for node in model.proto.graph.node
        for tensor in node.output
        if tensor
    ]


def activations(model: OnnxModel, batches: Iterable[Feeds], tensors: Sequence[str]) -> Iterator[Mapping[str, Array]]:
    """For each batch, the values of the tensors that a model has, quantized ones as the numbers that they stand for.

    Raises:
        ModelError: ONNX Runtime cannot read the model.
        DataError: The model cannot read a batch.
    """
    proto = model.proto
    written = {tensor for node in proto.graph.node for tensor in node.output}
    constants = {tensor.name for tensor in proto.graph.initializer}
    shown: dict[str, str] = {}
    added: list[onnx.NodeProto] = []
    for tensor in tensors:
        scale = [f"{tensor}{end}" for end in ("_scale", "_zero_point")]
        if tensor in written:
            shown[tensor] = tensor
        elif f"{tensor}{_DEQUANTIZED}" in written:
            shown[f"{tensor}{_DEQUANTIZED}"] = tensor
        elif f"{tensor}{_QUANTIZED}" in written and constants.issuperset(scale):
            name = f"{tensor}{_SHOWN}"
            added.append(
                onnx.helper.make_node("DequantizeLinear", [f"{tensor}{_QUANTIZED}", *scale], [name], name=name)
            )
            shown[name] = tensor
    if added:
        # protobuf merges a message with what is appended to its bytes: more nodes without a second copy of weights
        more = onnx.ModelProto(graph=onnx.GraphProto(node=added)).SerializeToString()
        proto = onnx.ModelProto.FromString(proto.SerializeToString() + more)
    exposure = Exposure(proto, [*shown], model.external_dir, EXPOSED_BYTES)
    for index, feeds in enumerate(batches):
        seen = _Values()
        exposure.run(feeds, seen, index)
        yield {shown[name]: value for name, value in seen.values.items()}


class _Values:
    """Keeps what is seen of one batch, in the place of a collector of statistics."""

    def __init__(self) -> None:
        self.values: dict[str, Array] = {}

    def update(self, name: str, value: Array) -> None:
        """Keep a copy: the runtime uses the memory again."""
        self.values[name] = np.array(value)
