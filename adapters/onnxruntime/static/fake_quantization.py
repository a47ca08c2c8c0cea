"""The grids of a candidate, for training that rounds as its kernels do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from autotune.adapter import ActivationGrid, Array, FakeQuantizedOp, FakeQuantizedWeight
from autotune.adapters.onnx.graph import Graph
from autotune.adapters.onnx.model import OnnxModel
from autotune.adapters.onnxruntime.choices.limits import op_limits
from autotune.adapters.onnxruntime.choices.ops import QuantizableOp
from autotune.adapters.onnxruntime.static.placement import Placement
from autotune.adapters.onnxruntime.static.weights import scale_axis, weight_parameters
from autotune.algorithms import AffineParameters
from autotune.config import QuantizationConfig, QuantizedType


@dataclass(frozen=True, kw_only=True)
class RoundedWeight:
    """Rounds the weight of one op as :func:`.weights.quantize_weights` does.

    A bias so large that the scale of its weight has to grow for it is not accounted for.

    Attributes:
        op: The op.
        config: How it is quantized.
    """

    op: QuantizableOp
    config: QuantizationConfig

    def __call__(self, weight: Array) -> Array:
        """The values that the integers of a weight stand for: float32."""
        choice = self.config[self.op.name]
        assert choice.weight is not None
        parameters = weight_parameters(weight, self.op, self.config)
        limits = op_limits(self.op.node, weight.shape, choice.weight, self.config.recipe)
        return limits.fake_quantize(weight, parameters, choice.weight, scale_axis(self.op, choice))


def quantized_ops(
    model: OnnxModel,
    placement: Placement,
    parameters: Mapping[str, tuple[AffineParameters, QuantizedType]],
    config: QuantizationConfig,
) -> dict[str, FakeQuantizedOp]:
    """By int8 op: what it reads and writes.

    Args:
        model: The fp32 model.
        placement: The tensors that are quantized.
        parameters: Scale, zero point and integer type of each, by its name.
        config: How.
    """
    graph = Graph(model.proto)
    grids = {name: _grid(*found) for name, found in parameters.items()}
    return {
        op.name: FakeQuantizedOp(
            inputs={place: grids[name] for place, name in enumerate(op.node.input) if name in grids},
            output=grids.get(op.output),
            weight=None if op.weight is None else _weight(model, graph, op, config),
        )
        for op in placement.ops
    }


def _weight(model: OnnxModel, graph: Graph, op: QuantizableOp, config: QuantizationConfig) -> FakeQuantizedWeight:
    assert op.weight is not None
    return FakeQuantizedWeight(
        position=list(op.node.input).index(op.weight),
        values=model.tensor(graph.initializers[op.weight]),
        rounded=RoundedWeight(op=op, config=config),
    )


def _grid(parameters: AffineParameters, dtype: QuantizedType) -> ActivationGrid:
    # QuantizeLinear uses all integers of its type, also one that a symmetric scheme leaves out.
    smallest, largest = (0, 255) if dtype is QuantizedType.U8 else (-128, 127)
    return ActivationGrid(
        scale=float(parameters.scale), zero_point=int(parameters.zero_point), smallest=smallest, largest=largest
    )
