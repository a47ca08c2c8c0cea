"""A conversion in a process: what it is given, what it leaves, and what is said where it fails."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from autotune.adapter import Example
from autotune.conversion import Converted, ConverterTool, convert, until
from autotune.errors import DataError, DeadlineReached, MissingDependencyError, ModelError

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
        ({"asks": True}, X, ModelError, "EOF when reading a line"),
        ({"lacks": True}, X, MissingDependencyError, "no_such_module.*autotune converter install toy"),
        ({}, {"z": X}, DataError, "it reads x, and a batch has no x"),
        ({"inputs": ["a", "b"]}, X, DataError, "its inputs are a, b, and a batch has 1"),
        ({"refuse": True}, X, DataError, "a shape is wrong"),
    ],
)
def test_each_failure_is_told_as_what_it_is(
    tool: ConverterTool, request_: Mapping[str, Any], item: object, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        run(tool, Example([item]), **request_)


HANGING = """
import sys
from pathlib import Path
from autotune.conversion import ConverterTool, convert
program, hang = sys.argv[1:]
tool = ConverterTool(name="toy", title="toy2onnx", program=Path(program), modules=("json",), requirements=())
convert(tool, lambda _: {"inputs": ["x"], "hang": hang}, None, "model.toy")
"""


def started(path: Path) -> list[psutil.Process]:
    """The converter that has begun to hang, and the process that it started."""
    begun = Path(f"{path}.started")
    while not begun.exists():
        time.sleep(0.01)
    return [psutil.Process(int(each)) for each in begun.read_text().split()]


def ended(processes: list[psutil.Process]) -> bool:
    """Whether all are gone, or dead and not yet collected by the system's first process."""
    _, left = psutil.wait_procs(
        [each for each in processes if each.is_running() and each.status() != psutil.STATUS_ZOMBIE], timeout=60
    )
    return all(each.status() == psutil.STATUS_ZOMBIE for each in left)


@pytest.mark.skipif(sys.platform == "win32", reason="groups of processes are those of POSIX")
def test_a_converter_that_hangs_is_ended_with_all_that_it_started(
    tool: ConverterTool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait, found = subprocess.Popen.wait, list[psutil.Process]()

    def expired(process: Any, timeout: float | None = None) -> int:
        if timeout is None:
            return wait(process)
        found.extend(started(tmp_path / "hang"))
        raise subprocess.TimeoutExpired("toy2onnx", timeout)

    monkeypatch.setattr(subprocess.Popen, "wait", expired)
    with until(time.monotonic() + 600), pytest.raises(DeadlineReached, match=r"toy2onnx had not made.*model\.toy"):
        run(tool, hang=str(tmp_path / "hang"))
    assert len(found) == 2
    assert ended(found)


def test_no_converter_runs_once_the_time_is_up(tool: ConverterTool) -> None:
    with until(time.monotonic()), pytest.raises(DeadlineReached, match="its time was up"):
        run(tool)
    assert run(tool).onnx  # the deadline is that of the block alone


@pytest.mark.skipif(sys.platform == "win32", reason="groups of processes are those of POSIX")
def test_a_converter_ends_with_the_process_that_asked(tool: ConverterTool, tmp_path: Path) -> None:
    hang = tmp_path / "hang"
    asking = subprocess.Popen([sys.executable, "-c", HANGING, str(tool.program), str(hang)])
    try:
        found = started(hang)
    finally:
        asking.kill()
        asking.wait()
    assert ended(found)


def test_what_a_converter_says_at_length_does_not_stop_it(tool: ConverterTool) -> None:
    tool.program.write_text("print('x' * 1_000_000)\n" + tool.program.read_text())
    assert run(dataclasses.replace(tool)).onnx
