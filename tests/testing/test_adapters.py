"""The suite finds the faults that adapters have: each adapter here has one, and fails the test that is about it."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autotune.adapter import Example, Execution, Feeds, Runner
from autotune.calibration import CalibrationStatistics, StatisticsCollector
from autotune.config import QuantizationConfig
from autotune.errors import ModelError
from autotune.space import TuningSpace
from autotune.testing import AdapterSuite
from autotune.testing.adapters import Loaded
from tests.conftest import dense_network
from tests.numpy_adapter import NumpyAdapter
from tests.numpy_framework import NumpyModel, NumpyRunner


class Stateful(NumpyAdapter):
    def __init__(self) -> None:
        self.loaded: list[object] = []


class Quiet(NumpyAdapter):
    """Takes whatever it is given for a model."""

    def load(self, source: object, example: Example | None = None) -> NumpyModel:
        try:
            return super().load(source, example)
        except ModelError:
            return dense_network()


class Forgetful(NumpyAdapter):
    """Leaves out of its space what it prefers."""

    def space(self, model: NumpyModel) -> TuningSpace:
        space = super().space(model)
        return dataclasses.replace(space, ops=space.ops[:2])


class Spoiling(NumpyAdapter):
    """Writes into the arrays of the model that it was given."""

    def apply(self, model: NumpyModel, config: QuantizationConfig, statistics: CalibrationStatistics) -> NumpyModel:
        for layer in model.dense.values():
            if config.ops and layer.bias is not None:
                layer.bias[:] += 1
        return super().apply(model, config, statistics)


class Random(NumpyAdapter):
    """Makes another candidate at each call."""

    def apply(self, model: NumpyModel, config: QuantizationConfig, statistics: CalibrationStatistics) -> NumpyModel:
        found = super().apply(model, config, statistics)
        head = found.layers[-1]
        assert head.bias is not None
        changed = dataclasses.replace(head, bias=head.bias + np.float32(next(COUNT) * 1e-6))
        return dataclasses.replace(found, layers=(*found.layers[:-1], changed))


COUNT = itertools.count()


class Lenient(NumpyAdapter):
    """Passes over ops that the model does not have."""

    def apply(self, model: NumpyModel, config: QuantizationConfig, statistics: CalibrationStatistics) -> NumpyModel:
        known = {name: choice for name, choice in config.ops.items() if name in model.dense}
        return super().apply(model, dataclasses.replace(config, ops=known), statistics)


class Coarse(NumpyAdapter):
    """Takes one sample's range for that of all."""

    def calibrate(self, model: NumpyModel, batches: Iterable[Feeds], *, seed: int) -> CalibrationStatistics:
        first = next(iter(batches))
        collector = StatisticsCollector({}, seed)
        values = {name: array[:1] * np.float32(0.01) for name, array in first.items()}
        for _ in NumpyRunner(model).steps(values):
            pass
        for layer in model.dense.values():
            collector.update(layer.reads[0], values[layer.reads[0]])
        return collector.finish(1)


class Littering(NumpyAdapter):
    """Leaves a file behind that it does not name."""

    def save(self, model: NumpyModel, path: Path, metadata: Mapping[str, str]) -> tuple[Path, ...]:
        path.with_name("part.tmp").write_text("")
        return super().save(model, path, metadata)


class Shared(NumpyAdapter):
    """Has one runner for all models."""

    def runner(self, model: NumpyModel, execution: Execution) -> Runner:
        RUNNERS.setdefault("one", super().runner(model, execution))
        return RUNNERS["one"]


RUNNERS: dict[str, Runner] = {}


class Raw(NumpyAdapter):
    """Lets the errors of its framework through."""

    def runner(self, model: NumpyModel, execution: Execution) -> Runner:  # noqa: ARG002
        def run(feeds: Feeds) -> tuple[Any, ...]:
            values = dict(feeds)
            for _ in NumpyRunner(model).steps(values):
                pass
            return (values[model.layers[-1].name],)

        return run


class Misnamed(NumpyAdapter):
    """Gives costs of layers that are no ops of the space."""

    def op_seconds(
        self, models: Sequence[NumpyModel], feeds: Feeds, execution: Execution
    ) -> Sequence[Mapping[str, float]]:
        found = super().op_seconds(models, feeds, execution)
        return [{f"layer {name}": value for name, value in each.items()} for each in found]


class Trusting(NumpyAdapter):
    """Reads a batch of calibration data before it sees that an input is missing."""

    def calibrate(self, model: NumpyModel, batches: Iterable[Feeds], *, seed: int) -> CalibrationStatistics:
        read = ({name: feeds[name] for name in ("data",)} for feeds in batches)
        return super().calibrate(model, read, seed=seed)


def suite_of(made: Callable[[], NumpyAdapter]) -> AdapterSuite:
    class Suite(AdapterSuite):
        def adapter(self) -> NumpyAdapter:
            return made()

        def source(self) -> NumpyModel:
            return dense_network()

        def batches(self) -> Sequence[Feeds]:
            rng = np.random.default_rng(1)
            return [{"data": rng.normal(size=(8, 3, 16, 16)).astype(np.float32)} for _ in range(2)]

    return Suite()


def loaded(suite: AdapterSuite) -> Loaded:
    adapter, batches = suite.adapter(), suite.batches()
    model = adapter.load(suite.source())
    return Loaded(adapter=adapter, model=model, batches=batches, statistics=adapter.calibrate(model, batches, seed=0))


@pytest.mark.parametrize(
    ("faulty", "about"),
    [
        (Stateful, "test_adapter_has_the_methods_of_the_contract"),
        (Quiet, "test_what_is_no_model_is_said_so"),
        (Forgetful, "test_space_names_each_op_once_and_prefers_int8"),
        (Spoiling, "test_apply_leaves_the_model_as_it_is_and_is_deterministic"),
        (Random, "test_apply_leaves_the_model_as_it_is_and_is_deterministic"),
        (Lenient, "test_apply_names_an_unknown_op"),
        (Coarse, "test_preferred_config_is_close_and_smaller"),
        (Littering, "test_saved_model_is_read_back_and_computes_the_same"),
        (Shared, "test_runners_live_side_by_side"),
        (Raw, "test_a_batch_that_the_model_cannot_read_fails_the_trial"),
        (Trusting, "test_a_calibration_batch_without_an_input_is_named"),
        (Misnamed, "test_costs_are_of_ops_of_the_space"),
    ],
)
def test_a_fault_fails_the_test_that_is_about_it(
    faulty: Callable[[], NumpyAdapter], about: str, tmp_path: Path
) -> None:
    further: dict[str, tuple[Any, ...]] = {
        "test_what_is_no_model_is_said_so": (b"not a model at all",),
        "test_saved_model_is_read_back_and_computes_the_same": (tmp_path,),
    }
    sound, broken = suite_of(NumpyAdapter), suite_of(faulty)
    getattr(sound, about)(loaded(sound), *further.get(about, ()))
    with pytest.raises((AssertionError, pytest.fail.Exception, ValueError, KeyError)):
        getattr(broken, about)(loaded(broken), *further.get(about, ()))
