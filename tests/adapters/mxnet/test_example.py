"""The example, as a user runs it."""

from __future__ import annotations

from pathlib import Path

from tests.adapters.examples import run_example


def test_it_trains_tunes_and_leaves_a_model(tmp_path: Path) -> None:
    stdout, stderr = run_example("mxnet", tmp_path)
    assert stderr == ""
    assert "accuracy" in stdout
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == [
        "digits.tuned-0000.params",
        "digits.tuned-symbol.json",
    ]
