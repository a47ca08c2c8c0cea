from __future__ import annotations

import dataclasses
import json
import os
import re
import socket
from pathlib import Path

import psutil
import pytest

from autotune.errors import WorkspaceError
from autotune.owner import Owner
from autotune.tuning.claims import GRACE_S
from autotune.tuning.hold import OWNER_FILE, Hold
from tests.tuning.killed import held_by, kill

HOLDING = """
import sys
from pathlib import Path
from autotune.tuning.hold import Hold
hold = Hold(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_the_holder_is_named_and_a_killed_one_is_none(tmp_path: Path) -> None:
    with held_by(HOLDING, tmp_path) as process:
        named = rf"process {process.pid} on {re.escape(socket.gethostname())}, since \d{{4}}-\d\d-\d\dT"
        with pytest.raises(WorkspaceError, match=named):
            Hold(tmp_path)
        kill(process)
        hold = Hold(tmp_path)
    with pytest.raises(WorkspaceError, match=f"process {os.getpid()} "):
        Hold(tmp_path)
    hold.release()
    Hold(tmp_path).release()
    assert not (tmp_path / OWNER_FILE).exists()


def test_a_process_that_has_the_id_of_a_dead_one_holds_nothing(tmp_path: Path) -> None:
    Hold(tmp_path)
    path = tmp_path / OWNER_FILE
    later = Owner.new()
    earlier = dataclasses.replace(later, pid=os.getppid(), started=later.started - 1e6)
    path.write_text(json.dumps(earlier.to_json()))
    Hold(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"pid": 1}', "null"])
def test_a_file_that_names_nobody_holds_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / OWNER_FILE).write_text(text)
    Hold(tmp_path)


def test_a_holder_on_another_machine_is_known_by_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new = Owner.new
    with monkeypatch.context() as patch:
        patch.setattr(Owner, "new", lambda: dataclasses.replace(new(), machine="another", host="another"))
        Hold(tmp_path)
    with pytest.raises(WorkspaceError, match="on another, since"):
        Hold(tmp_path)
    path = tmp_path / OWNER_FILE
    then = path.stat().st_mtime - GRACE_S - 1
    os.utime(path, (then, then))
    hold = Hold(tmp_path)
    hold.release()


def test_one_that_was_taken_for_dead_does_not_free_the_workspace_of_its_successor(tmp_path: Path) -> None:
    first = Hold(tmp_path)
    first._owner.end()  # what a process that ends does
    second = Hold(tmp_path)
    first.release()
    with pytest.raises(WorkspaceError):
        Hold(tmp_path)
    second.release()


def test_a_living_holder_is_known_whatever_happens_to_the_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with held_by(HOLDING, tmp_path):
        moved = 1e6 if Path("/proc/self/stat").exists() else 0.0
        start = psutil.Process.create_time
        monkeypatch.setattr(psutil.Process, "create_time", lambda process: start(process) + moved)
        with pytest.raises(WorkspaceError):
            Hold(tmp_path)


ALTERED: list[object] = [
    [], 3, None, "text", {}, {"pid": 1}, *({**Owner.new().to_json(), key: value} for key, value in (
        ("pid", "1"), ("pid", True), ("pid", None), ("pid", 1.5), ("started", "0"), ("token", 3), ("machine", None),
        ("host", []), ("since", {}), ("further", "x"),
    )),
]  # fmt: skip


@pytest.mark.parametrize("altered", ALTERED, ids=str)
def test_a_file_that_names_no_owner_holds_nothing(tmp_path: Path, altered: object) -> None:
    (tmp_path / OWNER_FILE).write_text(json.dumps(altered))
    Hold(tmp_path).release()


@pytest.mark.parametrize("pid", [-1, 0, 2**31, 2**64, 10**30])
def test_a_process_that_cannot_be_holds_nothing(tmp_path: Path, pid: int) -> None:
    (tmp_path / OWNER_FILE).write_text(json.dumps({**Owner.new().to_json(), "pid": pid, "started": -1.0}))
    Hold(tmp_path).release()


def test_an_owner_file_that_is_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / OWNER_FILE)
    with pytest.raises(WorkspaceError, match="It is a FIFO"):
        Hold(tmp_path)
    (tmp_path / OWNER_FILE).unlink()
    (tmp_path / OWNER_FILE).write_text("[" * 100_000)
    Hold(tmp_path).release()
