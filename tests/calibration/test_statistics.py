from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.calibration import CalibrationStatistics, StatisticsCollector
from autotune.errors import WorkspaceError


def gather(samples: int, axes: dict[str, int], seed: int = 0) -> CalibrationStatistics:
    rng = np.random.default_rng(seed)
    collector = StatisticsCollector(axes, 0)
    for _ in range(samples):
        collector.update("конв/1", rng.standard_normal((1, 3, 8)))
        collector.update("plain", np.maximum(rng.standard_normal(17), 0).astype(np.float32))
    return collector.finish(samples)


@given(samples=st.integers(1, 4), seed=st.integers(0, 99), axes=st.sampled_from([{}, {"конв/1": 1}, {"plain": 0}]))
@settings(max_examples=15, deadline=None)
def test_what_is_saved_is_loaded(tmp_path_factory: Any, samples: int, seed: int, axes: Any) -> None:
    path = tmp_path_factory.mktemp("statistics") / "calibration.npz"
    gathered = gather(samples, axes, seed)
    gathered.save(path)
    assert CalibrationStatistics.load(path) == gathered
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_what_masks_and_strings_leave_is_saved_too(tmp_path: Path) -> None:
    collector = StatisticsCollector({}, 0)
    collector.update("mask", np.array([0.0, -np.inf], np.float32))
    collector.update("x", np.array([0.0, 1.0], np.float32))
    plain = collector.finish(1)
    gathered = CalibrationStatistics(
        plain.tensors, 1, ({"text": np.array([["a"], ["bcd"]], object)},), unbounded=plain.unbounded
    )
    gathered.save(tmp_path / "s.npz")
    loaded = CalibrationStatistics.load(tmp_path / "s.npz")
    assert loaded.unbounded == {"mask"}
    assert loaded.examples[0]["text"].dtype == object
    assert loaded.examples[0]["text"].tolist() == [["a"], ["bcd"]]


def test_a_file_from_before_masks_were_served_is_read(tmp_path: Path) -> None:
    gathered = gather(2, {})
    gathered.save(tmp_path / "new.npz")
    with np.load(tmp_path / "new.npz") as archive:
        np.savez(tmp_path / "old.npz", **{name: archive[name] for name in archive if name != "unbounded"})
    assert CalibrationStatistics.load(tmp_path / "old.npz") == gathered


def test_no_tensors_at_all_are_saved_too(tmp_path: Path) -> None:
    empty = StatisticsCollector({}, 0).finish(3)
    empty.save(tmp_path / "empty.npz")
    assert CalibrationStatistics.load(tmp_path / "empty.npz") == empty


def test_size_does_not_depend_on_the_number_of_samples() -> None:
    few, many = gather(2, {"конв/1": 1}), gather(200, {"конв/1": 1})
    for name in few.tensors:
        assert few.tensors[name].histogram.bins == many.tensors[name].histogram.bins


def test_a_file_without_the_npz_suffix_keeps_its_name(tmp_path: Path) -> None:
    gather(1, {}).save(tmp_path / "statistics")
    assert CalibrationStatistics.load(tmp_path / "statistics").samples == 1


def test_a_missing_or_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "calibration.npz"
    with pytest.raises(WorkspaceError, match=r"calibration\.npz"):
        CalibrationStatistics.load(path)
    gather(1, {}).save(path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(WorkspaceError, match="Delete it"):
        CalibrationStatistics.load(path)
    path.write_bytes(b"not an archive")
    with pytest.raises(WorkspaceError, match="Delete it"):
        CalibrationStatistics.load(path)


def test_whatever_a_file_holds_its_reader_learns_that_it_cannot_be_used(tmp_path: Path) -> None:
    """Each byte in turn is turned over: the file is refused with a message, or says what was written."""
    path = tmp_path / "calibration.npz"
    expected = gather(1, {"conv": 1})
    expected.save(path)
    whole = path.read_bytes()
    for place in range(0, len(whole), 23):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        with contextlib.suppress(WorkspaceError):
            assert CalibrationStatistics.load(path) == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("extremes", np.nan),
        ("extremes", [2.0, 1.0]),
        ("counts", -1),
        ("histogram_counts", -1),
        ("channel_variance", -1.0),
        ("channel_mean", np.inf),
        ("channel_minimum", 1e9),
    ],
)
def test_figures_that_no_data_leave_are_refused(tmp_path: Path, name: str, value: Any) -> None:
    path = tmp_path / "calibration.npz"
    gather(1, {"конв/1": 1}).save(path)
    with np.load(path) as archive:
        arrays = dict(archive)
    arrays[name] = np.broadcast_to(np.asarray(value, arrays[name].dtype), arrays[name].shape)
    np.savez(path, **arrays)
    with pytest.raises(WorkspaceError, match="Delete it"):
        CalibrationStatistics.load(path)


def test_another_format_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "calibration.npz"
    np.savez(path, format_version=np.array(99))
    with pytest.raises(WorkspaceError, match="format version 2, but has 99"):
        CalibrationStatistics.load(path)


def test_a_folder_that_is_not_there_is_an_error() -> None:
    with pytest.raises(WorkspaceError, match="cannot be written"):
        gather(1, {}).save(Path("/no/such/folder/calibration.npz"))
