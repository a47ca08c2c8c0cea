"""Models of other frameworks, made in the environments of their converters: tests need these and no framework."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest

from autotune.adapter import Array, Example
from autotune.adapters import get_adapter, get_converter
from autotune.conversion import interpreter_of
from autotune.conversion.environment import environment_of
from autotune.errors import MissingDependencyError
from autotune.source import Convertible, as_convertible, source_for


def make(name: str, code: str, folder: Path) -> None:
    """Run code in the environment of a converter; the test is skipped where there is none."""
    try:
        tool = get_converter(name).tool
        python = interpreter_of(tool)
    except MissingDependencyError as error:
        pytest.skip(str(error))
    prelude = f"import runpy; program = runpy.run_path({str(tool.program)!r})\n"
    done = subprocess.run(
        [str(python), "-c", prelude + code],
        cwd=folder,
        env=environment_of(python, tool),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def converted(path: Path, batch: Array | None) -> tuple[onnx.ModelProto, Sequence[str]]:
    """The ONNX file that ONNX Runtime is given of a model, and the notes on it."""
    source = as_convertible(path)
    assert isinstance(source, Convertible)
    example = None if batch is None else Example([(batch, np.zeros(len(batch)))])
    made = source_for(get_adapter("onnxruntime"), source, example)
    assert isinstance(made, bytes)
    proto = onnx.ModelProto.FromString(made)
    onnx.checker.check_model(proto, full_check=True)
    return proto, source.notes


def shape_of(value: onnx.ValueInfoProto) -> list[str | int]:
    """The shape of an input or output, names for free axes."""
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


def names_of(proto: onnx.ModelProto, *kinds: str) -> list[str]:
    """Names of the nodes of some kinds."""
    return [node.name for node in proto.graph.node if node.op_type in kinds]
