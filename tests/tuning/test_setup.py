"""Preparations for a run, and the part that an adapter has a say in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pytest

import autotune
from autotune.adapter import Feeds
from autotune.adapters import ADAPTERS, Registration
from autotune.calibration import CalibrationStatistics
from autotune.config import QuantizationConfig
from autotune.errors import WorkspaceError
from tests.numpy_adapter import NumpyAdapter
from tests.numpy_framework import NumpyModel


@dataclass(frozen=True)
class Ranges:
    """Statistics as the core knows none: they have nothing but a file."""

    wrapped: CalibrationStatistics

    def save(self, path: Path) -> None:
        path.mkdir()
        self.wrapped.save(path / "wrapped")

    @classmethod
    def load(cls, path: Path) -> Self:
        if not path.is_dir():
            raise WorkspaceError(f"{path} must be a folder of ranges, but is none. Delete it to calibrate anew")
        return cls(CalibrationStatistics.load(path / "wrapped"))


class WithRanges:
    """The NumPy adapter with statistics of another type."""

    statistics_type = Ranges
    calibrations = 0

    def __init__(self) -> None:
        self._adapter = NumpyAdapter()
        for name in ("name", "suffix", "load", "space", "runner", "save"):
            setattr(self, name, getattr(self._adapter, name))

    def calibrate(self, model: NumpyModel, batches: Iterable[Feeds], *, seed: int) -> Ranges:
        type(self).calibrations += 1
        return Ranges(self._adapter.calibrate(model, batches, seed=seed))

    def apply(self, model: NumpyModel, config: QuantizationConfig, statistics: Ranges) -> NumpyModel:
        return self._adapter.apply(model, config, statistics.wrapped)


def test_statistics_may_be_of_the_adapters_own_type(
    network: NumpyModel, images: Sequence[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ADAPTERS, "ranges", Registration(module=__name__, attribute="WithRanges"))

    def run() -> autotune.TuningResult:
        options: dict[str, Any] = {"objective": "size", "max_trials": 2, "strategy": "basic", "framework": "ranges"}
        return autotune.Tuner(**options, workspace=tmp_path).tune(network, images, lambda model: 1.0)  # noqa: ARG005

    assert run().verdict is autotune.Verdict.MET
    assert WithRanges.calibrations == 1
    (kept,) = (tmp_path / "cache").glob("statistics-*")
    assert kept.is_dir()
    run()
    assert WithRanges.calibrations == 1, "a run that continues reads them"


def test_damaged_statistics_are_made_anew(network: NumpyModel, images: Sequence[Any], tmp_path: Path) -> None:
    def run(trials: int) -> autotune.TuningResult:
        options: dict[str, Any] = {"objective": "size", "max_trials": trials, "strategy": "basic", "framework": "numpy"}
        return autotune.Tuner(**options, workspace=tmp_path).tune(network, images, lambda model: 1.0)  # noqa: ARG005

    run(1)
    (kept,) = (tmp_path / "cache").glob("statistics-*")
    sound = kept.read_bytes()
    kept.write_bytes(sound[: len(sound) // 2])
    result = run(2)
    assert any("Calibrated anew" in note and kept.name in note for note in result.notes)
    assert CalibrationStatistics.load(kept).samples > 0


class OtherFramework(NumpyAdapter):
    """The NumPy adapter as that of a framework of another name."""

    name = "other"


def test_a_workspace_of_another_framework_is_refused_by_its_name(
    network: NumpyModel, images: Sequence[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ADAPTERS, "other", Registration(module=__name__, attribute="OtherFramework"))

    def run(framework: str) -> None:
        options: dict[str, Any] = {"objective": "size", "max_trials": 1, "strategy": "basic", "framework": framework}
        autotune.Tuner(**options, workspace=tmp_path).tune(network, images, lambda model: 1.0)  # noqa: ARG005

    run("numpy")
    with pytest.raises(WorkspaceError, match="framework: numpy there, other here"):
        run("other")
