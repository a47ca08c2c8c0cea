"""Chooses the integers of the tensors that int8 ops read, and of their weights."""

from __future__ import annotations

from torch import fx

from autotune.adapters.pytorch.graph import array, constant
from autotune.adapters.pytorch.model import PytorchModel
from autotune.adapters.pytorch.ops import QuantizableOp, convolution_alone, nodes_by_name
from autotune.adapters.pytorch.recipes import Prepared
from autotune.adapters.pytorch.weights import weight_grid
from autotune.algorithms import AffineParameters, activation_range, affine_parameters
from autotune.algorithms.grids import WeightGrid
from autotune.config import OpConfig, Precision, QuantizationConfig, QuantizedType
from autotune.errors import ApplyError


class Grids:
    """The integers of one candidate.

    Args:
        model: The fp32 model.
        prepared: Its graph, with the channels of the candidate.
        config: The candidate's config.

    Attributes:
        activations: Scale and zero point by tensor.
        static: By static int8 op with a weight: its grid.
        dynamic: The same by dynamic int8 op.
        recurrent: By recurrent op: the grid of each of its matrices.
    """

    def __init__(self, model: PytorchModel, prepared: Prepared, config: QuantizationConfig) -> None:
        self._prepared = prepared
        self._config = config
        self._nodes = nodes_by_name(prepared.graph)
        self._convolutions = {
            op.node for op in model.ops if op.convolves and config[op.name].precision is Precision.INT8
        }
        self.activations: dict[str, AffineParameters] = {}
        self.static: dict[str, WeightGrid] = {}
        self.dynamic: dict[str, WeightGrid] = {}
        self.recurrent: dict[str, list[WeightGrid]] = {}

    def choose(self, op: QuantizableOp) -> None:
        """Choose for one op; what an op before it has chosen for the same tensor stays.

        Raises:
            ApplyError: A tensor has no statistics.
        """
        choice, recipe = self._config[op.name], self._config.recipe
        if choice.precision is Precision.INT8:
            for name in self.quantized_reads(op):
                if name not in self.activations:
                    self.activations[name] = self._activation(name, choice)
        grids = [
            weight_grid(op, array(constant(self._prepared.graph, name)), choice, recipe, trained=self._config.trained)
            for name in op.constants
        ]
        if op.recurs:
            self.recurrent[op.name] = grids
        for grid in grids if op.weight is not None else ():
            (self.static if choice.precision is Precision.INT8 else self.dynamic)[op.name] = grid

    def quantized_reads(self, op: QuantizableOp) -> list[str]:
        """The tensors that a static int8 op reads as integers.

        For a sum, all inputs count but the one that an int8 convolution hands over inside of its kernel.
        """
        node = self._nodes[op.node]
        sides = [node.args[place] for place in op.activations]
        if op.kind == "Add":
            handed = next((side for side in sides if self._is_handed_over(side)), None)
            sides = [side for side in sides if side is not handed]
        return [side.name for side in sides if isinstance(side, fx.Node)]

    def tensors(self) -> dict[str, tuple[AffineParameters, QuantizedType]]:
        """By tensor that is quantized: scale, zero point and type."""
        return {name: (parameters, QuantizedType.U8) for name, parameters in self.activations.items()}

    def _is_handed_over(self, side: object) -> bool:
        convolution = convolution_alone(side)
        return convolution is not None and convolution.name in self._convolutions

    def _activation(self, name: str, choice: OpConfig) -> AffineParameters:
        assert choice.activation is not None
        assert choice.calibration is not None
        ends = self._prepared.ranges.get(name)
        if ends is None:
            found = self._prepared.statistics.tensors.get(name)
            if found is None:
                raise ApplyError(
                    f"An int8 op needs statistics of {name!r}, which it reads, and there are none. Calibrate it"
                )
            ends = activation_range(found, choice.calibration, choice.activation)
        return affine_parameters(*ends, choice.activation)
