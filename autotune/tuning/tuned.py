"""The model that a run answers with, as its user calls it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic

from autotune import data
from autotune.adapter import Adapter, Array, Execution, ModelT, Runner, TensorSpec


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
