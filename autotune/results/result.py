"""The result of a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autotune.adapter import Array
from autotune.arguments import require
from autotune.errors import InputError
from autotune.results.summary import TuningSummary
from autotune.trial import Trial, TrialState
from autotune.tuning.tuned import AsModule, module_of


@dataclass(frozen=True, kw_only=True, repr=False)
class TuningResult(TuningSummary):
    """Result of a run: the summary, and the answer's model itself, which is fp32's where that is the answer."""

    _run: Callable[[object], Array | tuple[Array, ...]]
    _save: Callable[[Path], tuple[Path, ...]]
    _save_trial: Callable[[Trial, Path], tuple[Path, ...]] | None = None
    _save_nearest: Callable[[Path], tuple[Path, ...]] | None = None
    _as_module: AsModule | None = None

    def model(self, inputs: object) -> Array | tuple[Array, ...]:
        """Run the answer's model on one batch.

        Args:
            inputs: An array, a tuple in graph order or a dict by input name.

        Returns:
            One array, or a tuple where the model has several outputs.
        """
        return self._run(inputs)

    def module(self) -> Any:
        """The answer's model as a model of the framework that the user's model came from: an ``nn.Module`` of PyTorch.

        It takes and gives the framework's tensors, whatever runtime executes it.

        Raises:
            InputError: The user's model was no framework's own object.
        """
        return module_of(self._run, self._as_module, "the answer")

    def save(self, path: str | Path, *, trial: int | None = None) -> Path:
        """Write a model, with its config, measured loss, host and our version in its metadata.

        Args:
            path: The place to write it to.
            trial: Number of the trial whose model is written; None: the answer's. A model that was not kept is made
                again of its config, and must come out as it was measured.

        Returns:
            The path by which the model is loaded. :meth:`save_files` also returns the files that belong to it.

        Raises:
            InputError: There is no such trial, or it failed.
            WorkspaceError: A file cannot be written, or the model came out otherwise than it was measured.
        """
        return self.save_files(path, trial=trial)[0]

    def save_files(self, path: str | Path, *, trial: int | None = None) -> tuple[Path, ...]:
        """Write a model as :meth:`save` does, and return every file or folder that was written.

        Some frameworks write several: graph and weights, or a file for weights beyond 2 GB.
        """
        require("path", path, str | Path, InputError)
        if not Path(path).name:
            raise InputError(f"`path` must name the file to write, as 'tuned.onnx', but got {str(path)!r}")
        if trial is None or trial == self.best.number:
            return self._save(Path(path))
        wanted = self.trial(trial)
        if self._save_trial is None:
            raise InputError(f"Only the answer can be saved, but got trial {trial}: the run ended before any was made")
        if wanted.state is TrialState.FAILED:
            raise InputError(f"A trial must have made a model to be saved, but trial {trial} failed: {wanted.reason}")
        return self._save_trial(wanted, Path(path))

    def save_nearest(self, path: str | Path) -> Path:
        """Write the model of :attr:`nearest`, which is not known to keep the target, or not to be faster than fp32.

        Returns:
            The path by which the model is loaded.

        Raises:
            InputError: There is none.
            WorkspaceError: The file cannot be written.
        """
        require("path", path, str | Path, InputError)
        if self._save_nearest is None:
            raise InputError(
                f"There must be a nearest candidate to be saved, but there is none: {self.reason}. "
                "`save` writes the answer"
            )
        return self._save_nearest(Path(path))[0]
