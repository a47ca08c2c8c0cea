"""Any command line is obeyed, or refused with a message: nobody sees a traceback."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autotune.cli import main
from autotune.cli.commands import COMMANDS

_WORDS = (
    *COMMANDS,
    *(
        "--help",
        "--version",
        "--json",
        "--set",
        "--workspace",
        "--trust",
        "--fresh",
        "--threads",
        "--output",
        "-o",
        "--",
    ),
    *(
        "list",
        "",
        " ",
        ".",
        "..",
        "/",
        "/dev/null",
        "folder",
        "~nosuchuser/x",
        "a" * 5000,
        "x=1",
        "tuning.objective=size",
    ),
    *("nothing.onnx", "nothing.yaml", "nothing.npz", "empty.onnx", "empty.yaml"),
    *("tuning.x", "=", "0", "-1", "1e400", "nan", "é", "a\0b", "\udc80"),
)


@settings(max_examples=120, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(arguments=st.lists(st.sampled_from(_WORDS) | st.text(max_size=4), max_size=5))
def test_any_arguments_are_obeyed_or_refused(tmp_path_factory: pytest.TempPathFactory, arguments: list[str]) -> None:
    folder = tmp_path_factory.getbasetemp() / "any"
    (folder / "folder").mkdir(parents=True, exist_ok=True)
    for name in ("empty.onnx", "empty.yaml"):
        (folder / name).touch()
    status, told = _status_of(arguments, folder)
    assert status in (0, 2), (arguments, status, told)
    assert "Traceback" not in told, arguments
    assert status == 0 or told.strip(), arguments


def _status_of(arguments: list[str], folder: Path) -> tuple[object, str]:
    """Exit status of a command line in a folder, and what it writes."""
    before, told = Path.cwd(), io.StringIO()
    os.chdir(folder)
    try:
        with (
            mock.patch.object(sys, "argv", ["autotune", *arguments]),
            mock.patch.object(sys, "path", list(sys.path)),
            contextlib.redirect_stderr(told),
            contextlib.redirect_stdout(told),
            pytest.raises(SystemExit) as ended,
        ):
            main()
    finally:
        os.chdir(before)
    return ended.value.code, told.getvalue()
