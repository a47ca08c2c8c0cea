"""The contract of a framework adapter: load, space, calibrate, apply, runner, save."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self, TypeAlias, TypeVar, runtime_checkable

import numpy as np
import numpy.typing as npt

from autotune.adapter.example import Example
from autotune.config import QuantizationConfig
from autotune.space import TuningSpace

Array: TypeAlias = npt.NDArray[Any]
Feeds: TypeAlias = Mapping[str, Array]
"""One batch: an array for every input of the model, by the input's name."""


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """Name, shape and dtype of one of a model's inputs or outputs, as the model declares them.

    Attributes:
        name: The graph's own name.
        dtype: Element type.
        shape: A number for a fixed dimension, a name or None for a free one.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | str | None, ...]


class Model(Protocol):
    """A model as an adapter holds it; opaque to the core but for these."""

    @property
    def fingerprint(self) -> str:
        """A hash of the graph and its weights: equal for equal models, on every host."""
        ...

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The inputs in graph order, constants excluded."""
        ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The outputs in graph order."""
        ...

    @property
    def size_bytes(self) -> int:
        """Size of the serialized model, external data included."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for the user: steps that were left out and why, a line each."""
        ...


@dataclass(frozen=True, kw_only=True)
class Execution:
    """How a model is executed, chosen by the user and the same for every candidate.

    Attributes:
        threads: Threads inside of one call.
    """

    threads: int = 1


@runtime_checkable
class Runner(Protocol):
    """A model ready to run."""

    def __call__(self, feeds: Feeds) -> tuple[Array, ...]:
        """Run one batch and return the outputs in graph order."""
        ...


ModelT = TypeVar("ModelT", bound=Model)


class Statistics(Protocol):
    """Result of one pass over the calibration data, as an adapter holds it; the core only saves and loads it.

    :class:`autotune.calibration.CalibrationStatistics` is the one of the project's own, for adapters that derive ranges
    from the values of tensors. Another type is named by :class:`autotune.adapter.OwnStatistics`.
    """

    def save(self, path: Path) -> None:
        """Write it so that a reader sees the old file or the new one, never a part.

        Raises:
            WorkspaceError: It cannot be written.
        """
        ...

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what :meth:`save` wrote.

        Raises:
            WorkspaceError: It is missing, damaged or of another format version.
        """
        ...


class Adapter(Protocol[ModelT]):
    """Makes one framework's models tunable.

    With ``isolation: process`` the adapter, its models and the candidates are pickled, since a worker process gets a
    copy of each. A :class:`Runner` and the statistics stay in the process that made them. A model holds nothing that
    belongs to one process, such as a session or an open file.

    An adapter has no state: everything it knows of a model is in the model object that :meth:`load` returns. It
    imports its framework at import time of its own module and nowhere else is that framework imported.
    """

    name: str
    """Name as users write it after ``framework:``."""

    suffix: str
    """Suffix of the path that :meth:`save` is given and :meth:`load` reads, the dot included; empty for a folder."""

    def load(self, source: object, example: Example | None = None) -> ModelT:
        """Read a model and prepare it for quantization; called once per run.

        Args:
            source: A path or the framework's own object.
            example: The first batch of the user's data, for frameworks that trace a model to read it. None where there
                is no data, as when a saved model is inspected; an adapter that cannot do without says so.

        Raises:
            ModelError: It is missing, corrupt or not what this adapter reads, or cannot be read without an example.
            DataError: An example was asked for, and there is none.
        """
        ...

    def space(self, model: ModelT) -> TuningSpace:
        """The choices of each op on this hardware; called once per run."""
        ...

    def calibrate(self, model: ModelT, batches: Iterable[Feeds], *, seed: int) -> Statistics:
        """Run the fp32 model once over ``batches`` and gather what :meth:`apply` needs of them; called once per run.

        The result belongs to the model and the data: a workspace keeps it for runs that continue.

        Args:
            model: The fp32 model.
            batches: Iterated once.
            seed: Seed of the subsample that feeds the histograms.

        Raises:
            DataError: There is no batch, or a batch that the model cannot read.
        """
        ...

    def apply(self, model: ModelT, config: QuantizationConfig, statistics: Any) -> ModelT:
        """Make the candidate that ``config`` describes; called once per trial. Leaves ``model`` as it is.

        Args:
            model: The fp32 model.
            config: The choices to apply.
            statistics: Statistics of this adapter's own type, as :meth:`calibrate` returned them.

        Raises:
            ApplyError: The config cannot be applied to this model.
        """
        ...

    def runner(self, model: ModelT, execution: Execution) -> Runner:
        """Make the model ready to run; several runners may live side by side without disturbing each other.

        Raises:
            ApplyError: The framework refuses the model.
        """
        ...

    def save(self, model: ModelT, path: Path, metadata: Mapping[str, str]) -> tuple[Path, ...]:
        """Write the model so that a reader sees the old file or the new one, never a part; ``metadata`` goes into it.

        :func:`autotune.atomic.replacing_all` writes files so. Further ones lie beside ``path``, under names of their
        own. The caller removes files that were written for an earlier model at this path and are not written again.

        Returns:
            The paths that were written, files or a folder; :meth:`load` reads the first, which needs the others.

        Raises:
            WorkspaceError: A file cannot be written; what was there before still is.
        """
        ...
