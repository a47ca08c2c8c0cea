"""Write a model as OpenVINO IR: the graph as XML, and its weights beside it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

from autotune.adapters.openvino.load import read_model
from autotune.adapters.openvino.model import FLOATS_KEY, OpenVinoModel, ir_files
from autotune.errors import WorkspaceError
from autotune.saving import saving


def save_model(model: OpenVinoModel, path: Path, metadata: Mapping[str, str]) -> tuple[Path, Path]:
    """Write ``model`` to ``path``, and its weights beside it with the suffix ``.bin``, as OpenVINO looks for them.

    Everything keeps its precision: ``openvino.save_model`` would by default store what is fp32 in 16 bits. A reader
    sees both old files, or both new ones, or in between no XML.

    Args:
        model: The model.
        path: Path of the XML.
        metadata: Goes into the XML as ``rt_info``; a colon in a key begins a level.

    Returns:
        Both files.

    Raises:
        WorkspaceError: A file cannot be written, or the path does not end in ``.xml``.
    """
    if path.suffix.lower() != ".xml":
        raise WorkspaceError(
            f"An OpenVINO model must be saved under a name that ends in .xml, with its .bin beside it, but got {path}. "
            f"Save it as {path.with_name(path.name + '.xml')}"
        )
    graph = model.graph.clone()
    graph.set_rt_info(model.floats, FLOATS_KEY)
    for key, value in metadata.items():
        graph.set_rt_info(value, key.split(":"))
    weights = path.with_suffix(".bin")
    temporary = [place.with_name(f".{place.name}.{os.getpid()}.tmp") for place in (path, weights)]
    try:
        with saving(path):
            for place, content in zip(temporary, ir_files(graph), strict=True):
                with place.open("wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
            path.unlink(missing_ok=True)
            temporary[1].replace(weights)
            temporary[0].replace(path)
    finally:
        for leftover in temporary:
            with contextlib.suppress(OSError):  # there may be no such folder
                leftover.unlink(missing_ok=True)
    return path, weights


def read_metadata(path: Path) -> Mapping[str, str]:
    """The entries under ``autotune`` that :func:`save_model` wrote; a colon in a key stands for a level.

    Raises:
        ModelError: It is missing, or OpenVINO cannot read it.
    """
    graph = read_model(path).graph
    found = graph.get_rt_info("autotune").value if graph.has_rt_info("autotune") else {}
    return {f"autotune:{key}": str(value) for key, value in found.items()}
