"""Places that users name for what is written."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from autotune.errors import WorkspaceError
from autotune.tuning.storage import require_writable
from tests.cli.conftest import Command

WRITING = (
    ("run", "experiment.yaml"),
    ("export", "experiment.yaml"),
    ("apply", "experiment.yaml"),
    ("init", "network.npz"),
)
"""Commands that write a file to `--output`, with what they read."""


@pytest.mark.parametrize("arguments", [*WRITING, ("report", "work")], ids=lambda each: each[0])
@pytest.mark.parametrize("output", ["", ".", "..", "/", "pipe", "/dev/null", "a" * 5_000])
def test_what_is_no_place_for_a_file_is_refused_before_anything_is_done(
    command: Command, experiment: Path, arguments: tuple[str, str], output: str
) -> None:
    os.mkfifo(experiment.parent / "pipe")
    outcome = command(*arguments, "--output", output, *(("--force",) if arguments[0] == "init" else ()))
    assert outcome.status == 2
    assert "`--output`" in outcome.err
    assert Path("/dev/null").is_char_device()
    assert not (experiment.parent / "work").exists()


@pytest.mark.parametrize("arguments", WRITING[:3], ids=lambda each: each[0])
def test_a_folder_that_is_missing_is_told_before_hours_are_spent(
    command: Command, experiment: Path, arguments: tuple[str, str]
) -> None:
    outcome = command(*arguments, "--output", "nothing/model.npz")
    assert outcome.status == 2
    assert "Make nothing first" in outcome.err
    assert not (experiment.parent / "work").exists()


@pytest.mark.parametrize("name", ["run", "worker"])
def test_an_empty_workspace_is_not_the_working_directory(command: Command, experiment: Path, name: str) -> None:
    before = set(experiment.parent.iterdir())
    outcome = command(name, "experiment.yaml", "--workspace", "")
    assert outcome.status == 2
    assert '`--workspace` must name a folder, but got ""' in outcome.err
    assert set(experiment.parent.iterdir()) == before


def test_a_name_that_is_no_utf_8_is_written_and_shown(command: Command, experiment: Path) -> None:
    assert command("run", "experiment.yaml").status == 0
    outcome = command("report", "work", "--output", "report-\udc80.html")
    assert outcome.status == 0, outcome.err
    assert r"report-\udc80.html" in outcome.out
    assert len(list(experiment.parent.glob("report-*.html"))) == 1


@pytest.mark.parametrize(
    "arguments", [("init", "network.npz", "--framework", "numpy"), ("schema",)], ids=lambda each: each[0]
)
def test_a_file_that_finds_no_room_is_not_there_at_all(
    command: Command, experiment: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    write = Path.write_text

    def full(path: Path, text: str, **options: Any) -> int:
        write(path, text[:10], **options)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (experiment.parent / "old.yaml").write_text("old")
    before = sorted(experiment.parent.iterdir())
    monkeypatch.setattr(Path, "write_text", full)
    for output in ("new.yaml", "old.yaml"):
        outcome = command(*arguments, "--output", output, *(("--force",) if arguments[0] == "init" else ()))
        assert outcome.status == 2
        assert "No space left on device. Choose another place" in outcome.err
    assert sorted(experiment.parent.iterdir()) == before
    assert (experiment.parent / "old.yaml").read_text() == "old"


def test_a_probe_of_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, _data: bytes) -> int:
        path.touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(WorkspaceError, match="No space left"):
        require_writable(tmp_path / "work")
    assert not list((tmp_path / "work").iterdir())
