"""One adapter that stands for several: each call goes to the runtime of the model that it is about."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autotune.adapter import (
    Adapter,
    Compiles,
    DeclaresPackages,
    Example,
    Execution,
    Feeds,
    PortabilityCheck,
    Preparation,
    Runner,
    Statistics,
    TensorSpec,
    given_model,
    quick_runner,
)
from autotune.batch import BatchAxes, axes_of
from autotune.config import QuantizationConfig
from autotune.source import source_for
from autotune.space import TuningSpace


@dataclass(frozen=True, kw_only=True, eq=False)
class RuntimeModel:
    """A model and the runtime that executes it; see :class:`autotune.adapter.Model`.

    Attributes:
        runtime: Name of the runtime's adapter.
        model: The model as that adapter holds it.
    """

    runtime: str
    model: Any

    @property
    def fingerprint(self) -> str:
        """Differs between runtimes, which compute and time one model differently."""
        return f"{self.runtime}:{self.model.fingerprint}"

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The inputs in graph order."""
        return tuple(self.model.inputs)

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The outputs in graph order."""
        return tuple(self.model.outputs)

    @property
    def size_bytes(self) -> int:
        """Size of the serialized model."""
        return int(self.model.size_bytes)

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for the user, a line each."""
        return tuple(self.model.notes)

    @property
    def batch_axes(self) -> BatchAxes:
        """Which axes count samples."""
        return axes_of(self.model)


class RuntimesAdapter:
    """The adapters of several runtimes as one; see :class:`autotune.adapter.Adapter`.

    Its models are :class:`RuntimeModel`, so that evaluators, races and whatever writes models work on those of all
    runtimes alike.

    Args:
        adapters: By name, in the order in which the user names them.
        unavailable: By name of a runtime that has no adapter here: why.
    """

    def __init__(self, adapters: Mapping[str, Adapter[Any]], unavailable: Mapping[str, Exception]) -> None:
        self.adapters = dict(adapters)
        self.unavailable = dict(unavailable)
        self.name = ", ".join(self.adapters)
        # That of the first; `suffix_of` tells a model's.
        self.suffix = next((adapter.suffix for adapter in self.adapters.values()), "")
        declared = (each.packages for each in self.adapters.values() if isinstance(each, DeclaresPackages))
        self.packages = tuple(dict.fromkeys(package for packages in declared for package in packages))

    def suffix_of(self, model: RuntimeModel) -> str:
        """The ending of the files of a model; see :class:`autotune.adapter.SuffixByModel`."""
        return self._of(model).suffix

    def load(self, source: object, example: Example | None = None) -> RuntimeModel:
        """The model on the first runtime; a run loads it on each by itself."""
        runtime, adapter = next(iter(self.adapters.items()))
        return RuntimeModel(runtime=runtime, model=adapter.load(source_for(adapter, source, example), example))

    def as_given(self, model: RuntimeModel) -> RuntimeModel:
        """The user's model as it was before its runtime prepared it; see :class:`autotune.adapter.Preparation`."""
        return dataclasses.replace(model, model=given_model(self._of(model), model.model))

    def on_data(self, model: RuntimeModel, batches: Iterable[Feeds]) -> RuntimeModel:
        """The model as its runtime prepares it for these data; see :class:`autotune.adapter.Preparation`."""
        adapter = self._of(model)
        if not isinstance(adapter, Preparation):
            return model
        return dataclasses.replace(model, model=adapter.on_data(model.model, batches))

    def executes_another_graph(self, model: RuntimeModel) -> bool:
        """Whether preparation changes what its runtime executes; see :class:`autotune.adapter.Preparation`."""
        adapter = self._of(model)
        return isinstance(adapter, Preparation) and adapter.executes_another_graph(model.model)

    def space(self, model: RuntimeModel) -> TuningSpace:
        """The choices of each op on the model's runtime."""
        return self._of(model).space(model.model)

    def calibrate(self, model: RuntimeModel, batches: Iterable[Feeds], *, seed: int) -> Statistics:
        """The statistics of the model's runtime."""
        return self._of(model).calibrate(model.model, batches, seed=seed)

    def apply(self, model: RuntimeModel, config: QuantizationConfig, statistics: Any) -> RuntimeModel:
        """The candidate on the runtime of ``model``, which is the config's.

        Raises:
            ApplyError: The runtime's adapter cannot apply the config.
        """
        assert config.runtime in (None, model.runtime), f"a config of {config.runtime} for a model of {model.runtime}"
        own = dataclasses.replace(config, runtime=None)
        return dataclasses.replace(model, model=self._of(model).apply(model.model, own, statistics))

    def runner(self, model: RuntimeModel, execution: Execution) -> Runner:
        """The model ready to run on its runtime."""
        return self._of(model).runner(model.model, execution)

    def quick_runner(self, model: RuntimeModel, execution: Execution) -> Runner:
        """The model ready to run without a compiler; see :class:`autotune.adapter.Compiles`."""
        return quick_runner(self._of(model), model.model, execution)

    def is_compiled(self, model: RuntimeModel) -> bool:
        """Whether its runtime has nothing left to compile; see :class:`autotune.adapter.Compiles`."""
        adapter = self._of(model)
        return not isinstance(adapter, Compiles) or adapter.is_compiled(model.model)

    def save(self, model: RuntimeModel, path: Path, metadata: Mapping[str, str]) -> tuple[Path, ...]:
        """Write the model as its runtime does.

        A path that ends as another runtime's files do gets the ending of this one's: nobody knows which runtime wins
        when they choose the path.
        """
        adapter = self._of(model)
        others = {each.suffix for each in self.adapters.values()} - {adapter.suffix, ""}
        if path.suffix in others:
            path = path.with_suffix(adapter.suffix)
        return adapter.save(model.model, path, metadata)

    def saturating_ops(self, model: RuntimeModel) -> Sequence[str]:
        """As the model's runtime says; see :class:`autotune.adapter.PortabilityCheck`."""
        adapter = self._of(model)
        return adapter.saturating_ops(model.model) if isinstance(adapter, PortabilityCheck) else ()

    def _of(self, model: RuntimeModel) -> Adapter[Any]:
        return self.adapters[model.runtime]
