"""The section of an experiment file that names the model."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Self

from pydantic import model_validator

from autotune.errors import ExperimentError
from autotune.experiment.references import resolve
from autotune.experiment.section import FilePath, Reference, Section, only
from autotune.users_code import users_code


class Model(Section):
    """The trained fp32 model: a file, or what a function of yours returns."""

    path: FilePath | None = None
    """The model's file; a relative path starts at the folder of this file."""
    function: Reference | None = None
    """A Python callable, as `module:function`, that returns the model: an nn.Module in evaluation mode, for example."""
    framework: str = "onnxruntime"
    """The framework that runs it."""

    @property
    def name(self) -> str:
        """A name for people: that of its file, or of the function that makes it."""
        return str(self.function) if self.path is None else self.path.name

    def open(self, directory: Path, trust: Collection[str] = ()) -> object:
        """The model as :meth:`autotune.Tuner.tune` takes it: its path, or what the function returned.

        Args:
            directory: The experiment file's.
            trust: Packages whose functions may be called too.

        Raises:
            ExperimentError: There is no such function, or it returned nothing.
            Exception: Any exception of the function itself, unchanged.
        """
        if self.function is None:
            return self.path
        function = resolve(self.function, directory, trust)
        with users_code(f"Function {self.function!r}"):
            model: object = function()
        if model is None:
            raise ExperimentError(
                f"Function {self.function!r} must return a model, but it is None. Is a `return` missing?"
            )
        return model

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        only(self, ("path", "function"))
        return self
