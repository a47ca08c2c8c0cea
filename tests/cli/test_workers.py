"""Several runs of one experiment: in one workspace, or sharing a study."""

from __future__ import annotations

import socket
from pathlib import Path

from tests.cli.conftest import Command
from tests.tuning.killed import held_by

HOLDING = """
import sys
from pathlib import Path
from autotune.tuning.hold import Hold
hold = Hold(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_a_second_run_in_a_workspace_says_who_holds_it(command: Command, experiment: Path, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    with held_by(HOLDING, tmp_path / "work") as process:
        outcome = command("run", experiment)
    assert outcome.status == 2
    assert f"is held by another run: process {process.pid} on {socket.gethostname()}, since " in outcome.err
    assert "autotune worker" in outcome.err
    assert command("run", experiment).status == 0
    assert command("run", experiment).status == 0
