"""Quantization-aware training: a runtime tells the grids of a candidate, and a framework trains on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from autotune.adapter.contract import Array
from autotune.adapter.example import Example
from autotune.config import QuantizationConfig


@dataclass(frozen=True, kw_only=True)
class ActivationGrid:
    """The values that a quantized tensor may take: ``scale * (integer - zero_point)``.

    Attributes:
        scale: Exactly a float32.
        zero_point: The integer that stands for zero.
        smallest: The smallest integer.
        largest: The largest integer.
    """

    scale: float
    zero_point: int
    smallest: int
    largest: int


@dataclass(frozen=True, kw_only=True)
class FakeQuantizedWeight:
    """How a runtime rounds the constant weight of one op.

    Attributes:
        position: Which of the op's inputs it is.
        values: The fp32 weight as the runtime's model has it, whatever was folded into it.
        rounded: Makes of such a weight what its integers stand for; scales follow the weight. It can be pickled.
    """

    position: int
    values: Array
    rounded: Callable[[Array], Array]


@dataclass(frozen=True, kw_only=True)
class FakeQuantizedOp:
    """The grids that one static int8 op of a candidate reads and writes.

    Attributes:
        inputs: By position: the grid of an input that comes from calibration. An input without an entry is read as it
            is.
        output: Grid of the output; None where it is written in fp32.
        weight: The constant weight; None where there is none.
    """

    inputs: Mapping[int, ActivationGrid]
    output: ActivationGrid | None = None
    weight: FakeQuantizedWeight | None = None


@runtime_checkable
class FakeQuantization(Protocol):
    """An optional part of an adapter: candidates can be trained.

    Ranges come from the calibration statistics alone and weights are rounded to the nearest integer, so that
    :meth:`Adapter.apply` with the same config and statistics makes the same grids of a model with other weights.
    """

    def fake_quantization(
        self, model: Any, config: QuantizationConfig, statistics: Any
    ) -> Mapping[str, FakeQuantizedOp]:
        """By name of each op that computes in int8 with ranges from calibration: what it reads and writes.

        Args:
            model: The fp32 model.
            config: A config with ``trained``, whose recipe changes neither channels nor constants.
            statistics: Statistics of the calibration.

        Raises:
            ApplyError: A tensor has no statistics.
        """
        ...


@runtime_checkable
class Trainable(Protocol):
    """An optional part of a framework: its models can be trained on a runtime's grids.

    See :class:`~autotune.adapter.SourceFramework`.
    """

    def fake_quantized(
        self, source: Any, example: Example, ops: Mapping[str, FakeQuantizedOp]
    ) -> tuple[Any, Sequence[str]]:
        """A model of the framework in training mode that rounds as the runtime does, and what a user should know.

        Gradients pass rounding as if it were not there, and stop where a tensor is cut off at the end of its range.
        ``source`` stays as it is.

        Args:
            source: The user's model.
            example: The first batches of the user's data.
            ops: By name of an op: how the runtime quantizes it.

        Raises:
            ApplyError: The weight of an op is no parameter of the model.
        """
        ...

    def trained(self, source: Any, model: Any) -> Any:
        """A copy of the user's model with the weights that were trained.

        Args:
            source: The user's model.
            model: As :meth:`fake_quantized` made it, trained; or another model with the same parameters.

        Raises:
            ApplyError: A parameter is missing, has another shape, or is not finite.
        """
        ...

    def changed(self, source: Any, trained: Any) -> bool:
        """Whether any weight of a copy differs from the user's."""
        ...

    def save_weights(self, model: Any, path: Path) -> None:
        """Write the weights of a model of the framework to a file.

        Raises:
            OSError: It cannot be written.
        """
        ...

    def load_weights(self, source: Any, path: Path) -> Any:
        """A copy of the user's model with the weights that :meth:`save_weights` wrote.

        Raises:
            WorkspaceError: The file is damaged or of another model.
        """
        ...
