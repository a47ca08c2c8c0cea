"""The files of the models that a workspace keeps, whatever an adapter writes."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from autotune.config import QuantizationConfig
from autotune.criterion import Criterion
from autotune.errors import WorkspaceError
from autotune.results.summary import NEAREST
from autotune.trial import Measurement, Trial, TrialState
from autotune.tuning.models import BEST, Models, kept_files
from tests.numpy_adapter import NumpyAdapter

TRIAL = Trial(number=0, config=QuantizationConfig(), state=TrialState.COMPLETED, measurement=Measurement())


class Writing(NumpyAdapter):
    """Writes what a model, here a mapping of endings to text, says; the first is the one that is loaded."""

    suffix = ".xml"

    def save(self, model: Any, path: Path, metadata: Mapping[str, str]) -> tuple[Path, ...]:  # noqa: ARG002
        written = tuple(path.with_suffix(ending) for ending in model)
        for file, text in zip(written, model.values(), strict=True):
            if text is None:
                file.mkdir()
                (file / "inside").write_text("of a folder")
            else:
                file.write_text(text)
        return written


class Full(Writing):
    def save(self, model: Any, path: Path, metadata: Mapping[str, str]) -> tuple[Path, ...]:  # noqa: ARG002
        raise WorkspaceError("no space")


def models(workspace: Path, adapter: Any = None) -> Models[Any]:
    return Models(adapter or Writing(), Criterion(relative=0.01), workspace)


def names(workspace: Path) -> list[str]:
    return sorted(file.name for file in workspace.iterdir() if file.name != "models.json")


def test_a_pair_is_kept_and_the_file_that_is_loaded_comes_first(tmp_path: Path) -> None:
    models(tmp_path).keep_best({".xml": "graph", ".bin": "weights"}, TRIAL)
    assert kept_files(tmp_path, BEST, ".xml") == (tmp_path / "best.xml", tmp_path / "best.bin")
    assert models(tmp_path).has_best()


def test_what_a_new_best_does_not_write_again_goes_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "best.notes.md").write_text("the user's own")
    models(tmp_path).keep_best({".xml": "graph", ".0123.data": "weights"}, TRIAL)
    models(tmp_path).keep_best({".xml": "graph", ".4567.data": "weights", ".assets": None}, TRIAL)
    assert names(tmp_path) == ["best.4567.data", "best.assets", "best.notes.md", "best.xml"]
    models(tmp_path).keep_best({".xml": "graph"}, TRIAL)
    assert names(tmp_path) == ["best.notes.md", "best.xml"]


def test_the_nearest_goes_where_there_is_none_with_all_of_its_files(tmp_path: Path) -> None:
    models(tmp_path).keep_nearest(({".xml": "graph", ".bin": "weights", ".assets": None}, TRIAL))
    assert len(kept_files(tmp_path, NEAREST, ".xml")) == 3
    models(tmp_path).keep_nearest(None)
    assert names(tmp_path) == []
    assert kept_files(tmp_path, NEAREST, ".xml") == ()


def test_a_workspace_without_a_list_is_read_by_name(tmp_path: Path) -> None:
    for name in ("best.npz.0123.data", "best.npz", "best.txt"):
        (tmp_path / name).write_text("of an earlier version")
    assert kept_files(tmp_path, BEST, ".npz") == (tmp_path / "best.npz", tmp_path / "best.npz.0123.data")


def test_the_old_model_stays_where_the_new_one_cannot_be_written(tmp_path: Path) -> None:
    models(tmp_path).keep_best({".xml": "graph", ".bin": "weights"}, TRIAL)
    with pytest.raises(WorkspaceError, match="no space"):
        models(tmp_path, Full()).keep_best({".xml": "new"}, TRIAL)
    assert names(tmp_path) == ["best.bin", "best.xml"]


def test_saving_says_what_was_written(tmp_path: Path) -> None:
    save = models(tmp_path).saver({".xml": "graph", ".bin": "weights"}, TRIAL)
    assert save(tmp_path / "out.xml") == (tmp_path / "out.xml", tmp_path / "out.bin")


def test_a_full_disk_is_told_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WorkspaceError, match=r"models\.json: No space left on device"):
        models(tmp_path).keep_best({".xml": "graph"}, TRIAL)


def test_a_workspace_of_anybody_names_no_file_but_a_models_in_itself(tmp_path: Path) -> None:
    """A run removes what is listed once it writes another model: a list is no way to reach other files."""
    workspace, outside = tmp_path / "outer" / "work", tmp_path / "victim"
    (workspace / "cache").mkdir(parents=True)
    others = [outside, workspace.parent / "beside", workspace / "study.db", workspace / "study.db-journal"]
    for file in (*others, workspace / "report.html", workspace / "owner.json", workspace / ".hidden"):
        file.write_text("precious")
    listed = ["best.xml", "../beside", "../../victim", str(outside), "study.db", "study.db-journal", "report.html"]
    listed += ["cache", "cache/..", "owner.json", ".hidden", ".", "..", "", "a\0b", "a" * 300]
    (workspace / "best.xml").write_text("old")
    (workspace / "models.json").write_text(json.dumps({"best": [*listed, 3, None, ["best.bin"]]}))
    assert kept_files(workspace, BEST, ".xml") == (workspace / "best.xml",)
    models(workspace).keep_best({".xml": "new"}, TRIAL)
    assert all(file.read_text() == "precious" for file in others)
    assert names(workspace) == [
        ".hidden", "best.xml", "cache", "owner.json", "report.html", "study.db", "study.db-journal"
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["[]", "3", "{", '{"best": 3}', '{"best": null}', '{"best": ' + "[" * 100_000, "\0"])
def test_a_damaged_list_counts_for_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "models.json").write_text(text)
    assert kept_files(tmp_path, BEST, ".xml") == ()
    models(tmp_path).keep_best({".xml": "new"}, TRIAL)
    assert names(tmp_path) == ["best.xml"]


def test_a_list_that_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "models.json")
    assert kept_files(tmp_path, BEST, ".xml") == ()
