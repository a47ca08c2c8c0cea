"""Runs on modules that were killed in the middle of a trial go on, and evaluate nothing twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.adapters.pytorch import interrupted

ROOT = Path(__file__).parents[3]


@pytest.fixture
def inductor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for what Inductor compiles."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    return tmp_path / "inductor"


def run(runtime: str, folder: Path, where: str = "never") -> subprocess.CompletedProcess[str]:
    """Start the script, which works in ``folder``."""
    workspace = folder if where.startswith("training") else folder / "work"
    return subprocess.run(
        [
            sys.executable,
            "-c",
            f"from {interrupted.__name__} import main; main()",
            runtime,
            workspace,
            folder / "log",
            where,
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("runtime", "where", "finished"),
    [("onnxruntime", "evaluation:2", 1), ("pytorch", "compilation:2", 2)],  # compilation 1 is that of fp32
)
def test_a_killed_run_on_a_module_goes_on(
    runtime: str, where: str, finished: int, inductor: Path, tmp_path: Path
) -> None:
    assert not inductor.exists()
    killed = run(runtime, tmp_path, where)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    log, whole_log = tmp_path / "log", tmp_path / "whole.log"
    assert len(log.read_text().splitlines()) == finished
    resumed = run(runtime, tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    whole = interrupted.told(interrupted.tune(runtime, str(tmp_path / "whole"), str(whole_log)))
    assert json.loads(resumed.stdout.splitlines()[-1]) == whole
    assert len(whole["trials"]) >= 2
    # An evaluation that had ended while its trial had not, which was being compiled, is made anew.
    again = 1 if where.startswith("compilation") else 0
    assert len(log.read_text().splitlines()) == len(whole_log.read_text().splitlines()) + again


def test_training_that_was_killed_goes_on_from_its_own_checkpoint(tmp_path: Path) -> None:
    for name in ("killed", "whole"):
        (tmp_path / name).mkdir()
    killed = run("onnxruntime", tmp_path / "killed", "training:2")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not list((tmp_path / "killed" / "work" / "cache").glob("trained-*.pt"))
    interrupted.tune_and_train(tmp_path / "killed")
    interrupted.tune_and_train(tmp_path / "whole")
    assert (tmp_path / "killed" / "checkpoint.steps").read_text().split() == ["1", "2", "3", "4"]
    kept = {}
    for name in ("killed", "whole"):
        (file,) = (tmp_path / name / "work" / "cache").glob("trained-*.pt")
        kept[name] = torch.load(file)
    assert kept["killed"].keys() == kept["whole"].keys()
    # Both sum on the same number of threads, though not of necessity in one order.
    torch.testing.assert_close(kept["killed"], kept["whole"], rtol=1e-4, atol=1e-6)
    again = interrupted.tune_and_train(tmp_path / "killed")
    assert (tmp_path / "killed" / "checkpoint.steps").read_text().split() == ["1", "2", "3", "4"]
    assert [trial.config.trained for trial in again.history] == [False, False, True]


@pytest.mark.usefixtures("inductor")
def test_no_more_is_compiled_than_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []
    compile_it = torch._inductor.aoti_compile_and_package

    def counted(*arguments: Any, package_path: str, **options: Any) -> Any:
        compiled.append(package_path)
        return compile_it(*arguments, package_path=package_path, **options)

    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", counted)
    log = str(tmp_path / "log")
    result = interrupted.tune("pytorch", str(tmp_path / "work"), log, max_trials=3, max_compilations=1)
    assert len(compiled) == 2, "fp32 and one candidate"
    assert "max_compilations: 1" in result.end_reason
    assert len(result.history) == 2
