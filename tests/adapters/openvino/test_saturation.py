from __future__ import annotations

import dataclasses

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


def test_bounded_pairs_are_closer_than_seven_bits() -> None:
    def error(recipe: Recipe) -> float:
        run = ADAPTER.runner(wide().int8("c3", recipe=recipe), Execution())
        reference = ADAPTER.runner(wide().model, Execution())
        return float(abs(run(wide().batches[0])[0] - reference(wide().batches[0])[0]).mean())

    assert error(Recipe(bound_pairs=True)) < error(Recipe(reduce_range=True))


def test_a_host_without_vnni_is_offered_bounded_weights_first(monkeypatch: pytest.MonkeyPatch) -> None:
    for features, offered in (((), (True, False)), (("avx512_vnni",), (False,))):
        host = dataclasses.replace(current_host(), architecture="x86_64", features=features)
        monkeypatch.setattr(adapter, "current_host", lambda host=host: host)
        assert ADAPTER.space(wide().model).recipe.bound_pairs == offered


def test_a_portable_space_has_no_candidate_that_can_saturate() -> None:
    space = portable_space(ADAPTER.space(wide().model))
    config = QuantizationConfig(ops=space.preferred.ops, recipe=space.recipe.preferred)
    assert ADAPTER.saturating_ops(ADAPTER.apply(wide().model, config, wide().statistics)) == ()
