"""``autotune run --start-from``: the status says whether last week's answer is confirmed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Command
from tests.conftest import dense_network
from tests.numpy_adapter import NumpyAdapter


@pytest.fixture
def last(command: Command, experiment: Path, tmp_path: Path) -> Path:
    """The workspace of last week's run; the model has been trained again since."""
    assert command("run", experiment, "--workspace", "last").status == 0
    NumpyAdapter().save(dense_network(3), tmp_path / "network.npz", {})
    return tmp_path / "last"


def test_a_confirmed_config_ends_with_0(command: Command, experiment: Path, last: Path) -> None:
    # Labels are last week's network's, of which the new one keeps a tenth: any int8 model of it keeps the target.
    outcome = command("run", experiment, "--start-from", last, "--set", "tuning.exit_policy.when_confirmed=true")
    assert outcome.status == 0, outcome
    assert f"Confirmed: the config of {last} keeps the target" in outcome.out
    assert "nothing else was tried" in outcome.out


def test_a_refuted_config_ends_with_4_where_another_meets_the_target(
    command: Command, experiment: Path, last: Path, tmp_path: Path
) -> None:
    module = "scores_of_start"
    (tmp_path / f"{module}.py").write_text(
        "calls = 0\n\ndef evaluate(model):\n    global calls\n    calls += 1\n    return 0.1 if calls == 2 else 1.0\n"
    )
    text = experiment.read_text()
    start, end = text.index("  accuracy:"), text.index("  isolation:")
    experiment.write_text(f'{text[:start]}  accuracy: {{function: "{module}:evaluate"}}\n{text[end:]}')
    outcome = command("run", experiment, "--start-from", f"{last}:1", "--max-trials", 3, "--quiet")
    assert outcome.status == 4, outcome
    assert f"Refuted: the config of {last}:1 (trial 1): it misses the target." in outcome.out
    again = command("run", experiment, "--start-from", f"{last}:1", "--max-trials", 3, "--json")
    result = json.loads(again.out.splitlines()[-1])
    assert again.status == 4
    assert (result["started_from"]["verdict"], result["started_from"]["trial"]) == ("missed", 1)


def test_a_missed_target_stays_3(command: Command, experiment: Path, last: Path) -> None:
    outcome = command(
        "run", experiment, "--start-from", last, "--set", "tuning.accuracy_criterion={absolute: 0}",
        "--set", "evaluation.accuracy.metric=cosine", "--set", "evaluation.accuracy.k=null", "--max-trials", 1,
    )  # fmt: skip
    assert outcome.status in (2, 3), outcome


def test_what_is_not_there_is_bad_input(command: Command, experiment: Path) -> None:
    outcome = command("run", experiment, "--start-from", "nowhere")
    assert (outcome.status, "there is nothing of that name" in outcome.err) == (2, True), outcome
