"""The least time that the next candidate takes."""

from __future__ import annotations

import dataclasses

import pytest

from autotune.config import BiasCorrection, OpConfig, Precision, QuantizationConfig, Recipe
from autotune.trial import Measurement, Trial, TrialState
from autotune.tuning.prices import Prices

INT8 = {"conv": OpConfig(precision=Precision.INT8)}
PLAIN = QuantizationConfig(ops=INT8)
DEAR = QuantizationConfig(ops=INT8, recipe=Recipe(bias_correction=BiasCorrection.FULL))
OTHER = QuantizationConfig(ops=INT8, recipe=Recipe(equalization=True))


def baseline(*, samples: int | None = None) -> Trial:
    """The fp32 model, whose evaluation took 8 s; ``samples`` where a metric judged it."""
    measured = Measurement(accuracy=0.9, loss=0.0, samples=samples, samples_total=samples)
    return Trial(number=0, config=PLAIN, state=TrialState.COMPLETED, measurement=measured, duration_s=8.0)


def test_making_a_candidate_is_priced_by_its_recipe() -> None:
    prices = Prices()
    streamed = baseline(samples=100)
    assert prices.least_s(DEAR, streamed) == 0.0
    for config, seconds in ((DEAR, 9.0), (DEAR, 8.0), (PLAIN, 0.2), (DEAR, 8.5)):
        prices.made(config, seconds)
    assert prices.least_s(DEAR, streamed) == 8.0
    assert prices.least_s(PLAIN, streamed) == 0.2
    written = dataclasses.replace(DEAR, recipe=dataclasses.replace(DEAR.recipe, options={"format": "qoperator"}))
    assert prices.least_s(written, streamed) == 8.0, "how it is written costs nothing"
    assert prices.least_s(OTHER, streamed) == 0.2, "the cheapest, where its own recipe was never used"


@pytest.mark.parametrize(("loss", "samples"), [(None, None), (0.1, 50)])
def test_an_evaluation_that_did_not_run_to_its_end_prices_none(loss: float | None, samples: int | None) -> None:
    prices = Prices()
    assert prices.least_s(PLAIN, baseline()) == 2.0, "no candidate is four times as fast"
    prices.evaluated(Measurement(loss=loss, samples=samples), 0.5)
    assert prices.least_s(PLAIN, baseline()) == 2.0


def test_an_evaluation_is_priced_by_the_quickest_of_the_candidates() -> None:
    prices = Prices()
    for seconds in (7.0, 6.0, 6.5):
        prices.evaluated(Measurement(loss=0.1), seconds)
    prices.made(DEAR, 3.0)
    assert prices.least_s(DEAR, baseline()) == 9.0
    assert prices.least_s(DEAR, baseline(samples=100)) == 3.0, "a metric may end one after its first samples"
