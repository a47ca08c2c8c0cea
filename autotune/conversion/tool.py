"""Description of a converter: its program and the environment that it needs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class ConverterTool:
    """A converter of another project, and how an environment for it is made.

    Attributes:
        name: The framework, as users write it after ``autotune converter install``.
        title: The converter as its project calls it.
        program: A file that defines ``load`` and runs in the converter's environment; see
            :mod:`autotune.conversion.program`. It imports nothing of this package.
        modules: The modules that an interpreter must have to be used.
        requirements: Arguments of each call of ``pip install`` that makes an environment.
        variables: Environment variables of the process.
    """

    name: str
    title: str
    program: Path
    modules: Sequence[str]
    requirements: Sequence[Sequence[str]]
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def variable(self) -> str:
        """The environment variable that names an interpreter for this converter."""
        return f"AUTOTUNE_CONVERTER_{self.name.upper()}"

    @property
    def command(self) -> str:
        """The command that makes the environment."""
        return f"autotune converter install {self.name}"

    @property
    def key(self) -> str:
        """Name of the environment's folder; other requirements have another."""
        digest = hashlib.sha256(repr([list(each) for each in self.requirements]).encode()).hexdigest()
        return f"{self.name}-{digest[:12]}"
