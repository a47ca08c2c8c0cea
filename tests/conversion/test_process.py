"""A conversion in a process: what it is given, what it leaves, and what is said where it fails."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autotune.adapter import Example
from autotune.conversion import Converted, ConverterTool, convert
from autotune.errors import DataError, MissingDependencyError, ModelError

X = np.arange(6, dtype=np.float32).reshape(2, 3)


def run(tool: ConverterTool, example: Example | None = None, **request: Any) -> Converted:
    return convert(tool, lambda _: {"inputs": ["x"], **request}, example, "model.toy")


def test_without_data_nothing_is_run(tool: ConverterTool) -> None:
    found = run(tool)
    assert (found.onnx, found.feeds, found.expected) == (b"onnx of x", None, None)
    assert found.notes == ["no data were seen"]


@pytest.mark.parametrize("item", [X, (X, np.zeros(2)), (X,), {"x": X}, ({"x": X, "other": X}, np.zeros(2))])
def test_the_framework_runs_on_the_first_batch_without_labels(tool: ConverterTool, item: object) -> None:
    found = run(tool, Example([item, None]))
    assert found.feeds is not None
    assert found.expected is not None
    np.testing.assert_array_equal(found.feeds["x"], X)
    np.testing.assert_array_equal(found.expected[0], 2 * X)
    assert found.notes == ["data were seen"]


@pytest.mark.parametrize("item", [(X, 10 * X), {"b": 10 * X, "a": X}, ((X, 10 * X), np.zeros(2))])
def test_a_pair_is_two_inputs_where_the_model_has_two(tool: ConverterTool, item: object) -> None:
    found = run(tool, Example([item]), inputs=["a", "b"])
    assert found.feeds is not None
    assert list(found.feeds) == ["a", "b"]
    np.testing.assert_array_equal(found.feeds["b"], 10 * X)


@pytest.mark.parametrize("name", ["file", "allow_pickle", "serving_default_x:0", "a/b c", "0"])
def test_any_name_of_an_input_comes_through(tool: ConverterTool, name: str) -> None:
    found = run(tool, Example([{name: X}]), inputs=[name])
    assert found.feeds is not None
    assert list(found.feeds) == [name]


def test_request_may_write_files_for_the_program(tool: ConverterTool) -> None:
    def request(folder: Path) -> Mapping[str, Any]:
        (folder / "weights").write_bytes(b"1")
        return {"inputs": ["x"]}

    assert convert(tool, request, None, "model.toy").inputs == ["x"]


@pytest.mark.parametrize(
    ("request_", "item", "kind", "message"),
    [
        ({"fail": "no rule for Cumsum"}, X, ModelError, r"model\.toy.*toy2onnx.*no rule for Cumsum.*framework: toy"),
        ({"fail": "it ends in dots. ."}, X, ModelError, r"ends in dots\. Replace"),
        ({"crash": True}, X, ModelError, "SIGABRT"),
        ({"quit": True}, X, ModelError, "status 3: no room left"),
        ({"lacks": True}, X, MissingDependencyError, "no_such_module.*autotune converter install toy"),
        ({}, {"z": X}, DataError, "it reads x, and a batch has no x"),
        ({"inputs": ["a", "b"]}, X, DataError, r"it reads 2 inputs \(a, b\), and a batch has 1"),
        ({"refuse": True}, X, DataError, "a shape is wrong"),
    ],
)
def test_each_failure_is_told_as_what_it_is(
    tool: ConverterTool, request_: Mapping[str, Any], item: object, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        run(tool, Example([item]), **request_)
