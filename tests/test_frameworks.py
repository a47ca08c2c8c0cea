"""The core knows no framework: neither do its tests, which run on the toy in ``tests/numpy_framework.py``."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PACKAGES = sorted(path.parent.name for path in (TESTS.parent / "adapters").glob("*/__init__.py"))
FRAMEWORKS = (
    *("jax", "mxnet", "onnx", "onnxruntime", "openvino", "paddle", "tensorflow", "torch"),
    *(f"autotune.adapters.{name}" for name in PACKAGES),
    "tests.adapters",
)
EXEMPT = {
    "adapters": "what adapters make of their own framework's models",
    "examples": "the examples ship an ONNX model, and are run as users run them",
}


def imported(source: str) -> Iterator[str]:
    """The modules that a file imports, and the frameworks whose adapter it asks for by name."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield from (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("get_adapter"):
            yield from (str(argument.value) for argument in node.args if isinstance(argument, ast.Constant))


def framework_of(module: str) -> str | None:
    return next((name for name in FRAMEWORKS if module == name or module.startswith(f"{name}.")), None)


@pytest.mark.parametrize(
    "source",
    [
        "import onnx",
        "def test():\n    from onnxruntime import InferenceSession",
        "from autotune.adapters.onnx import graph",
        "from autotune.adapters import onnxruntime",
        "from tests.adapters.onnx import shapes",
        "adapter = autotune.adapters.get_adapter('onnxruntime')",
    ],
)
def test_a_framework_is_seen_however_it_is_imported(source: str) -> None:
    assert any(framework_of(module) for module in imported(source))


def test_other_imports_are_no_framework() -> None:
    source = "import numpy, onnx_ir\nfrom autotune.adapters import get_adapter\nget_adapter('numpy')"
    assert not any(framework_of(module) for module in imported(source))


def test_only_tests_of_adapters_import_a_framework() -> None:
    found = [
        f"{file.relative_to(TESTS)} imports {module}"
        for file in sorted(TESTS.rglob("*.py"))
        if file.relative_to(TESTS).parts[0] not in EXEMPT
        for module in imported(file.read_text(encoding="utf-8"))
        if framework_of(module)
    ]
    assert not found, "use the toy framework (`network`, tests/numpy_adapter.py), or move the test to tests/adapters"
