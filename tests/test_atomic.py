"""Files that take the place of others at once."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from autotune.atomic import replacing, replacing_all


def test_what_was_there_stays_where_the_block_raises(tmp_path: Path) -> None:
    path = tmp_path / "model.xml"
    path.write_text("old")
    with pytest.raises(OSError, match="No space"):
        _write_to_a_full_disk(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_temporary_names_end_as_the_final_ones_and_begin_alike(tmp_path: Path) -> None:
    paths = [tmp_path / "model.bin", tmp_path / "model.xml"]
    with replacing_all(paths) as temporaries:
        assert [each.suffix for each in temporaries] == [".bin", ".xml"]
        assert temporaries[0].stem == temporaries[1].stem
        for each in temporaries:
            each.write_text(each.suffix)
    assert [path.read_text() for path in paths] == [".bin", ".xml"]
    assert sorted(tmp_path.iterdir()) == paths


def test_several_take_their_places_in_the_order_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    placed: list[str] = []
    replace = Path.replace

    def noted(self: Path, target: Path) -> Any:
        placed.append(target.name)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", noted)
    with replacing_all([tmp_path / "weights", tmp_path / "graph"]) as temporaries:
        for each in temporaries:
            each.write_text("new")
        assert not placed
    assert placed == ["weights", "graph"]


def test_a_folder_takes_the_place_of_a_folder(tmp_path: Path) -> None:
    path = tmp_path / "saved_model"
    (path / "variables").mkdir(parents=True)
    (path / "variables" / "old").write_text("old")
    with replacing(path) as temporary:
        temporary.mkdir()
        (temporary / "new").write_text("new")
    assert [file.name for file in path.rglob("*")] == ["new"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_take_its_place_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "saved_model"
    path.mkdir()
    (path / "old").write_text("old")
    replace = Path.replace

    def interrupted(self: Path, target: Path) -> Any:
        if target == path and not self.name.endswith(".old"):
            raise OSError(errno.EIO, "interrupted")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(OSError, match="interrupted"), replacing(path) as temporary:
        temporary.mkdir()
    assert [file.name for file in tmp_path.rglob("*")] == ["saved_model", "old"]


@pytest.mark.parametrize("durable", [True, False])
def test_durable_files_are_on_the_disk_before_they_take_their_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, durable: bool
) -> None:
    path = tmp_path / "file"
    synced: list[bool] = []
    monkeypatch.setattr(os, "fsync", lambda _: synced.append(path.exists()))
    with replacing(path, durable=durable) as temporary:
        temporary.write_text("new")
    assert synced == [False] * durable


def _write_to_a_full_disk(path: Path) -> None:
    with replacing(path) as temporary:
        temporary.write_text("a part of the new one")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("path", [Path(), Path("/"), Path("..") / "."])
def test_a_path_without_a_name_is_no_file_to_write(path: Path) -> None:
    with pytest.raises(OSError, match="Is a directory"), replacing(path):
        pass


def test_a_device_or_a_fifo_is_not_replaced(tmp_path: Path) -> None:
    """Root may, and `-o /dev/null` would be the end of it."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OSError, match="FIFO"), replacing(pipe):
        pass
    assert pipe.is_fifo()
    assert [file.name for file in tmp_path.iterdir()] == ["pipe"]
