"""A user's type checker passes README's own lines, and catches a name that does not exist."""

from __future__ import annotations

import inspect
import re
import typing
from pathlib import Path

import pytest

from autotune import Tuner, tune
from autotune.tuning.keywords import Keywords, Options

ROOT = Path(__file__).parents[1]
_GIVEN = """
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

dataloader: Iterable[object] = [np.zeros((1, 3, 8, 8), np.float32)]


def eval_fn(model: Callable[[object], Any]) -> float:
    return float(np.mean(model(np.zeros((1, 3, 8, 8), np.float32))))


"""
"""Names that README leaves to its reader."""


def _findings(text: str, tmp_path: Path) -> str:
    """The output of ``mypy --strict`` for a user's file; empty where it finds nothing."""
    api = pytest.importorskip("mypy.api")
    file = tmp_path / "theirs.py"
    file.write_text(_GIVEN + text)
    config = str(ROOT / "pyproject.toml")
    cache = str(ROOT / ".mypy_cache")  # of the run over the project itself, which makes this one short
    out, errors, status = api.run(["--strict", "--config-file", config, "--cache-dir", cache, str(file)])
    return "" if status == 0 else f"{out}{errors}"


def test_the_keywords_of_tune_are_those_of_the_tuner() -> None:
    names = {"BaseSampler": object}
    assert typing.get_type_hints(Options, localns=names) == typing.get_type_hints(Tuner, localns=names)
    given = inspect.signature(tune).parameters
    assert [*given][:3] == ["model", "dataloader", "eval_fn"]
    assert {*given} - {"model", "dataloader", "eval_fn"} == {*Keywords.__annotations__}
    assert given["max_trials"].default == 50


def test_the_lines_of_the_readme_pass_in_strict_mode(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    assert blocks
    assert not _findings("\n".join(blocks), tmp_path)


@pytest.mark.parametrize(
    "line",
    [
        "tune('m.onnx', dataloader, eval_fn, max_trails=3)",
        "Tuner(max_trails=3)",
        "Tuner().tune_all({'m': 'm.onnx'}, dataloader, eval_fn, max_trails=3)",
    ],
)
def test_a_misspelt_option_is_found_by_mypy(line: str, tmp_path: Path) -> None:
    assert "max_trails" in _findings(f"from autotune import Tuner, tune\n\n{line}\n", tmp_path)


def test_a_score_may_name_the_class_of_its_model(tmp_path: Path) -> None:
    text = """
from collections.abc import Callable

import autotune


class Module:
    def eval(self) -> None: ...


def of_a_module(model: Module) -> float:
    model.eval()
    return 1.0


def of_a_callable(model: Callable[[np.ndarray], np.ndarray]) -> dict[str, float]:
    return {"top1": float(model(np.zeros(1)).mean())}


autotune.tune(Module(), dataloader, of_a_module)
autotune.Tuner().tune("m.onnx", dataloader, of_a_callable)
"""
    assert not _findings(text, tmp_path)


def test_options_of_another_type_are_found_by_mypy(tmp_path: Path) -> None:
    line = "from autotune import tune\n\ntune('m.onnx', dataloader, eval_fn, max_trials='3', metric=5)\n"
    found = _findings(line, tmp_path)
    assert '"max_trials"' in found
    assert '"metric"' in found


def test_an_unknown_option_is_refused_when_it_is_given() -> None:
    with pytest.raises(TypeError, match=r"no option 'max_trails' \(did you mean 'max_trials'\?\)"):
        tune("m.onnx", [], None, max_trails=3)  # type: ignore[call-arg]  # the point
