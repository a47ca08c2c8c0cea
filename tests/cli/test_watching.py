"""A run watched by programs, by a log, or from Python."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import autotune
from autotune.cli.json_lines import JsonLines
from autotune.watching import Several
from tests.cli.conftest import Command
from tests.numpy_framework import NumpyModel


def test_json_is_an_object_per_line_and_ends_with_the_result(command: Command, experiment: Path) -> None:
    outcome = command("run", experiment, "--max-trials", 2, "--json")
    assert outcome.status == 0, outcome
    events = [json.loads(line) for line in outcome.out.splitlines()]
    kinds = [event["event"] for event in events]
    assert {"phase", "trial_started", "trial_finished"} <= set(kinds)
    assert [event["number"] for event in events if event["event"] == "trial_finished"] == [0, 1, 2]
    assert kinds.count("result") == 1
    assert kinds[-1] == "result"
    assert events[-1]["verdict"] == "met"
    assert Path(events[-1]["report"]).is_file()
    assert all(Path(file).exists() for file in events[-1]["model"])


def test_quiet_prints_the_verdict_and_the_files(command: Command, experiment: Path) -> None:
    outcome = command("run", experiment, "--max-trials", 1, "--quiet")
    assert outcome.status == 0, outcome
    first, *rest = outcome.out.splitlines()
    assert first.startswith("Target met")
    assert [line.split(":")[0] for line in rest] == ["Model", "Report"]


def test_quiet_and_json_exclude_each_other(command: Command, experiment: Path) -> None:
    outcome = command("run", experiment, "--quiet", "--json")
    assert outcome.status == 2
    assert "not both" in outcome.err


def test_json_has_no_infinity() -> None:
    lines: list[str] = []
    JsonLines(lines.append).event("x", value=[float("inf"), {"a": float("nan")}, 1.5])
    assert json.loads(lines[0]) == {"event": "x", "value": [None, {"a": None}, 1.5]}


OPTIONS: dict[str, Any] = {
    "framework": "numpy", "strategy": "random", "max_trials": 1, "warmup": 1, "latency_max_s": 0.05,
    "criterion": autotune.Criterion(relative=0.5),
}  # fmt: skip


def test_progress_from_python_goes_to_standard_error(
    network: NumpyModel, images: Sequence[Any], score: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    autotune.tune(network, images, score, progress=True, **OPTIONS)
    shown = capsys.readouterr()
    assert not shown.out
    assert "Searching" in shown.err
    autotune.tune(network, images, score, **OPTIONS)
    assert not capsys.readouterr().err


def test_progress_does_not_silence_the_observer(network: NumpyModel, images: Sequence[Any], score: Any) -> None:
    seen: list[str] = []

    class Watching(autotune.Observer):
        def phase(self, name: str, detail: str = "") -> None:  # noqa: ARG002
            seen.append(name)

    autotune.tune(network, images, score, progress=True, observer=Watching(), **OPTIONS)
    assert "search" in seen


def test_a_run_is_logged(
    network: NumpyModel, images: Sequence[Any], score: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="autotune"):
        autotune.tune(network, images, score, **OPTIONS)
    assert any(record.message == "search" for record in caplog.records)
    assert sum(record.message.startswith("trial ") for record in caplog.records) == 2


def test_every_event_is_passed_on() -> None:
    """An event that Observer learns later must be passed on as well."""
    events = [name for name, value in vars(autotune.Observer).items() if callable(value) and name[0] != "_"]
    assert set(events) <= set(vars(Several))
