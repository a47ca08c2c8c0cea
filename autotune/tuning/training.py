"""Quantization-aware training: the last resort where no post-training candidate keeps the accuracy target."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Generic

from autotune.adapter import Adapter, Example, FakeQuantization, ModelT, Trainable
from autotune.atomic import replacing
from autotune.config import QuantizationConfig
from autotune.errors import ApplyError, InputError, WorkspaceError
from autotune.runtimes.adapter import RuntimeModel, RuntimesAdapter
from autotune.source import OwnSource
from autotune.tuning.keywords import TrainFunction
from autotune.tuning.side import Side
from autotune.tuning.stages import Stages

Reload = Callable[[Adapter[Any], object, Any], Any]
"""Reads another source in the place of the user's: given the adapter, the source, and the model that it stands for."""


class Training(Generic[ModelT]):
    """Trains the user's model on the grids of a config, and reads it as the runtime's fp32 model.

    Args:
        source: The user's model.
        loader: Their calibration data, whose first batch the model is exported with.
        adapter: Adapter of the framework, or of several runtimes.
        train_fn: The user's training; None: models that were trained before can be made again, and no other.
        stages: Stages of the run.
        workspace: The folder that keeps trained weights; None: they last as long as the run.
        reload: Reads the trained model as the user's was read.
    """

    def __init__(
        self,
        source: OwnSource,
        loader: Iterable[object],
        *,
        adapter: Adapter[ModelT],
        train_fn: TrainFunction | None,
        stages: Stages,
        workspace: Path | None,
        reload: Reload,
    ) -> None:
        self._source = source
        self._example = Example(loader)
        self._adapter = adapter
        self._train_fn = train_fn
        self._stages = stages
        self._workspace = workspace
        self._reload = reload
        self._models: dict[QuantizationConfig, Any] = {}

    def offered(self, side: Side[ModelT]) -> bool:
        """Whether candidates of a side can be trained."""
        return self._train_fn is not None and isinstance(self._of(side), FakeQuantization)

    def model(self, side: Side[ModelT], config: QuantizationConfig) -> Any:
        """The model with trained weights that candidates of a config are made of; it is trained once.

        A run that continues reads the weights that an earlier one has trained.

        Args:
            side: The user's model on the runtime of ``config``.
            config: A config with ``trained``.

        Raises:
            ApplyError: It cannot be trained or converted.
            DeadlineReached: There was no time left to begin.
            WorkspaceError: Weights cannot be written, or those that an earlier run has trained cannot be read.
            Exception: Exceptions of the user's ``train_fn``, unchanged.
        """
        if config not in self._models:
            weights = self._weights(side, config)
            model = _raw(side.model)
            found = self._reload(self._of(side), OwnSource(self._source.framework, weights), model)
            self._models[config] = found if side.runtime is None else RuntimeModel(runtime=side.runtime, model=found)
        return self._models[config]

    def _weights(self, side: Side[ModelT], config: QuantizationConfig) -> Any:
        """The user's model with trained weights: those of an earlier run, or what ``train_fn`` makes now."""
        framework, source = self._framework, self._source.source
        kept = None if self._workspace is None else self._workspace / "cache" / f"trained-{self._key(side, config)}.pt"
        if kept is not None and kept.exists():
            self._stages.note(f"The weights are those that an earlier run has trained ({kept})")
            return framework.load_weights(source, kept)
        if self._train_fn is None:
            raise ApplyError(
                "A trained model can be made again from the weights that its run has kept, but there are none here. "
                "Give the run a `workspace`, and `train_fn` again"
            )
        self._stages.begin("train")
        trained = self._trained(side, config, self._train_fn)
        if kept is not None:
            _keep(framework, trained, kept)
        return trained

    def _trained(self, side: Side[ModelT], config: QuantizationConfig, train_fn: TrainFunction) -> Any:
        adapter, framework, source = self._of(side), self._framework, self._source.source
        assert isinstance(adapter, FakeQuantization)
        own = dataclasses.replace(config, runtime=None)
        ops = adapter.fake_quantization(_raw(side.model), own, side.statistics)
        model, notes = framework.fake_quantized(source, self._example, ops)
        self._stages.note(*notes)
        with self._stages.timed("train"):
            returned = train_fn(model)
        trained = framework.trained(source, model if returned is None else returned)
        if not framework.changed(source, trained):
            self._stages.note("`train_fn` has changed no weight: what follows is post-training quantization again")
        return trained

    def _key(self, side: Side[ModelT], config: QuantizationConfig) -> str:
        """A hash of what trained weights depend on; the code of ``train_fn`` is not part of it."""
        return hashlib.sha256(f"{side.model.fingerprint} {config.fingerprint}".encode()).hexdigest()[:16]

    @property
    def _framework(self) -> Trainable:
        framework = self._source.framework
        assert isinstance(framework, Trainable)
        return framework

    def _of(self, side: Side[ModelT]) -> Any:
        """The adapter of a side's runtime."""
        if side.runtime is None or not isinstance(self._adapter, RuntimesAdapter):
            return self._adapter
        return self._adapter.adapters[side.runtime]


def require_trainable(source: object, adapters: Mapping[str, Adapter[Any]]) -> None:
    """See that a model can be trained, before anything is measured.

    Args:
        source: The user's model, or an :class:`OwnSource` of it.
        adapters: By name: those of the run.

    Raises:
        InputError: It cannot; the message says what to give instead.
    """
    if _is_keras(getattr(source, "source", source)):
        raise InputError(
            "`train_fn` needs a model that can be trained on a runtime's integers, and a Keras model is none here: "
            "Keras' own tool (tensorflow_model_optimization) refuses the models of Keras 3. Train with it in legacy "
            "Keras (tf_keras, TF_USE_LEGACY_KERAS=1) before tuning, or give an nn.Module, or leave `train_fn` out"
        )
    if not isinstance(source, OwnSource):
        raise InputError(
            f"`train_fn` needs a model that can be trained, such as an nn.Module, but got a {type(source).__name__}: "
            "files hold what was exported. Give the module, or leave `train_fn` out"
        )
    if not isinstance(source.framework, Trainable):
        raise InputError(
            f"`train_fn` needs a framework whose models can be trained on integers, but {source.framework.name} has no "
            "such training. Give the same network as an nn.Module of PyTorch (its weights can come from the ONNX file "
            "that it is converted to), or leave `train_fn` out"
        )
    if not any(isinstance(adapter, FakeQuantization) for adapter in adapters.values()):
        raise InputError(
            f"`train_fn` needs a runtime that tells how it rounds, but {', '.join(adapters)} does not. Use "
            '`framework="onnxruntime"`, or leave `train_fn` out'
        )


def _is_keras(source: object) -> bool:
    """Whether a model is a Keras object; nothing is imported to find out."""
    return any(base.__module__.partition(".")[0] in ("keras", "tf_keras") for base in type(source).__mro__)


def _keep(framework: Trainable, trained: Any, path: Path) -> None:
    """Write trained weights, so that a run that is killed later does not train again."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            framework.save_weights(trained, temporary)
    except OSError as error:
        raise WorkspaceError(
            f"Trained weights cannot be written to {path}: {error.strerror or error}. Make room, and run again"
        ) from error


def _raw(model: Any) -> Any:
    """A model as its runtime's adapter holds it."""
    return model.model if isinstance(model, RuntimeModel) else model
