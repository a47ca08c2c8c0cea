"""The models of a run's trials: made once, the best of them kept in the workspace."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic

from autotune.adapter import Adapter, ModelT, suffix_of
from autotune.atomic import remove, replacing
from autotune.config import QuantizationConfig
from autotune.criterion import Criterion
from autotune.errors import InputError, TrialError, WorkspaceError
from autotune.parsing import parse_json
from autotune.results.summary import NEAREST
from autotune.strategy import Objective
from autotune.trial import Measurement, Trial
from autotune.tuning.hold import OWNER_FILE
from autotune.tuning.metadata import metadata_of
from autotune.tuning.selection import asked_for_again
from autotune.tuning.setup import Setup
from autotune.tuning.storage import DATABASE

BEST = "best"
"""Name, without its ending, of what the workspace keeps the answer's model in."""

_MANIFEST = "models.json"
"""The workspace's list of the files of each model that it keeps."""

_NO_MODELS = frozenset({_MANIFEST, OWNER_FILE, "report.html", "cache"})
"""Other files and folders of a workspace; those of the history have names that begin with ``study.db``."""

_LONGEST_NAME = 256
"""Bytes that no file's name has."""

_KEPT_BYTES = 2**30
"""Models that are kept for the finals take no more than this together; what is beyond is made a second time."""


class Models(Generic[ModelT]):
    """Makes and writes the models of trials.

    Args:
        adapter: The framework's adapter.
        criterion: The target, which a file names with what was measured.
        workspace: The folder to write to; None: nothing is written.
    """

    def __init__(self, adapter: Adapter[ModelT], criterion: Criterion, workspace: Path | None) -> None:
        self._adapter = adapter
        self._criterion = criterion
        self._workspace = workspace
        self._best: tuple[QuantizationConfig, ModelT] | None = None
        self._kept: dict[QuantizationConfig, ModelT] = {}

    def made(self, setup: Setup[ModelT], trial: Trial) -> ModelT:
        """The model of a trial.

        Raises:
            TrialError: It cannot be made a second time.
        """
        if trial.config.is_fp32:
            return setup.baseline.given
        if self._best is not None and self._best[0] == trial.config:
            return self._best[1]
        # Finalists are raced, seen to the end, and one is the answer: made once, since making one takes seconds.
        if trial.config not in self._kept:
            statistics = setup.side_of(trial).statistics
            self._kept[trial.config] = self._adapter.apply(setup.base_of(trial), trial.config, statistics)
        return self._kept[trial.config]

    def keep_for_finals(self, model: ModelT, trial: Trial, trials: Sequence[Trial], objective: Objective) -> None:
        """Keep the model of a trial that the finals may ask for, and free those that they will not ask for any more.

        Args:
            model: The model that the trial measured.
            trial: The model's trial, one of ``trials``.
            trials: All so far.
            objective: The figure to minimise.
        """
        wanted = {each.config for each in asked_for_again(trials, objective)}
        self._kept = {config: kept for config, kept in self._kept.items() if config in wanted}
        taken = sum(kept.size_bytes for kept in self._kept.values())
        if trial.config in wanted and taken + model.size_bytes <= _KEPT_BYTES:
            self._kept[trial.config] = model

    def forget_finalists(self) -> None:
        """Free the models that are none of the answer."""
        self._kept.clear()

    def keep_best(self, model: ModelT, trial: Trial) -> None:
        """Write the best model so far, so that it is there whatever happens next, and remember it."""
        self._best = (trial.config, model)
        self._write(model, trial, BEST)

    def keep_nearest(self, nearest: tuple[ModelT, Trial] | None) -> None:
        """Write what is offered beside the answer, in the place of what an earlier run offered."""
        if nearest is not None:
            self._write(*nearest, NEAREST)
        elif self._workspace is not None:
            for file in kept_files(self._workspace, NEAREST, self._adapter.suffix):
                remove(file)
            self._list(NEAREST, ())

    def has_best(self) -> bool:
        """Whether the workspace has an answer, which an earlier run may have left."""
        return self._workspace is not None and bool(kept_files(self._workspace, BEST, self._adapter.suffix))

    def saver(self, model: ModelT, trial: Trial) -> Callable[[Path], tuple[Path, ...]]:
        """A function that writes a model to the path that it is given, and returns the files it wrote."""
        return lambda path: self._adapter.save(model, path, self._metadata(trial))

    def remaker(self, setup: Setup[ModelT]) -> Callable[[Trial, Path], tuple[Path, ...]]:
        """A function that writes the model of any trial to a path, and returns the files it wrote.

        It raises a :class:`WorkspaceError` where what comes of the config now is not the model that was measured.
        """

        def write(trial: Trial, path: Path) -> tuple[Path, ...]:
            known = set(self._kept)
            try:
                model = self.made(setup, trial)
            except TrialError as error:
                raise InputError(f"The model of trial {trial.number} cannot be made again: {error}") from error
            self._kept = {config: kept for config, kept in self._kept.items() if config in known}
            require_measured(trial, model.fingerprint)
            return self._adapter.save(model, path, self._metadata(trial))

        return write

    def _write(self, model: ModelT, trial: Trial, name: str) -> None:
        """Write a model in the place of another, whose further files go once the new one is there."""
        if self._workspace is None:
            return
        before = kept_files(self._workspace, name, self._adapter.suffix)
        path = self._workspace / f"{name}{suffix_of(self._adapter, model)}"
        written = self._adapter.save(model, path, self._metadata(trial))
        self._list(name, written)
        for file in set(before) - set(written):
            remove(file)

    def _list(self, name: str, written: Sequence[Path]) -> None:
        """Keep the names of a model's files, so that nothing else in the workspace is ever taken for one of them."""
        assert self._workspace is not None
        listed = {**_manifest(self._workspace), name: [file.name for file in written]}
        path = self._workspace / _MANIFEST
        try:
            with replacing(path) as temporary:
                temporary.write_text(json.dumps(listed, indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise WorkspaceError(
                f"The list of saved models cannot be written to {path}: {error.strerror or error}. Make room"
            ) from error

    def _metadata(self, trial: Trial) -> dict[str, str]:
        """Metadata of a saved model: how it was made, what it was measured at, and where."""
        return metadata_of(self._adapter, trial.config, trial.measurement or Measurement(), self._criterion)


def require_measured(trial: Trial, fingerprint: str) -> None:
    """See that a model that was made again is the one that its trial measured.

    Args:
        trial: The trial.
        fingerprint: Identity of the model.

    Raises:
        WorkspaceError: It is another one.
    """
    if trial.model_fingerprint not in (None, fingerprint):
        raise WorkspaceError(
            f"The model of trial {trial.number} must come out as it was measured ({trial.model_fingerprint}), but what "
            f"its config makes now differs ({fingerprint}). Are model, calibration data, seed and package versions "
            "those of the run? `autotune apply` makes a model of the config all the same"
        )


def kept_files(workspace: Path, name: str, suffix: str) -> tuple[Path, ...]:
    """The files and folders of a model that a workspace keeps, the one that is loaded first; empty where there is none.

    Args:
        workspace: The folder.
        name: ``best`` or ``nearest``.
        suffix: Suffix of the adapter that wrote it.
    """
    listed = _manifest(workspace).get(name)
    if listed is None:  # a version that kept no list wrote it
        path = workspace / f"{name}{suffix}"
        listed = [file.name for file in sorted(workspace.glob(f"{path.name}*"), key=lambda file: file != path)]
    files = [workspace / file for file in listed]
    return tuple(file for file in files if file.exists()) if files and files[0].exists() else ()


def _manifest(workspace: Path) -> dict[str, list[str]]:
    """By name of a model, what was written for it; empty where no list is kept or it cannot be read.

    A workspace may come from anybody, and what is listed is removed one day: a name that is none of a file in this very
    folder, or is that of the history, counts for nothing.
    """
    path = workspace / _MANIFEST
    try:
        data = parse_json(path.read_text(encoding="utf-8")) if path.is_file() else {}
        return {str(name): [file for file in files if _is_a_models(file)] for name, files in data.items()}
    except (FileNotFoundError, ValueError, AttributeError, TypeError):
        return {}


def _is_a_models(name: object) -> bool:
    """Whether a name may be that of a model's file in the workspace."""
    if not isinstance(name, str) or not 0 < len(name.encode()) < _LONGEST_NAME or {"/", "\\", ":", "\0"} & set(name):
        return False
    return name not in _NO_MODELS and not name.startswith((DATABASE, "."))
