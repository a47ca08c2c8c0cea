"""Write a model as a ``.tflite`` file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from autotune.adapters.tensorflow.graph import Graph
from autotune.adapters.tensorflow.model import TensorFlowModel
from autotune.atomic import replacing
from autotune.saving import saving


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
    with saving(path), replacing(path) as temporary:
        temporary.write_bytes(content)
    return (path,)
