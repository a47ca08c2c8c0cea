"""Damaged experiments and models: each is refused with a message, or runs; none ends in a traceback or hangs."""

from __future__ import annotations

import os
import random
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

import pytest

from autotune.cli import main
from tests.adapters.fuzz.corpus import damage, sound

SEEDS = range(int(os.environ.get("AUTOTUNE_FUZZ_FROM", "0")), int(os.environ.get("AUTOTUNE_FUZZ_TO", "60")))
"""1,000 of them take minutes: ``AUTOTUNE_FUZZ_TO=1000 pytest tests/adapters/fuzz`` runs them all."""

_HANGS_AFTER_S = 120


def _hangs(_signal: int, _frame: Any) -> NoReturn:
    raise TimeoutError("it hangs")


def test_what_is_damaged_runs_when_it_is_sound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Otherwise every case below would be refused for the same reason."""
    sound(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["autotune", "run", "experiment.yaml"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code in (0, 3), capsys.readouterr().err


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", SEEDS)
def test_a_damaged_experiment_is_refused_or_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], seed: int
) -> None:
    os.mkfifo(tmp_path / "pipe")
    way = damage(tmp_path, random.Random(seed))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "argv", ["autotune", "run", "experiment.yaml"])
    signal.signal(signal.SIGALRM, _hangs)
    signal.alarm(_HANGS_AFTER_S)
    try:
        with pytest.raises(SystemExit) as ended:
            main()
    finally:
        signal.alarm(0)
    err = capsys.readouterr().err
    assert ended.value.code in (0, 2, 3), f"{way}: {ended.value.code}\n{err}"
    assert "Traceback" not in err, f"{way}\n{err}"
    assert ended.value.code != 2 or err.strip(), f"{way}: no message"
