"""Both quickstarts, as a user runs them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from autotune.host import current_host

pytestmark = pytest.mark.skipif(
    not current_host().has_vnni, reason="without VNNI, int8 need be neither faster nor as accurate"
)


def run(arguments: list[str], directory: Path, environment: dict[str, str]) -> str:
    finished = subprocess.run(
        [sys.executable, *arguments],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,  # a hang; how long a run takes is the machine's affair
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


def test_yaml_meets_the_target_and_leaves_a_model(quickstart: Path, environment: dict[str, str]) -> None:
    command = ["-m", "autotune", "run", str(quickstart / "quickstart.yaml")]
    # With the file's own 90 seconds a machine that is busy enough tries nothing, and says so with another status.
    limits = ["--set", "tuning.exit_policy.max_trials=3", "--timeout", "800"]
    run([*command, *limits], quickstart.parent, environment)
    assert not list((quickstart / "runs" / "quickstart").glob("nearest.*"))
    written = list((quickstart / "runs" / "quickstart").glob("*.onnx"))
    assert written
    types = {node.op_type for node in onnx.load(written[0]).graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= types


def test_python_meets_the_target_and_leaves_a_model(quickstart: Path, environment: dict[str, str]) -> None:
    output = run([str(quickstart / "quickstart.py")], quickstart.parent, environment)
    assert output.startswith("met: ")
    onnx.checker.check_model(quickstart / "runs" / "digits.tuned.onnx")
