"""``autotune explain`` and ``autotune diff``."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from autotune.cli.explain import lines_of
from autotune.results.report.ops import op_rows
from autotune.results.summary import read_summary
from tests.cli.conftest import Command


@pytest.fixture
def workspace(command: Command, experiment: Path, tmp_path: Path) -> Path:
    assert command("run", experiment, "--max-trials", 2).status == 0
    return tmp_path / "work"


def test_an_op_is_explained_with_its_figures(command: Command, workspace: Path) -> None:
    outcome = command("explain", workspace, "dense_1")
    assert outcome.status == 0, outcome
    head, *lines = outcome.out.splitlines()
    assert head == "dense_1 (Dense)"
    for expected in ("in the answer:", "why:", "noise to signal", "one call:", "price of fp32", "trials:", "reads "):
        assert any(line.strip().startswith(expected) for line in lines), expected


def test_a_part_of_a_name_is_enough_where_it_is_of_one_op(command: Command, workspace: Path) -> None:
    assert command("explain", workspace, "hea").out.startswith("head (Dense)")
    several = command("explain", workspace, "dense")
    assert several.status == 2
    assert "dense_0, dense_1, dense_2" in several.err
    none = command("explain", workspace, "dens_1")
    assert none.status == 2
    assert "Did you mean 'dense_1'?" in none.err


@pytest.mark.parametrize("name", ["nothing like it", ""])
def test_a_name_that_is_like_none_lists_some(command: Command, workspace: Path, name: str) -> None:
    outcome = command("explain", workspace, name)
    assert outcome.status == 2
    assert "dense_0, dense_1" in outcome.err


def test_a_price_is_gained_where_fp32_is_faster(workspace: Path) -> None:
    summary = read_summary(workspace)
    row = op_rows(summary)[0]
    in_fp32 = dataclasses.replace(row, quantized=False, price_ends_ms=(-0.3, -0.1), price_ms=-0.2)
    assert "price of fp32 in one call: -0.200 ms (-0.300 to -0.100 ms), which is gained already" in "\n".join(
        lines_of(in_fp32, summary)
    )
    paid = dataclasses.replace(in_fp32, price_ms=0.2, price_ends_ms=None)
    assert "price of fp32 in one call: +0.200 ms, which is paid already" in "\n".join(lines_of(paid, summary))


def test_two_trials_are_compared(command: Command, workspace: Path) -> None:
    outcome = command("diff", f"{workspace}:1", f"{workspace}:2")
    assert outcome.status == 0, outcome
    first, second = read_summary(workspace).history[1:3]
    for line in first.config.diff(second.config).splitlines():
        assert line in outcome.out
    assert "Speedup" in outcome.out


def test_a_workspace_is_equal_to_itself_and_to_its_config(command: Command, workspace: Path, tmp_path: Path) -> None:
    stored = tmp_path / "config.json"
    stored.write_text(json.dumps(read_summary(workspace).best.config.to_json()))
    for other in (workspace, stored):
        outcome = command("diff", workspace, other)
        assert outcome.status == 0, outcome
        assert "The configs are equal." in outcome.out


def test_configs_of_models_without_a_common_op_are_called_so(command: Command, workspace: Path, tmp_path: Path) -> None:
    config = read_summary(workspace).best.config
    renamed = dataclasses.replace(config, ops={f"{op}_of_another": choice for op, choice in config.ops.items()})
    stored = tmp_path / "config.json"
    stored.write_text(json.dumps(renamed.to_json()))
    assert "No op is in both" in command("diff", workspace, stored).out
    stored.write_text(json.dumps(config.to_json()))
    assert "No op is in both" not in command("diff", workspace, stored).out


@pytest.mark.parametrize("other", ["missing.json", "network.npz", "work:99"])
def test_what_is_no_config_is_an_error(command: Command, workspace: Path, other: str) -> None:
    outcome = command("diff", workspace, other)
    assert outcome.status == 2
    assert "must" in outcome.err
