from __future__ import annotations

import json
import os
import re
import tempfile
from pathlib import Path

import pytest

from autotune.owned_folder import OwnedFolder
from autotune.owner import Owner
from tests.tuning.killed import held_by, kill

ROOT = Path(__file__).parents[1]

HOLDING = """
import sys, tempfile
from pathlib import Path
tempfile.tempdir = sys.argv[1]
from autotune.owned_folder import OwnedFolder
folder = OwnedFolder()
(Path(folder.name) / "setup.pickle").touch()
print("held", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("kind", ["pipe", "deep", "altered"])
def test_what_others_leave_in_the_temporary_folder_neither_blocks_nor_ends_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    place = tmp_path / "autotune-theirs" / "owner.json"
    place.parent.mkdir()
    if kind == "pipe":
        os.mkfifo(place)
    else:
        place.write_text("[" * 100_000 if kind == "deep" else json.dumps({**Owner.new().to_json(), "pid": "1"}))
    OwnedFolder().cleanup()
    assert place.exists()


def test_a_folder_of_another_user_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with held_by(HOLDING, tmp_path) as process:
        kill(process)
    before = set(tmp_path.iterdir())
    monkeypatch.setattr("autotune.owned_folder._user", lambda: os.getuid() + 1)
    OwnedFolder().cleanup()
    assert set(tmp_path.iterdir()) == before


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


def test_every_temporary_folder_names_its_owner() -> None:
    """Weights of a large model, profiles and samples lie in some: none may stay behind a process that was killed."""
    found = {
        str(path.relative_to(ROOT))
        for folder in ("autotune", "adapters", "strategies")
        for path in (ROOT / folder).rglob("*.py")
        if re.search(r"\b(TemporaryDirectory|mkdtemp|NamedTemporaryFile|mkstemp)\(", path.read_text(encoding="utf-8"))
    }
    # A converter's program runs without autotune, in a folder of whoever called it.
    assert found == {"autotune/owned_folder.py", "adapters/tensorflow/onnx_program.py"}


def test_weights_of_a_killed_process_are_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    script = HOLDING.replace("OwnedFolder", "TemporaryFolder").replace("folder.name", "folder.path")
    script = script.replace("autotune.owned_folder", "autotune.adapters.onnx.model")
    with held_by(script, tmp_path) as process:
        (left,) = tmp_path.iterdir()
        kill(process)
        assert left.exists()
        with OwnedFolder() as name:
            assert [path.name for path in tmp_path.iterdir()] == [Path(name).name]
    assert not list(tmp_path.iterdir())
