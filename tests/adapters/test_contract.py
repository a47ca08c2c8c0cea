"""The contract of an adapter, checked on each of them. A new adapter adds a line to ``SUBJECTS``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autotune.adapter import Adapter, Execution, Feeds, Runner
from autotune.adapters import ADAPTERS, get_adapter
from autotune.calibration import CalibrationStatistics
from autotune.config import OpConfig, Precision, QuantizationConfig
from autotune.errors import ApplyError, DataError, MissingDependencyError, ModelError, WorkspaceError
from tests.adapters.onnx.graphs import image_batches, small_cnn
from tests.adapters.openvino.graphs import wide_cnn

THREADS = Execution(threads=1)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What the suite needs of an adapter.

    Attributes:
        source: Makes a small model with at least three ops that can be int8, of one float input.
        batches: Makes calibration batches for it.
        beside: Suffixes of the files that ``save`` writes beside the one that it is told.
    """

    source: Callable[[], object]
    batches: Callable[[], Sequence[Feeds]]
    beside: tuple[str, ...] = ()


SUBJECTS: dict[str, Subject] = {
    "onnxruntime": Subject(source=small_cnn, batches=image_batches),
    "openvino": Subject(source=wide_cnn, batches=image_batches, beside=(".bin",)),
}


@dataclass(frozen=True, kw_only=True)
class Loaded:
    adapter: Adapter[Any]
    model: Any
    batches: Sequence[Feeds]
    statistics: CalibrationStatistics


@pytest.fixture(scope="module", params=sorted(SUBJECTS))
def loaded(request: pytest.FixtureRequest) -> Loaded:
    subject = SUBJECTS[request.param]
    try:
        adapter = get_adapter(request.param)
    except MissingDependencyError as error:
        pytest.skip(str(error))
    model = adapter.load(subject.source())
    batches = subject.batches()
    return Loaded(adapter=adapter, model=model, batches=batches, statistics=adapter.calibrate(model, batches, seed=0))


def test_every_adapter_has_a_subject() -> None:
    assert set(SUBJECTS) == set(ADAPTERS)


def test_adapter_has_the_methods_of_the_contract(loaded: Loaded) -> None:
    for name in ("load", "space", "calibrate", "apply", "runner", "save"):
        ours = inspect.signature(getattr(loaded.adapter, name))
        contract = inspect.signature(getattr(Adapter, name))
        assert list(ours.parameters) == list(contract.parameters)[1:]
    assert vars(loaded.adapter) == {}, "an adapter has no state"


def test_loading_twice_gives_equal_fingerprints(loaded: Loaded) -> None:
    again = loaded.adapter.load(SUBJECTS[loaded.adapter.name].source())
    assert again.fingerprint == loaded.model.fingerprint
    assert len(again.fingerprint) == 16


def test_a_loaded_model_can_be_loaded_again(loaded: Loaded) -> None:
    assert loaded.adapter.load(loaded.model).fingerprint == loaded.model.fingerprint


def test_model_describes_inputs_and_outputs(loaded: Loaded) -> None:
    assert [spec.name for spec in loaded.model.inputs] == list(loaded.batches[0])
    for spec in loaded.model.inputs:
        assert spec.dtype == loaded.batches[0][spec.name].dtype
        assert len(spec.shape) == loaded.batches[0][spec.name].ndim
    assert len(loaded.model.outputs) == len(_outputs(loaded, loaded.model))
    assert loaded.model.size_bytes > 0


def test_space_names_each_op_once_and_prefers_int8(loaded: Loaded) -> None:
    space = loaded.adapter.space(loaded.model)
    assert len(space.tunable) >= 3
    assert len(space.by_name) == len(space.ops)
    assert space.preferred in space
    assert space.preferred.precisions()[Precision.INT8] >= 3
    assert QuantizationConfig() in space


def test_fp32_config_computes_what_the_model_computes(loaded: Loaded) -> None:
    same = loaded.adapter.apply(loaded.model, QuantizationConfig(), loaded.statistics)
    for before, after in zip(_outputs(loaded, loaded.model), _outputs(loaded, same), strict=True):
        np.testing.assert_array_equal(before, after)


def test_every_choice_of_every_op_can_be_applied_and_run(loaded: Loaded) -> None:
    space = loaded.adapter.space(loaded.model)
    reference = _outputs(loaded, loaded.model)[0]
    for op in space.tunable:
        for choice in _spread(list(op.configs())):
            candidate = loaded.adapter.apply(loaded.model, QuantizationConfig(ops={op.name: choice}), loaded.statistics)
            assert _sqnr_db(reference, _outputs(loaded, candidate)[0]) > 15.0, f"{op.name}: {choice}"


def test_preferred_config_is_close_and_smaller(loaded: Loaded) -> None:
    candidate = loaded.adapter.apply(loaded.model, loaded.adapter.space(loaded.model).preferred, loaded.statistics)
    reference, quantized = _outputs(loaded, loaded.model)[0], _outputs(loaded, candidate)[0]
    assert 25.0 < _sqnr_db(reference, quantized) < 80.0, "int8 is near fp32 and not the same"
    assert candidate.size_bytes < 0.5 * loaded.model.size_bytes


def test_apply_leaves_the_model_as_it_is_and_is_deterministic(loaded: Loaded) -> None:
    before = loaded.adapter.load(SUBJECTS[loaded.adapter.name].source()).fingerprint
    preferred = loaded.adapter.space(loaded.model).preferred
    first = loaded.adapter.apply(loaded.model, preferred, loaded.statistics)
    second = loaded.adapter.apply(loaded.model, preferred, loaded.statistics)
    assert first.fingerprint == second.fingerprint != loaded.model.fingerprint
    assert loaded.adapter.load(SUBJECTS[loaded.adapter.name].source()).fingerprint == before
    fresh = [spec.name for spec in loaded.model.outputs]
    assert fresh == [spec.name for spec in first.outputs]


def test_apply_names_an_unknown_op(loaded: Loaded) -> None:
    config = QuantizationConfig(ops={"no such op": OpConfig(precision=Precision.INT8)})
    with pytest.raises(ApplyError, match="no such op"):
        loaded.adapter.apply(loaded.model, config, loaded.statistics)


def test_apply_says_when_statistics_are_of_another_model(loaded: Loaded) -> None:
    with pytest.raises(ApplyError, match=r"[Cc]alibrate"):
        loaded.adapter.apply(loaded.model, loaded.adapter.space(loaded.model).preferred, CalibrationStatistics({}, 0))


def test_calibration_depends_on_the_data_alone(loaded: Loaded) -> None:
    again = loaded.adapter.calibrate(loaded.model, iter(loaded.batches), seed=0)
    assert again.samples == loaded.statistics.samples > 0
    for name, statistics in loaded.statistics.tensors.items():
        assert again.tensors[name].minimum == statistics.minimum
        np.testing.assert_array_equal(again.tensors[name].histogram.counts, statistics.histogram.counts)


def test_calibration_without_data_is_an_error(loaded: Loaded) -> None:
    with pytest.raises(DataError):
        loaded.adapter.calibrate(loaded.model, [], seed=0)


def test_runners_live_side_by_side(loaded: Loaded) -> None:
    preferred = loaded.adapter.space(loaded.model).preferred
    candidate = loaded.adapter.apply(loaded.model, preferred, loaded.statistics)
    runners = [loaded.adapter.runner(model, THREADS) for model in (loaded.model, candidate, loaded.model)]
    first, second, third = (runner(loaded.batches[0])[0] for runner in runners)
    np.testing.assert_array_equal(first, third)
    assert not np.array_equal(first, second)
    assert all(isinstance(runner, Runner) for runner in runners)


def test_saved_model_is_read_back_and_computes_the_same(loaded: Loaded, tmp_path: Path) -> None:
    preferred = loaded.adapter.space(loaded.model).preferred
    candidate = loaded.adapter.apply(loaded.model, preferred, loaded.statistics)
    path = tmp_path / "model"
    loaded.adapter.save(candidate, path, {"autotune": "first"})
    loaded.adapter.save(candidate, path, {"autotune": "second"})
    written = [path, *(path.with_suffix(suffix) for suffix in SUBJECTS[loaded.adapter.name].beside)]
    assert sorted(tmp_path.iterdir()) == written, "no temporary file stays"
    assert abs(sum(file.stat().st_size for file in written) - candidate.size_bytes) < 1024
    again = loaded.adapter.load(path)
    np.testing.assert_array_equal(_outputs(loaded, candidate)[0], _outputs(loaded, again)[0])


def test_unwritable_place_is_named_and_what_was_there_stays(loaded: Loaded, tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match="missing"):
        loaded.adapter.save(loaded.model, tmp_path / "missing" / "model", {})
    (tmp_path / "folder").mkdir()
    with pytest.raises(WorkspaceError):
        loaded.adapter.save(loaded.model, tmp_path / "folder", {})
    assert [file.name for file in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize("source", [Path("no/such/file"), b"", b"not a model at all", 17, None, object()])
def test_what_is_no_model_is_said_so(loaded: Loaded, source: object) -> None:
    with pytest.raises(ModelError):
        loaded.adapter.load(source)


def _outputs(loaded: Loaded, model: Any) -> tuple[np.ndarray[Any, Any], ...]:
    return loaded.adapter.runner(model, THREADS)(loaded.batches[0])


def _spread(choices: list[OpConfig], count: int = 6) -> list[OpConfig]:
    """A few of many, the first and the last among them."""
    picked = np.linspace(0, len(choices) - 1, min(count, len(choices))).astype(int)
    return [choices[index] for index in picked]


def _sqnr_db(reference: np.ndarray[Any, Any], value: np.ndarray[Any, Any]) -> float:
    noise = float(np.square(reference - value).mean())
    return float("inf") if noise == 0 else 10 * float(np.log10(np.square(reference).mean() / noise))
