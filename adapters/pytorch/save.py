"""Write a model as an AOTInductor package, which runs without Python too."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from autotune.adapters.pytorch.model import PytorchModel
from autotune.adapters.pytorch.package import package_with
from autotune.atomic import replacing
from autotune.saving import saving


def save_model(model: PytorchModel, path: Path, metadata: Mapping[str, str]) -> tuple[Path]:
    """Write the package of ``model`` to ``path``; a reader sees the old file or the new one.

    Args:
        model: Compiled for it where it is not yet.
        path: Path of the package.
        metadata: Goes into what the package says of itself.

    Raises:
        WorkspaceError: The file cannot be written.
        ApplyError: Inductor refuses the model.
    """
    content = package_with(model, metadata)
    with saving(path), replacing(path) as temporary:
        temporary.write_bytes(content)
    return (path,)
