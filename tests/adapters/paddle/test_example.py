"""The example, as a user runs it."""

from __future__ import annotations

from pathlib import Path

from tests.adapters.examples import run_example


def test_it_trains_tunes_and_leaves_a_model(tmp_path: Path) -> None:
    stdout, stderr = run_example("paddle", tmp_path)
    told = [line for line in stderr.splitlines() if "[    INFO]" not in line]
    assert not told, "Paddle's handler of the root logger, which its import in the example sets, shows every event"
    assert "agrees with the one that was trained on" in stdout
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == [
        "digits.tuned.pdiparams",
        "digits.tuned.pdmodel",
    ]
