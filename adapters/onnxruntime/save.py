"""Write a model so that a reader sees the old file or the new one, never a part."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx

from autotune.adapters.onnx.load import read_model
from autotune.adapters.onnx.model import OnnxModel, write_weights
from autotune.adapters.onnxruntime.choices.execution_options import to_metadata
from autotune.atomic import replacing_all
from autotune.saving import saving


def save_model(model: OnnxModel, path: Path, metadata: Mapping[str, str]) -> tuple[Path, ...]:
    """Write ``model`` to ``path``; weights that do not fit into one file go into a second beside it.

    Returns:
        ``path``, and the file of the weights where there is one.

    Raises:
        WorkspaceError: It cannot be written; what was there before still is.
    """
    proto = onnx.ModelProto()
    proto.CopyFrom(model.stored)
    _set_metadata(proto, {**to_metadata(model.optimization), **metadata})
    # The weights' file has the model's hash in its name: until the new model replaces the old one, the old one finds
    # its own.
    weights = path.with_name(f"{path.name}.{model.fingerprint}.data")
    paths = [path] if model.external_dir is None else [weights, path]
    with saving(path), replacing_all(paths) as temporaries:
        if model.external_dir is not None:
            write_weights(proto, model.external_dir, temporaries[0])
            for tensor in proto.graph.initializer:
                for entry in tensor.external_data:
                    if entry.key == "location":
                        entry.value = weights.name
        temporaries[-1].write_bytes(proto.SerializeToString())
    return tuple(reversed(paths))


def read_metadata(path: Path) -> Mapping[str, str]:
    """The metadata of a model's file.

    Raises:
        ModelError: It is missing, corrupt or no ONNX model.
    """
    return {entry.key: entry.value for entry in read_model(path).proto.metadata_props}


def _set_metadata(proto: onnx.ModelProto, metadata: Mapping[str, str]) -> None:
    kept = {entry.key: entry.value for entry in proto.metadata_props}
    onnx.helper.set_model_props(proto, {**kept, **metadata})
