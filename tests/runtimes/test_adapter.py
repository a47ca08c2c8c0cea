"""One adapter that stands for two: each call goes to the runtime of its model."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autotune.adapter import Execution, host_of, suffix_of
from autotune.config import QuantizationConfig
from autotune.criterion import Criterion
from autotune.runtimes import RuntimeModel, RuntimesAdapter
from autotune.trial import Measurement, Trial, TrialState
from autotune.tuning.models import Models
from tests.numpy_adapter import NumpyAdapter
from tests.numpy_framework import NumpyModel
from tests.runtimes.toys import DYNAMIC, TOYS, adapter_of, files

ADAPTER = adapter_of("hare", "tortoise")


def on(runtime: str, network: NumpyModel) -> RuntimeModel:
    return RuntimeModel(runtime=runtime, model=network)


def test_one_model_on_two_runtimes_is_two_models(network: NumpyModel) -> None:
    hare, tortoise = on("hare", network), on("tortoise", network)
    assert hare.fingerprint != tortoise.fingerprint
    assert (hare.inputs, hare.outputs, hare.size_bytes) == (network.inputs, network.outputs, network.size_bytes)


def test_spaces_are_the_runtimes_own(network: NumpyModel) -> None:
    hare, tortoise = (ADAPTER.space(on(runtime, network)) for runtime in ("hare", "tortoise"))
    assert set(hare.by_name) - set(tortoise.by_name) == {"dense_0"}


def test_a_candidate_stays_on_its_runtime_and_runs_there(network: NumpyModel, images: Sequence[Any]) -> None:
    config = QuantizationConfig(ops={"dense_1": DYNAMIC}, runtime="tortoise")
    model = on("tortoise", network)
    candidate = ADAPTER.apply(model, config, ADAPTER.calibrate(model, [{"data": images[0]}], seed=0))
    assert candidate.runtime == "tortoise"
    plain = NumpyAdapter().apply(network, QuantizationConfig(ops=config.ops), None)  # type: ignore[arg-type]  # needs none
    feeds = {"data": images[0]}
    expected = NumpyAdapter().runner(plain, Execution())(feeds)
    np.testing.assert_array_equal(ADAPTER.runner(candidate, Execution())(feeds)[0], expected[0])


def test_a_model_is_written_under_the_ending_of_its_runtime(network: NumpyModel, tmp_path: Path) -> None:
    model = on("tortoise", network)
    assert suffix_of(ADAPTER, model) == ".tortoise"
    # Nobody knows which runtime wins when they name the file.
    assert ADAPTER.save(model, tmp_path / "tuned.hare", {}) == (tmp_path / "tuned.tortoise",)
    assert ADAPTER.save(model, tmp_path / "mine.v2", {}) == (tmp_path / "mine.v2",)


def test_the_workspace_has_the_ending_of_the_winner_whatever_the_first_runtime_writes(
    network: NumpyModel, tmp_path: Path
) -> None:
    class Folder(NumpyAdapter):
        suffix = ""

    adapter = RuntimesAdapter({"folder": Folder(), "hare": TOYS["hare"]()}, {})
    trial = Trial(number=0, config=QuantizationConfig(), state=TrialState.COMPLETED, measurement=Measurement())
    Models(adapter, Criterion(relative=0.01), tmp_path).keep_best(on("hare", network), trial)
    assert files(tmp_path, "best") == ["best.hare"]


def test_adapter_and_model_can_be_sent_to_a_worker(network: NumpyModel) -> None:
    adapter, model = pickle.loads(pickle.dumps((ADAPTER, on("hare", network))))
    assert model.fingerprint == on("hare", network).fingerprint
    assert adapter.suffix_of(model) == ".hare"


def test_the_host_holds_the_packages_of_all() -> None:
    assert "numpy" in host_of(ADAPTER).packages
    assert ADAPTER.packages == ("numpy",)


def test_a_config_of_another_runtime_is_a_mistake_of_ours(network: NumpyModel) -> None:
    config = QuantizationConfig(ops={"dense_1": DYNAMIC}, runtime="hare")
    with pytest.raises(AssertionError, match="a config of hare for a model of tortoise"):
        ADAPTER.apply(on("tortoise", network), config, None)
