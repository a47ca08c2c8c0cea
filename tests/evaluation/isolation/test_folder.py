from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from autotune.evaluation.isolation.folder import OwnedFolder
from tests.tuning.killed import held_by, kill

HOLDING = """
import sys, tempfile
from pathlib import Path
tempfile.tempdir = sys.argv[1]
from autotune.evaluation.isolation.folder import OwnedFolder
folder = OwnedFolder()
(Path(folder.name) / "setup.pickle").touch()
print("held", flush=True)
sys.stdin.read()
"""


def test_the_folder_of_a_killed_run_is_swept_and_that_of_a_living_one_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "autotune-of-a-user").mkdir()
    with held_by(HOLDING, tmp_path) as process:
        theirs = {path.parent.name for path in tmp_path.glob("*/setup.pickle")}
        own = OwnedFolder()
        OwnedFolder().cleanup()
        assert {path.name for path in tmp_path.iterdir()} == {*theirs, Path(own.name).name, "autotune-of-a-user"}
        kill(process)
        OwnedFolder().cleanup()
        assert {path.name for path in tmp_path.iterdir()} == {Path(own.name).name, "autotune-of-a-user"}
    own.cleanup()
