"""Write a model as a ``.tflite`` file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from autotune.adapters.tensorflow.graph import Graph
from autotune.adapters.tensorflow.model import TensorFlowModel
from autotune.atomic import replacing
from autotune.errors import WorkspaceError


def save_model(model: TensorFlowModel, path: Path, metadata: Mapping[str, str]) -> tuple[Path]:
    """Write ``model`` to ``path``; a reader sees the old file or the new one.

    Args:
        model: The model.
        path: Path of the file.
        metadata: Goes into the file's own metadata, beside what is there.

    Raises:
        WorkspaceError: The file cannot be written.
    """
    content = model.content
    if metadata:
        graph = Graph(content)
        graph.set_metadata(metadata)
        content = graph.to_bytes()
    try:
        if path.is_dir():
            raise IsADirectoryError(f"{path} is a folder")
        with replacing(path) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        raise WorkspaceError(
            f"The model cannot be written to {path}: {error.strerror or error}. Choose another place, or make room"
        ) from error
    return (path,)
