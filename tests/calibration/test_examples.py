from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from autotune.adapter import Feeds
from autotune.calibration import CalibrationStatistics, ExampleReservoir
from autotune.calibration.examples import EXAMPLE_BYTES, EXAMPLES


def kept(batches: Sequence[Feeds], counting: list[str]) -> list[float]:
    reservoir = ExampleReservoir(dict.fromkeys(counting, 0), seed=0)
    assert len(list(reservoir.watch(batches))) == len(batches)
    return [float(feeds["x"].flat[0]) for feeds in reservoir.finish()]


def numbered(count: int, size: int = 1) -> Sequence[Feeds]:
    values = np.arange(count, dtype=np.float32).reshape(-1, size, 1)
    return [{"x": batch} for batch in values]


def test_few_samples_are_all_kept() -> None:
    assert kept(numbered(5), ["x"]) == [0, 1, 2, 3, 4]


def test_batches_are_taken_apart_where_their_first_dimension_is_free() -> None:
    assert kept(numbered(12, 4), ["x"]) == list(range(12))
    assert kept(numbered(12, 4), []) == [0, 4, 8]


def test_a_batch_lies_along_any_axis_and_what_belongs_to_the_call_goes_with_each_sample() -> None:
    feeds = {"x": np.arange(6, dtype=np.float32).reshape(3, 2), "rate": np.array(16000)}
    reservoir = ExampleReservoir({"x": 1}, seed=0)
    assert list(reservoir.watch([feeds])) == [feeds]
    first, second = reservoir.finish()
    np.testing.assert_array_equal(first["x"], [[0], [2], [4]])
    np.testing.assert_array_equal(second["x"], [[1], [3], [5]])
    assert first["rate"] == second["rate"] == 16000


def test_many_samples_are_drawn_evenly() -> None:
    drawn = kept(numbered(3200), ["x"])
    assert len(drawn) == len(set(drawn)) == EXAMPLES
    # The mean of 32 uniform draws has a deviation of 163: five of them are exceeded once in two million.
    assert abs(np.mean(drawn) - 1600) < 5 * 163
    assert drawn == kept(numbered(3200), ["x"])


def test_bytes_are_bounded() -> None:
    large = [{"x": np.zeros((1, EXAMPLE_BYTES // 12), np.float32)} for _ in range(5)]
    assert len(kept(large, ["x"])) == 3
    assert kept([{"x": np.zeros((1, EXAMPLE_BYTES), np.float32)}], ["x"]) == []


def test_file_keeps_them(tmp_path: Path) -> None:
    examples: tuple[Feeds, ...] = tuple(
        {"x": np.full((1, 2), index, np.float32), "y/z": np.ones(1, np.int64)} for index in range(11)
    )
    CalibrationStatistics({}, 11, examples).save(tmp_path / "s.npz")
    loaded = CalibrationStatistics.load(tmp_path / "s.npz").examples
    assert [float(feeds["x"][0, 0]) for feeds in loaded] == list(range(11))
    assert loaded[0]["y/z"].dtype == np.int64
