"""The quickstart as a user has it: its folder, copied, with `autotune` importable from elsewhere."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import onnxruntime as ort
import pytest

from tests.adapters.conftest import half_cache  # noqa: F401  a fixture: nothing is measured, or written to the user's cache

ROOT = Path(__file__).parents[2]
QUICKSTART = ROOT / "examples" / "quickstart"


@pytest.fixture
def quickstart(tmp_path: Path) -> Path:
    """A copy of the quickstart's folder, in which a run may write."""
    return Path(shutil.copytree(QUICKSTART, tmp_path / "quickstart", ignore=shutil.ignore_patterns("runs", "__*")))


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """For processes that run an example: this checkout's code, whatever the working directory."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "160"}


@pytest.fixture(scope="session")
def digits() -> ModuleType:
    """The quickstart's own data module."""
    spec = importlib.util.spec_from_file_location("digits", QUICKSTART / "digits.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def accuracy_of(digits: ModuleType) -> Callable[[Path], float]:
    """The accuracy of a model file on the quickstart's evaluation data, by ONNX Runtime alone."""

    def measure(path: Path) -> float:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])

        def model(images: Any) -> Any:
            return session.run(None, {"image": images})[0]

        return float(digits.accuracy(model))

    return measure
