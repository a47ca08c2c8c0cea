"""Makes the model of a stored config, without a search."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic

from autotune import data
from autotune.adapter import Adapter, Array, Execution, ModelT, given_model
from autotune.adapters import get_adapter
from autotune.config import QuantizationConfig
from autotune.errors import ApplyError, InputError
from autotune.notes import counted
from autotune.results.stored_config import read_config
from autotune.source import OwnSource, as_convertible, as_source
from autotune.suggestion import suggestion
from autotune.tuning.calibrating import Calibrating
from autotune.tuning.keywords import DEFAULT_FRAMEWORK, ConfigSource
from autotune.tuning.loading import Loaded, Loading
from autotune.tuning.metadata import metadata_of
from autotune.tuning.stages import Stages
from autotune.tuning.tuned import AsModule, TunedModel, module_of
from autotune.users_code import users_code
from autotune.watching import Log, Several

if TYPE_CHECKING:
    from autotune.tuning.tuner import Tuner

_NAMED = 5
"""Unknown ops that a message lists."""


class QuantizedModel(Generic[ModelT]):
    """The model of one config: it runs, and it can be saved.

    Args:
        adapter: Adapter of the runtime.
        model: The model.
        config: The config that it was made by.
        execution: How it runs.
        notes: Notes for the user, a line each.
        metadata: Goes into a saved file beside config, host and version.
        as_module: Makes a model of the framework that the user's model came from; None where that was a file.

    Attributes:
        config: The config that it was made by.
        notes: Notes for the user, a line each.
    """

    def __init__(
        self,
        adapter: Adapter[ModelT],
        model: ModelT,
        config: QuantizationConfig,
        *,
        execution: Execution,
        notes: Sequence[str] = (),
        metadata: Mapping[str, str] | None = None,
        as_module: AsModule | None = None,
    ) -> None:
        self.config = config
        self.notes = tuple(notes)
        self._adapter = adapter
        self._model = model
        self._run = TunedModel(adapter, model, model.inputs, execution)
        self._metadata = {**metadata_of(adapter, config), **(metadata or {})}
        self._as_module = as_module

    def __repr__(self) -> str:
        return f"<QuantizedModel: config {self.config.fingerprint}, {counted(len(self.config.ops), 'op')} quantized>"

    @property
    def fingerprint(self) -> str:
        """Identity of the model: equal for models that are equal to the bit."""
        return self._model.fingerprint

    @property
    def size_bytes(self) -> int:
        """Size of the serialized model in bytes."""
        return self._model.size_bytes

    def model(self, inputs: object) -> Array | tuple[Array, ...]:
        """Run the model on one batch: an array, a tuple in graph order or a dict by input name.

        Returns:
            One array, or a tuple where the model has several outputs.
        """
        return self._run(inputs)

    def module(self) -> Any:
        """The model as one of the framework that the user's model came from: an ``nn.Module`` of PyTorch.

        Raises:
            InputError: The user's model was no framework's own object.
        """
        return module_of(self._run, self._as_module, "it")

    def save(self, path: str | Path) -> Path:
        """Write the model with its config in its metadata; returns the path by which it is loaded.

        Raises:
            WorkspaceError: A file cannot be written.
        """
        return self.save_files(path)[0]

    def save_files(self, path: str | Path) -> tuple[Path, ...]:
        """Write the model as :meth:`save` does, and return every file or folder that was written."""
        return self._adapter.save(self._model, Path(path), self._metadata)


def apply(
    model: object,
    config: ConfigSource,
    dataloader: Iterable[object],
    *,
    framework: str | None = None,
    sampling_size: int | None = 100,
    seed: int = 0,
    threads: int = 1,
    batch_axis: Any = None,
) -> QuantizedModel[Any]:
    """Quantize a model by a stored config: calibrated anew, without a search and without a measurement.

    So a config that a run has found is used on weights that were trained since. With the model, data, ``sampling_size``
    and ``seed`` of that run, the result is its model to the bit. Whether the accuracy still holds is not looked at:
    ``Tuner(start_from=config)`` does that with one evaluation.

    Args:
        model: A path or the framework's own object, as :meth:`autotune.Tuner.tune` takes it.
        config: The config, the path of its JSON, a workspace (its answer), ``WORKSPACE:TRIAL``, or a model that a run
            has saved.
        dataloader: Calibration data, as :meth:`autotune.Tuner.tune` takes it.
        framework: Name of the adapter. None: the runtime that the config names, or the one of its run, else
            ``onnxruntime``.
        sampling_size: Calibration samples to use at the most; None: all that the loader yields.
        seed: Seed of every random choice.
        threads: Threads of one inference when the result is called.
        batch_axis: The axis that counts samples; see :class:`autotune.Tuner`.

    Raises:
        InputError: The model, the config or the data cannot be used, or the config names ops that the model has not.
    """
    from autotune.tuning.tuner import Tuner  # noqa: PLC0415  the tuner imports what this one reads

    stored = read_config(config, framework)
    name = framework or stored.framework or DEFAULT_FRAMEWORK
    tuner = Tuner(framework=name, sampling_size=sampling_size, seed=seed, threads=threads, batch_axis=batch_axis)
    with users_code("A data loader of yours"):
        return made_by(tuner, model, stored.config, dataloader)


def made_by(
    tuner: Tuner,
    model: object,
    config: QuantizationConfig,
    loader: Iterable[object],
    runtime: str | None = None,
    metadata: Mapping[str, str] | None = None,
) -> QuantizedModel[Any]:
    """The model that a config makes, prepared and calibrated as a run with these options does it.

    Statistics come from the tuner's workspace where they are there.

    Args:
        tuner: The options.
        model: The user's model.
        config: The config.
        loader: The calibration data.
        runtime: Name of the adapter, where the tuner has several; None: the tuner's framework.
        metadata: Goes into a saved file beside config, host and version.

    Raises:
        InputError: One of them cannot be used, or the config names ops that the model has not.
    """
    data.require_repeatable(loader, "dataloader")
    own = as_source(model)
    source = own or as_convertible(model)
    batches = loader if own is None else own.loader(loader)
    adapter = get_adapter(runtime or tuner.framework)
    stages = Stages(Several([Log(), tuner.observer]), None)
    calibrate = Calibrating(tuner, stages)
    loaded = Loading(tuner, stages, calibrate.batches, lambda _runtime, _model: None)(adapter, source, batches, runtime)
    candidate = _candidate(loaded, config, lambda: _statistics(tuner, calibrate, loaded, batches))
    if config.trained:
        stages.note("The config was found with weights trained on its grids: the weights are those of the given model")
    return QuantizedModel(
        adapter,
        candidate,
        config,
        execution=Execution(threads=tuner.threads),
        notes=(*stages.notes, *candidate.notes),
        metadata=metadata,
        as_module=own.module if isinstance(own, OwnSource) else None,
    )


def _statistics(tuner: Tuner, calibrate: Calibrating, loaded: Loaded, batches: Iterable[object]) -> Any:
    kept = tuner.workspace is not None
    fingerprint = data.fingerprint(calibrate.batches(loaded.model, batches)) if kept else ""
    return calibrate(loaded, batches, fingerprint, 1)


def _candidate(loaded: Loaded, config: QuantizationConfig, statistics: Callable[[], Any]) -> Any:
    if config.is_fp32:
        return given_model(loaded.adapter, loaded.model)
    require_ops(config, loaded.space.by_name)
    try:
        return loaded.adapter.apply(loaded.model, dataclasses.replace(config, runtime=None), statistics())
    except ApplyError as error:
        raise InputError(
            f"Config {config.fingerprint} must be one that {loaded.adapter.name} can apply to this model here, but: "
            f"{error}"
        ) from error


def require_ops(config: QuantizationConfig, names: Collection[str]) -> None:
    """See that a model has all ops that a config names.

    Args:
        config: The config.
        names: The ops of the model that can be quantized.

    Raises:
        InputError: It has not.
    """
    unknown = [name for name in config.ops if name not in names]
    if not unknown:
        return
    listed = ", ".join(f"{name!r}{suggestion(name, names)}" for name in unknown[:_NAMED])
    more = f" and {len(unknown) - _NAMED} more" if len(unknown) > _NAMED else ""
    raise InputError(
        f"A config must name ops that can be quantized in the model, but {len(unknown)} of its {len(config.ops)} are "
        f"not there: {listed}{more}. Is it the config of another model, or was the graph exported with other names? "
        "`Tuner(start_from=...)` and `autotune run --start-from` map configs between such graphs"
    )
