"""The model that a run answers with, as its user calls it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeAlias

from autotune import data
from autotune.adapter import Adapter, Array, Execution, ModelT, Runner, TensorSpec
from autotune.errors import InputError

AsModule: TypeAlias = Callable[[Callable[[object], Any]], Callable[..., Any]]
"""Makes a framework's own model of a function that runs one on a batch of arrays."""


class TunedModel(Generic[ModelT]):
    """Runs a model on one batch of any form that a loader may yield; it is opened at the first one.

    It can be pickled and copied: a copy holds the model, and opens it anew.

    Args:
        adapter: Adapter of the runtime.
        model: The model.
        inputs: Those of the user's model.
        execution: How it runs.
    """

    def __init__(
        self, adapter: Adapter[ModelT], model: ModelT, inputs: Sequence[TensorSpec], execution: Execution
    ) -> None:
        self._adapter = adapter
        self._model = model
        self._inputs = tuple(inputs)
        self._execution = execution
        self._runner: Runner | None = None

    def __call__(self, batch: object) -> Array | tuple[Array, ...]:
        """One array, or a tuple where the model has several outputs."""
        if self._runner is None:
            self._runner = self._adapter.runner(self._model, self._execution)
        outputs = self._runner(data.as_feeds(batch, self._inputs, where="the batch"))
        return outputs[0] if len(outputs) == 1 else outputs

    def __getstate__(self) -> dict[str, Any]:
        """All but what runs it, which belongs to this process."""
        return {**vars(self), "_runner": None}


def module_of(run: Callable[[object], Any], as_module: AsModule | None, what: str) -> Any:
    """The model that ``run`` runs as one of the framework that the user's model came from.

    Args:
        run: Runs it on a batch of arrays.
        as_module: Makes the framework's model; None where the user gave a file.
        what: The model in words.

    Raises:
        InputError: The user's model was no framework's own object.
    """
    if as_module is None:
        raise InputError(
            "`module()` needs a model that was given as a framework's own object, such as an nn.Module, but this "
            f"one was given as a file. `model(batch)` runs {what} on arrays"
        )
    return as_module(run)
