"""The contract of an adapter as a suite of tests: an adapter that passes it can be tuned."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest

from autotune.adapter import (
    Adapter,
    Array,
    Compiles,
    CostModel,
    DeclaresPackages,
    Differentiable,
    Example,
    Execution,
    Feeds,
    NamesTensors,
    PortabilityCheck,
    ReadsMetadata,
    Runner,
    declared_options,
    host_of,
    quick_runner,
    statistics_type,
)
from autotune.calibration import CalibrationStatistics
from autotune.config import OpConfig, Precision, QuantizationConfig, Recipe
from autotune.criterion import Criterion, Verdict
from autotune.errors import ApplyError, DataError, ModelError, TrialError, WorkspaceError
from autotune.testing.samples import size_of, spread, sqnr_db
from autotune.tuning.tuner import Tuner

THREADS = Execution(threads=1)


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """The model, statistics and candidates that the tests of one adapter share.

    Attributes:
        adapter: The adapter.
        model: The model that its ``load`` returned for the source.
        batches: The calibration batches.
        statistics: The statistics that its ``calibrate`` returned.
    """

    adapter: Adapter[Any]
    model: Any
    batches: Sequence[Feeds]
    statistics: Any


_LOADED: dict[type, Loaded] = {}
"""By suite, since pytest makes a new object of it for each test."""


class AdapterSuite:
    """Checks an adapter against :class:`autotune.adapter.Adapter` and the optional protocols that it implements.

    A test module subclasses it under a name that begins with ``Test``, and overrides three methods::

        class TestToy(AdapterSuite):
            def adapter(self):
                return ToyAdapter()

            def source(self):
                return small_model()

            def batches(self):
                return [{"x": rng.normal(size=(8, 16)).astype("float32")} for _ in range(4)]

    Attributes:
        stores_integers: Whether files hold the integers of weights; False where the framework makes them at each start.
    """

    stores_integers = True

    def adapter(self) -> Adapter[Any]:
        """The adapter under test."""
        raise NotImplementedError

    def source(self) -> object:
        """Make what ``load`` reads: a small model with three ops or more that can be int8, and one float input."""
        raise NotImplementedError

    def batches(self) -> Sequence[Feeds]:
        """Two calibration batches or more, the same at every call; each maps the input's name to an array."""
        raise NotImplementedError

    @pytest.fixture
    def loaded(self) -> Loaded:
        """The model, loaded and calibrated once for all tests of a class."""
        if type(self) not in _LOADED:
            adapter = self.adapter()
            model, batches = adapter.load(self.source()), self.batches()
            statistics = adapter.calibrate(model, batches, seed=0)
            _LOADED[type(self)] = Loaded(adapter=adapter, model=model, batches=batches, statistics=statistics)
        return _LOADED[type(self)]

    def test_adapter_has_the_methods_of_the_contract(self, loaded: Loaded) -> None:
        for name in ("load", "space", "calibrate", "apply", "runner", "save"):
            ours = inspect.signature(getattr(loaded.adapter, name))
            contract = inspect.signature(getattr(Adapter, name))
            assert list(ours.parameters) == list(contract.parameters)[1:]
        assert vars(loaded.adapter) == {}, "an adapter has no state"

    def test_loading_twice_gives_equal_fingerprints(self, loaded: Loaded) -> None:
        again = loaded.adapter.load(self.source())
        assert again.fingerprint == loaded.model.fingerprint
        assert len(again.fingerprint) == 16

    def test_a_loaded_model_can_be_loaded_again(self, loaded: Loaded) -> None:
        assert loaded.adapter.load(loaded.model).fingerprint == loaded.model.fingerprint

    def test_an_example_of_the_data_changes_nothing_of_what_is_loaded(self, loaded: Loaded) -> None:
        again = loaded.adapter.load(self.source(), Example(loaded.batches))
        assert again.fingerprint == loaded.model.fingerprint

    def test_model_describes_inputs_and_outputs(self, loaded: Loaded) -> None:
        assert [spec.name for spec in loaded.model.inputs] == list(loaded.batches[0])
        for spec in loaded.model.inputs:
            assert spec.dtype == loaded.batches[0][spec.name].dtype
            assert len(spec.shape) == loaded.batches[0][spec.name].ndim
        assert len(loaded.model.outputs) == len(_outputs(loaded, loaded.model))
        assert loaded.model.size_bytes > 0

    def test_space_names_each_op_once_and_prefers_int8(self, loaded: Loaded) -> None:
        space = loaded.adapter.space(loaded.model)
        assert len(space.tunable) >= 3
        assert len(space.by_name) == len(space.ops)
        assert space.preferred in space
        assert space.preferred.precisions()[Precision.INT8] >= 3
        assert QuantizationConfig() in space

    def test_fp32_config_computes_what_the_model_computes(self, loaded: Loaded) -> None:
        same = loaded.adapter.apply(loaded.model, QuantizationConfig(), loaded.statistics)
        for before, after in zip(_outputs(loaded, loaded.model), _outputs(loaded, same), strict=True):
            np.testing.assert_array_equal(before, after)

    def test_every_choice_of_every_op_can_be_applied_and_run(self, loaded: Loaded) -> None:
        space = loaded.adapter.space(loaded.model)
        reference = _quick_outputs(loaded, loaded.model)[0]
        for op in space.tunable:
            for choice in spread(list(op.configs())):
                candidate = loaded.adapter.apply(
                    loaded.model, QuantizationConfig(ops={op.name: choice}), loaded.statistics
                )
                assert sqnr_db(reference, _quick_outputs(loaded, candidate)[0]) > 15.0, f"{op.name}: {choice}"

    def test_options_are_declared_and_those_undeclared_refused(self, loaded: Loaded) -> None:
        space = loaded.adapter.space(loaded.model)
        declared = {option.name: option for option in declared_options(loaded.adapter)}
        for option in space.recipe.options:
            everything = declared[option.name]
            assert dataclasses.replace(option, values=everything.values) == everything
            assert set(option.values) <= set(everything.values)
            assert option.description
        unknown = dataclasses.replace(space.preferred, recipe=Recipe(options={"no_such_option": "yes"}))
        with pytest.raises(ApplyError, match="no_such_option"):
            loaded.adapter.apply(loaded.model, unknown, loaded.statistics)

    def test_every_value_of_every_option_can_be_applied_and_run(self, loaded: Loaded) -> None:
        space = loaded.adapter.space(loaded.model)
        quick = space.recipe.quick(space.recipe.preferred)
        reference = _quick_outputs(loaded, loaded.model)[0]
        for option in space.recipe.options:
            for recipe in space.recipe.others(quick, option.name):
                config = dataclasses.replace(space.preferred, recipe=recipe)
                candidate = loaded.adapter.apply(loaded.model, config, loaded.statistics)
                assert sqnr_db(reference, _quick_outputs(loaded, candidate)[0]) > 15.0, f"{option.name}: {recipe}"

    def test_preferred_config_is_close_and_smaller(self, loaded: Loaded) -> None:
        candidate = loaded.adapter.apply(loaded.model, loaded.adapter.space(loaded.model).preferred, loaded.statistics)
        reference, quantized = _outputs(loaded, loaded.model)[0], _outputs(loaded, candidate)[0]
        assert 25.0 < sqnr_db(reference, quantized) < 80.0, "int8 is near fp32 and not the same"
        if self.stores_integers:
            assert candidate.size_bytes < 0.5 * loaded.model.size_bytes

    def test_apply_leaves_the_model_as_it_is_and_is_deterministic(self, loaded: Loaded) -> None:
        before, outputs = loaded.adapter.load(self.source()).fingerprint, _outputs(loaded, loaded.model)
        preferred = loaded.adapter.space(loaded.model).preferred
        first = loaded.adapter.apply(loaded.model, preferred, loaded.statistics)
        second = loaded.adapter.apply(loaded.model, preferred, loaded.statistics)
        assert first.fingerprint == second.fingerprint != loaded.model.fingerprint
        assert loaded.adapter.load(self.source()).fingerprint == before
        for expected, found in zip(outputs, _outputs(loaded, loaded.model), strict=True):
            np.testing.assert_array_equal(found, expected)
        fresh = [spec.name for spec in loaded.model.outputs]
        assert fresh == [spec.name for spec in first.outputs]

    def test_apply_names_an_unknown_op(self, loaded: Loaded) -> None:
        config = QuantizationConfig(ops={"no such op": OpConfig(precision=Precision.INT8)})
        with pytest.raises(ApplyError, match="no such op"):
            loaded.adapter.apply(loaded.model, config, loaded.statistics)

    def test_apply_says_when_statistics_are_of_another_model(self, loaded: Loaded) -> None:
        with pytest.raises(ApplyError, match=r"[Cc]alibrate"):
            loaded.adapter.apply(
                loaded.model, loaded.adapter.space(loaded.model).preferred, CalibrationStatistics({}, 0)
            )

    def test_calibration_depends_on_the_data_alone(self, loaded: Loaded) -> None:
        again: Any = loaded.adapter.calibrate(loaded.model, iter(loaded.batches), seed=0)
        if not isinstance(again, CalibrationStatistics):
            pytest.skip("statistics of the adapter's own are opaque")
        assert again.samples == loaded.statistics.samples > 0
        for name, statistics in loaded.statistics.tensors.items():
            assert again.tensors[name].minimum == statistics.minimum
            np.testing.assert_array_equal(again.tensors[name].histogram.counts, statistics.histogram.counts)

    def test_statistics_survive_their_file(self, loaded: Loaded, tmp_path: Path) -> None:
        kind = statistics_type(loaded.adapter)
        assert isinstance(loaded.statistics, kind)
        loaded.statistics.save(tmp_path / "statistics.npz")
        read = kind.load(tmp_path / "statistics.npz")
        preferred = loaded.adapter.space(loaded.model).preferred
        made = [loaded.adapter.apply(loaded.model, preferred, each) for each in (loaded.statistics, read)]
        assert made[0].fingerprint == made[1].fingerprint
        with pytest.raises(WorkspaceError, match="missing"):
            kind.load(tmp_path / "missing.npz")

    def test_calibration_without_data_is_an_error(self, loaded: Loaded) -> None:
        with pytest.raises(DataError):
            loaded.adapter.calibrate(loaded.model, [], seed=0)

    def test_a_calibration_batch_without_an_input_is_named(self, loaded: Loaded) -> None:
        (name,) = (spec.name for spec in loaded.model.inputs)
        batches = [*loaded.batches, {f"not {name}": array for array in loaded.batches[0].values()}]
        with pytest.raises(DataError, match=re.escape(name)):
            loaded.adapter.calibrate(loaded.model, batches, seed=0)

    def test_runners_live_side_by_side(self, loaded: Loaded) -> None:
        preferred = loaded.adapter.space(loaded.model).preferred
        candidate = loaded.adapter.apply(loaded.model, preferred, loaded.statistics)
        runners = [loaded.adapter.runner(model, THREADS) for model in (loaded.model, candidate, loaded.model)]
        first, second, third = (runner(loaded.batches[0])[0] for runner in runners)
        np.testing.assert_array_equal(first, third)
        assert not np.array_equal(first, second)
        assert all(isinstance(runner, Runner) for runner in runners)

    def test_saved_model_is_read_back_and_computes_the_same(self, loaded: Loaded, tmp_path: Path) -> None:
        preferred = loaded.adapter.space(loaded.model).preferred
        candidate = loaded.adapter.apply(loaded.model, preferred, loaded.statistics)
        path = tmp_path / f"model{loaded.adapter.suffix}"
        loaded.adapter.save(candidate, path, {"autotune": "first"})
        written = loaded.adapter.save(candidate, path, {"autotune": "second"})
        assert sorted(tmp_path.iterdir()) == sorted(written), (
            "all is named that was written, and no temporary file stays"
        )
        assert abs(size_of(written) - candidate.size_bytes) < 1024, "what is reported is what lies on the disk"
        again = loaded.adapter.load(written[0])
        np.testing.assert_array_equal(_outputs(loaded, candidate)[0], _outputs(loaded, again)[0])

    def test_metadata_of_a_saved_model_can_be_read(self, loaded: Loaded, tmp_path: Path) -> None:
        if not isinstance(loaded.adapter, ReadsMetadata):
            pytest.skip("metadata is an optional part of the contract")
        text = '{"ops": [], "words": "a: b, <c>"}'
        for metadata in ({"autotune:config": text}, {}):
            (path, *_) = loaded.adapter.save(loaded.model, tmp_path / f"model{loaded.adapter.suffix}", metadata)
            assert loaded.adapter.metadata(path).get("autotune:config") == metadata.get("autotune:config")
        with pytest.raises(ModelError):
            loaded.adapter.metadata(tmp_path / f"missing{loaded.adapter.suffix}")

    def test_unwritable_place_is_named_and_what_was_there_stays(self, loaded: Loaded, tmp_path: Path) -> None:
        with pytest.raises(WorkspaceError, match="missing"):
            loaded.adapter.save(loaded.model, tmp_path / "missing" / "model", {})
        (tmp_path / "file").write_text("as it was")
        with pytest.raises(WorkspaceError, match="file"):
            loaded.adapter.save(loaded.model, tmp_path / "file" / "model", {})
        assert (tmp_path / "file").read_text() == "as it was"
        assert [file.name for file in tmp_path.iterdir()] == ["file"]

    def test_no_folder_is_replaced_by_a_file(self, loaded: Loaded, tmp_path: Path) -> None:
        if not loaded.adapter.suffix:
            pytest.skip("the adapter writes a folder")
        (folder := tmp_path / "folder").mkdir()
        with pytest.raises(WorkspaceError):
            loaded.adapter.save(loaded.model, folder, {})
        assert list(tmp_path.iterdir()) == [folder]

    @pytest.mark.parametrize("source", [Path("no/such/file"), b"", b"not a model at all", 17, None, object()])
    def test_what_is_no_model_is_said_so(self, loaded: Loaded, source: object) -> None:
        with pytest.raises(ModelError):
            loaded.adapter.load(source)

    def test_a_batch_that_the_model_cannot_read_fails_the_trial(self, loaded: Loaded) -> None:
        runner = loaded.adapter.runner(loaded.model, THREADS)
        wrong = {name: array[..., :-1] for name, array in loaded.batches[0].items()}
        with pytest.raises(TrialError):
            runner(wrong)

    def test_what_goes_to_a_worker_process_survives_pickling(self, loaded: Loaded) -> None:
        preferred = loaded.adapter.space(loaded.model).preferred
        candidate = loaded.adapter.apply(loaded.model, preferred, loaded.statistics)
        for model in (loaded.model, candidate):
            adapter, again = cloudpickle.loads(cloudpickle.dumps((loaded.adapter, model)))
            assert again.fingerprint == model.fingerprint
            (expected, *_), (found, *_) = _outputs(loaded, model), adapter.runner(again, THREADS)(loaded.batches[0])
            np.testing.assert_array_equal(found, expected)

    def test_the_quick_form_computes_what_the_compiled_one_does(self, loaded: Loaded) -> None:
        if not isinstance(loaded.adapter, Compiles):
            pytest.skip("the adapter compiles nothing")
        candidate = loaded.adapter.apply(loaded.model, loaded.adapter.space(loaded.model).preferred, loaded.statistics)
        for model in (loaded.model, candidate):
            compiled = _outputs(loaded, model)[0]
            assert loaded.adapter.is_compiled(model)
            assert sqnr_db(compiled, _quick_outputs(loaded, model)[0]) > 30.0

    def test_packages_of_the_host_are_installed(self, loaded: Loaded) -> None:
        declared = loaded.adapter.packages if isinstance(loaded.adapter, DeclaresPackages) else ()
        assert set(declared) <= set(host_of(loaded.adapter).packages), "a name that is not installed tells of no change"

    def test_gradients_are_of_the_ops_that_have_weights(self, loaded: Loaded) -> None:
        if not isinstance(loaded.adapter, Differentiable):
            pytest.skip("the adapter does not differentiate")
        weights = loaded.adapter.weights(loaded.model)
        candidate = loaded.adapter.apply(loaded.model, loaded.adapter.space(loaded.model).preferred, loaded.statistics)
        quantized = loaded.adapter.weights(candidate)
        assert weights
        assert {op: array.shape for op, array in quantized.items()} == {
            op: array.shape for op, array in weights.items()
        }
        first, again, other = (
            loaded.adapter.hessian_probe(loaded.model, loaded.batches[0], seed=seed) for seed in (0, 0, 1)
        )
        assert set(first) == set(weights) <= set(loaded.adapter.space(loaded.model).by_name)
        assert first == again != other

    def test_costs_are_of_ops_of_the_space(self, loaded: Loaded) -> None:
        if not isinstance(loaded.adapter, CostModel):
            pytest.skip("the adapter has no cost model, which is optional")
        space = loaded.adapter.space(loaded.model)
        candidate = loaded.adapter.apply(loaded.model, space.preferred, loaded.statistics)
        found = loaded.adapter.op_seconds([loaded.model, candidate], loaded.batches[0], THREADS)
        assert len(found) == 2
        for seconds in found:
            assert seconds
            assert set(seconds) <= set(space.by_name)
            assert all(value > 0 for value in seconds.values())
        conversions = loaded.adapter.conversion_seconds(loaded.model, loaded.statistics, THREADS)
        assert set(conversions) <= set(space.by_name)
        assert all(value >= 0 for value in conversions.values())
        readers = loaded.adapter.neighbours(loaded.model)
        assert {*readers, *(name for names in readers.values() for name in names)} <= set(space.by_name)

    def test_tensors_that_ops_read_have_statistics(self, loaded: Loaded) -> None:
        if not isinstance(loaded.adapter, NamesTensors) or not isinstance(loaded.statistics, CalibrationStatistics):
            pytest.skip("the adapter names no calibrated tensors, which is optional")
        found = loaded.adapter.tensors_read(loaded.model)
        assert set(found) >= set(loaded.adapter.space(loaded.model).by_name)
        assert {name for names in found.values() for name in names} & set(loaded.statistics.tensors)

    def test_ops_that_can_saturate_are_ops_that_were_quantized(self, loaded: Loaded) -> None:
        if not isinstance(loaded.adapter, PortabilityCheck):
            pytest.skip("the adapter does not check portability, which is optional")
        preferred = loaded.adapter.space(loaded.model).preferred
        candidate = loaded.adapter.apply(loaded.model, preferred, loaded.statistics)
        assert not loaded.adapter.saturating_ops(loaded.model)
        assert set(loaded.adapter.saturating_ops(candidate)) <= set(preferred.ops)

    def test_a_run_tunes_its_model(self, loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        # The adapter need not be registered to be tested.
        monkeypatch.setattr("autotune.tuning.tuner.get_adapter", lambda _name: loaded.adapter)
        (name,) = (spec.name for spec in loaded.model.inputs)
        loader = [batch[name] for batch in loaded.batches]
        tuner = Tuner(
            framework=loaded.adapter.name,
            criterion=Criterion(relative=0.5),
            strategy="basic",
            objective="size" if self.stores_integers else "latency",
            max_trials=2,
            warmup=1,
            latency_max_s=0.1,
        )
        result = tuner.tune(self.source(), loader, metric="cosine", eval_dataloader=loader)
        assert result.verdict is Verdict.MET
        if self.stores_integers:
            assert not result.best.config.is_fp32
        saved = result.save(tmp_path / f"tuned{loaded.adapter.suffix}")
        expected = loaded.adapter.runner(loaded.adapter.load(saved), THREADS)(loaded.batches[0])[0]
        np.testing.assert_array_equal(np.asarray(result.model(loader[0])), expected)


def _outputs(loaded: Loaded, model: Any) -> tuple[Array, ...]:
    return loaded.adapter.runner(model, THREADS)(loaded.batches[0])


def _quick_outputs(loaded: Loaded, model: Any) -> tuple[Array, ...]:
    return quick_runner(loaded.adapter, model, THREADS)(loaded.batches[0])
