"""The file with the fp32 model's records: plain data that cannot run code, and where damaged it is no file."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.evaluation.accuracy.metrics import create_metric
from autotune.evaluation.accuracy.records import RecordCache, Records
from autotune.evaluation.accuracy.stored_records import read_tree, write_tree

_LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.sampled_from(
        [np.float32(2.5), np.int64(3), np.zeros((0, 4)), np.arange(6).reshape(2, 3), np.array(["a", "bc"])]
    )
)
_TREES = st.recursive(
    _LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.integers() | st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


def same(one: Any, other: Any) -> bool:
    """Whether two trees are alike, types included."""
    if type(one) is not type(other):
        return False
    if isinstance(one, np.ndarray):
        alike = one.shape == other.shape and one.dtype == other.dtype
        return alike and all(same(*pair) for pair in zip(one.ravel(), other.ravel(), strict=True))
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(same(*pair) for pair in zip(one, other, strict=True))
    return bool(one == other)


@given(tree=_TREES)
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, tree: Any) -> None:
    path = tmp_path_factory.mktemp("tree") / "tree.npz"
    write_tree(path, tree)
    assert same(read_tree(path), tree)


def records() -> Records:
    rows = np.empty(2, object)
    rows[0], rows[1] = ({1: 2}, {1: (np.ones(3), np.zeros((2, 3), bool))}), ({}, {})
    return Records(
        samples=np.arange(2),
        records={"m": np.array([[0.5], [1.0]]), "map": rows},
        references={"m": np.ones((2, 3), np.float32)},
        difficulty=np.array([0.1, 0.2]),
    )


def written(folder: Path) -> Path:
    RecordCache(folder, "key").write("data", records())
    (path,) = folder.iterdir()
    return path


def test_records_of_every_kind_come_back(tmp_path: Path) -> None:
    written(tmp_path)
    found = RecordCache(tmp_path, "key").read("data")
    assert found is not None
    for name in ("samples", "records", "references", "difficulty"):
        assert same(getattr(found, name), getattr(records(), name)), name


@pytest.mark.parametrize(
    ("name", "outputs", "labels"),
    [
        ("topk", (np.eye(2),), np.arange(2)),
        ("map", (np.array([[[0.0, 0.0, 1.0, 1.0]]] * 2), np.ones((2, 1)), np.zeros((2, 1))),
         [{"boxes": [[0.0, 0.0, 1.0, 1.0]], "labels": [0]}] * 2),
        ("figure", (np.eye(2),), {"answer": ["yes", "no"], "span": np.ones((2, 2))}),
    ],
)  # fmt: skip
def test_the_records_of_metrics_are_plain_data(tmp_path: Path, name: str, outputs: Any, labels: Any) -> None:
    if name == "figure":
        metric = create_metric(name, function=lambda _outputs, labels: float(labels["answer"] == ["yes", "no"]))
    else:
        metric = create_metric(name)
    rows = metric.records(outputs, labels, None)
    made = Records(samples=np.arange(2), records={name: rows}, references={}, difficulty=None)
    cache = RecordCache(tmp_path, "key")
    cache.write("data", made)
    found = cache.read("data")
    assert found is not None
    assert metric.figure(found.records[name]) == metric.figure(rows)


def test_records_keep_the_limit_of_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOTUNE_CACHE_LIMIT_MB", "0")
    written(tmp_path)
    RecordCache(tmp_path, "other").write("data", records())
    assert [path.name for path in tmp_path.iterdir()] == ["fp32-other-data.npz"]


def test_objects_are_not_kept(tmp_path: Path) -> None:
    rows = np.array([object(), object()])
    cache = RecordCache(tmp_path, "key")
    cache.write("data", Records(samples=np.arange(2), records={"m": rows}, references={}, difficulty=None))
    assert list(tmp_path.iterdir()) == []
    assert cache.read("data") is None


class Dropper:
    """Leaves a file where it is unpickled."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> Any:
        return shutil.copyfile, (__file__, str(self.place))


@pytest.mark.parametrize("suffix", ["npz", "records"])
def test_a_file_that_would_run_code_runs_none(tmp_path: Path, suffix: str) -> None:
    """A pickle under either name, and an archive with a pickled array."""
    place = tmp_path / "dropped"
    path = tmp_path / f"fp32-key-data.{suffix}"
    attack = np.empty(1, object)
    attack[0] = Dropper(place)
    path.write_bytes(pickle.dumps((1, attack[0])))
    assert RecordCache(tmp_path, "key").read("data") is None
    with path.open("wb") as file:
        np.savez(file, tree=attack, allow_pickle=True)
    assert RecordCache(tmp_path, "key").read("data") is None
    assert not place.exists()


def test_a_damaged_file_is_no_file(tmp_path: Path) -> None:
    """Each byte in turn is turned over: the file is refused, or what it says is what was written."""
    path = written(tmp_path)
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        found = RecordCache(tmp_path, "key").read("data")
        assert found is None or same(found.records, records().records)
    for length in range(0, len(whole), 97):
        path.write_bytes(whole[:length])
        assert RecordCache(tmp_path, "key").read("data") is None


@pytest.mark.parametrize(
    "samples", [np.array([0, 0]), np.array([0]), np.array([[0, 1]]), np.array([0.0, 1.0])], ids=str
)
def test_rows_that_do_not_fit_are_refused(tmp_path: Path, samples: Any) -> None:
    path = written(tmp_path)
    write_tree(path, {**vars(records()), "samples": samples})
    assert RecordCache(tmp_path, "key").read("data") is None


@pytest.mark.parametrize(("start", "shape"), [(-1, [1]), (0, [99]), (1, [2]), (0, [-1]), (0, [-1, -2]), (0.5, [1])])
def test_arrays_outside_of_their_member_are_refused(tmp_path: Path, start: Any, shape: list[int]) -> None:
    path = tmp_path / "tree.npz"
    text = json.dumps({"format_version": 2, "tree": ["array", "<f8", start, shape]})
    arrays: Any = {"tree": np.frombuffer(text.encode(), np.uint8), "values/<f8": np.ones(2)}
    np.savez(path, **arrays)
    with pytest.raises((ValueError, TypeError)):
        read_tree(path)


def test_a_compressed_archive_is_refused(tmp_path: Path) -> None:
    """Packed, a file of a kilobyte could fill the memory."""
    path = tmp_path / "tree.npz"
    text = json.dumps({"format_version": 2, "tree": None})
    np.savez_compressed(path, tree=np.frombuffer(text.encode(), np.uint8))
    with pytest.raises(ValueError, match="compressed"):
        read_tree(path)
