from __future__ import annotations

import dataclasses
import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from autotune.adapter import Execution
from autotune.adapters.openvino import adapter
from autotune.config import QuantizationConfig, Recipe
from autotune.host import current_host
from autotune.portability import portable_space
from tests.adapters.openvino.calibrated import ADAPTER, wide


@pytest.mark.parametrize("recipe", [Recipe(reduce_range=True), Recipe(bound_pairs=True)], ids=["7 bits", "pairs"])
def test_only_unbounded_weights_can_saturate(recipe: Recipe) -> None:
    # A depthwise convolution sums in 32 bits, and a sum multiplies nothing.
    assert ADAPTER.saturating_ops(wide().int8()) == ("c1", "c3", "logits")
    assert ADAPTER.saturating_ops(wide().int8(recipe=recipe)) == ()
    assert ADAPTER.saturating_ops(wide().model) == ()


@pytest.mark.skipif(platform.machine() != "x86_64", reason="asks x86 kernels to do without VNNI")
def test_what_is_said_to_saturate_does_so_without_vnni_and_nothing_else() -> None:
    command = [sys.executable, "-m", "tests.adapters.openvino.without_vnni"]
    root = Path(__file__).parents[3]
    outcome = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=root)
    found = json.loads(outcome.stdout.splitlines()[-1])
    for case, by_recipe in found.items():
        for recipe, (ratio, at_risk) in by_recipe.items():
            assert at_risk == (recipe == "8 bits" and case != "depthwise"), f"{case}, {recipe}"
            assert (ratio < 0.9) == at_risk, f"{case}, {recipe}: {ratio}"
            assert at_risk or ratio == pytest.approx(1, abs=0.02), f"{case}, {recipe}"


def test_bounded_pairs_are_closer_than_seven_bits() -> None:
    def error(recipe: Recipe) -> float:
        run = ADAPTER.runner(wide().int8("c3", recipe=recipe), Execution())
        reference = ADAPTER.runner(wide().model, Execution())
        return float(abs(run(wide().batches[0])[0] - reference(wide().batches[0])[0]).mean())

    assert error(Recipe(bound_pairs=True)) < error(Recipe(reduce_range=True))


def test_a_host_without_vnni_is_offered_bounded_weights_first(monkeypatch: pytest.MonkeyPatch) -> None:
    for features, offered in (((), (True, False)), (("avx512_vnni",), (False,))):
        host = dataclasses.replace(current_host(), architecture="x86_64", features=features)
        monkeypatch.setattr(adapter, "current_host", lambda _packages, host=host: host)
        assert ADAPTER.space(wide().model).recipe.bound_pairs == offered


def test_a_portable_space_has_no_candidate_that_can_saturate() -> None:
    space = portable_space(ADAPTER.space(wide().model))
    config = QuantizationConfig(ops=space.preferred.ops, recipe=space.recipe.preferred)
    assert ADAPTER.saturating_ops(ADAPTER.apply(wide().model, config, wide().statistics)) == ()
