"""Who may import whom: frameworks live in their adapters, and the core knows adapters and strategies by name alone."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import autotune

ROOT = Path(__file__).parents[1]
FRAMEWORKS = frozenset(
    {"jax", "mxnet", "onnx", "onnxruntime", "openvino", "paddle", "tensorflow", "torch", "torchvision"}
)
CORE = sorted(
    path
    for path in (ROOT / "autotune").rglob("*.py")
    if path.relative_to(ROOT).parts[1] not in ("adapters", "strategies")
)
STRATEGIES = sorted((ROOT / "strategies").rglob("*.py"))
ADAPTERS = sorted((ROOT / "adapters").rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    """The modules that a file imports anywhere, also inside of functions, and by a name that stands in the code."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            yield from (
                each.value for each in node.args if isinstance(each, ast.Constant) and isinstance(each.value, str)
            )


def test_there_is_something_to_look_at() -> None:
    assert len(CORE) > 80
    assert len(STRATEGIES) > 20
    assert any(name == "onnxruntime" for path in ADAPTERS for name in imported(path))


@pytest.mark.parametrize("path", [*CORE, *STRATEGIES], ids=lambda path: str(path.relative_to(ROOT)))
def test_no_framework_is_imported_outside_of_its_adapter(path: Path) -> None:
    found = {name for name in imported(path) if name.partition(".")[0] in FRAMEWORKS}
    assert not found, "what needs a framework belongs behind its adapter"
    inside = {name for name in imported(path) if name.startswith("autotune.adapters.") and name.count(".") > 2}
    assert not inside, "an adapter is reached by its name and the contract"


@pytest.mark.parametrize("path", STRATEGIES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_strategy_sees_no_adapter(path: Path) -> None:
    assert not {name for name in imported(path) if name.startswith("autotune.adapter")}


@pytest.mark.parametrize("path", ADAPTERS, ids=lambda path: str(path.relative_to(ROOT)))
def test_an_adapter_sees_no_strategy(path: Path) -> None:
    assert not {name for name in imported(path) if name.startswith("autotune.strategies")}


def test_importing_the_whole_core_imports_no_framework() -> None:
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in CORE if path.name not in ("__main__.py",)
    ]
    code = f"import importlib, sys\nfor name in {modules!r}: importlib.import_module(name)\n"
    code += f"print(sorted({set(FRAMEWORKS)!r} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert ran.stdout.strip() == "[]"


HEAVY = FRAMEWORKS | {"optuna", "pandas", "pydantic", "scipy", "sklearn", "sqlalchemy"}


@pytest.mark.parametrize(
    ("statement", "allowed"),
    [
        ("import autotune", set()),
        ("import autotune; autotune.Criterion(relative=0.01)", set()),
        ("from autotune import *", {"optuna", "sqlalchemy"}),
        ("from autotune import tune, Tuner", set()),
        ("import autotune.cli", set()),
        (
            "from autotune.cli.app import app; from typer.testing import CliRunner; CliRunner().invoke(app, '--help')",
            set(),
        ),
    ],
)
def test_what_is_heavy_is_imported_when_it_is_used(statement: str, allowed: set[str]) -> None:
    """``benchmarks/import_time.py`` tells the seconds; what makes them is told here."""
    code = f"{statement}\nimport sys\nprint(*sorted({set(HEAVY)!r} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert set(ran.stdout.split()) <= allowed


def test_every_public_name_is_there_and_no_other() -> None:
    for name in autotune.__all__:
        assert getattr(autotune, name).__module__.startswith("autotune."), name
    assert set(autotune.__all__) <= set(dir(autotune))
    with pytest.raises(AttributeError, match="no attribute 'Tunner'"):
        autotune.Tunner  # noqa: B018
