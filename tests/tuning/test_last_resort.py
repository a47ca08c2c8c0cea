from __future__ import annotations

import dataclasses

from autotune.config import OpConfig, Precision, QuantizationConfig
from autotune.criterion import Interval, Verdict
from autotune.recipe import BiasCorrection, Recipe, SmoothQuant, WeightRounding
from autotune.strategy import Objective
from autotune.trial import Measurement, Trial, TrialState
from autotune.tuning.last_resort import trained_config, worth_training
from autotune.tuning.preparation import in_terms_of_fp32

INT8 = OpConfig(precision=Precision.INT8)


def trial(number: int, loss: float | None, speedup: float, *, precision: Precision = Precision.INT8) -> Trial:
    return Trial(
        number=number,
        config=QuantizationConfig(ops={f"op{number}": OpConfig(precision=precision)}),
        state=TrialState.COMPLETED,
        measurement=Measurement(
            loss=loss,
            verdict=Verdict.MISSED,
            latency_ms=1.0 / speedup,
            speedup=speedup,
            speedup_interval=Interval(low=speedup - 0.02, high=speedup + 0.02),
            size_bytes=int(1000 / speedup),
        ),
    )


def numbers(*trials: Trial, objective: Objective = Objective.LATENCY) -> list[int]:
    return [each.number for each in worth_training(trials, objective)]


def test_of_the_fast_ones_the_one_that_loses_least_comes_first_then_the_nearest() -> None:
    trials = [trial(1, 0.30, 2.0), trial(2, 0.05, 1.9), trial(3, 0.02, 1.2), trial(4, 0.04, 1.3)]
    assert numbers(*trials) == [2, 3]
    assert numbers(*trials, objective=Objective.SIZE) == [2, 3]
    assert numbers(trials[0], trials[1]) == [2]  # the nearest is the same


def test_what_cannot_be_trained_or_is_not_worth_it_is_left_out() -> None:
    assert numbers() == []
    assert numbers(trial(1, None, 2.0)) == []  # nobody knows what it loses
    assert numbers(trial(1, 0.1, 0.9)) == []  # slower than fp32
    assert numbers(trial(1, 0.1, 0.9), objective=Objective.SIZE) == [1]
    assert numbers(trial(1, 0.1, 2.0, precision=Precision.INT8_DYNAMIC)) == []  # no ranges to train with
    assert numbers(trial(1, 0.1, 2.0, precision=Precision.FP16)) == []  # nothing that training could mend
    first = trial(1, 0.1, 2.0)
    assert numbers(dataclasses.replace(first, same_as=0)) == []
    assert numbers(dataclasses.replace(first, state=TrialState.FAILED, reason="no kernel", measurement=None)) == []
    assert numbers(dataclasses.replace(first, config=trained_config(first.config))) == []
    assert numbers(dataclasses.replace(first, state=TrialState.PRUNED, reason="loses too much")) == [1]


def test_two_candidates_that_differ_in_what_training_replaces_are_one() -> None:
    config = QuantizationConfig(ops={"op": INT8})
    mended = dataclasses.replace(config, recipe=Recipe(equalization=True, bias_correction=BiasCorrection.FULL))
    trials = [
        dataclasses.replace(trial(1, 0.3, 2.0), config=config),
        dataclasses.replace(trial(2, 0.2, 1.0 + 0.1), config=mended),
    ]
    assert numbers(*trials) == [1]


def test_a_trained_config_keeps_grids_and_leaves_out_what_moves_them() -> None:
    recipe = Recipe(
        reduce_range=True,
        equalization=True,
        bias_correction=BiasCorrection.FULL,
        weight_rounding=WeightRounding.GPTQ,
        smooth_quant=SmoothQuant.AUTO,
        options={"format": "qoperator"},
    )
    trained = trained_config(QuantizationConfig(ops={"op": INT8}, recipe=recipe, runtime="openvino"))
    assert trained == QuantizationConfig(
        ops={"op": INT8},
        recipe=Recipe(reduce_range=True, options={"format": "qoperator"}),
        runtime="openvino",
        trained=True,
    )


def test_a_strategy_does_not_see_what_was_trained() -> None:
    first, second = trial(1, 0.3, 2.0), trial(2, 0.1, 2.0)
    trained = dataclasses.replace(second, config=trained_config(first.config))
    baseline = dataclasses.replace(trial(0, 0.0, 1.0), config=QuantizationConfig())
    assert in_terms_of_fp32([baseline, first, trained]) == [baseline, first]


def test_a_config_says_that_it_was_trained_and_others_are_stored_as_before() -> None:
    config = trained_config(QuantizationConfig(ops={"op": INT8}))
    assert config.to_json()["trained"] is True
    assert QuantizationConfig.from_json(config.to_json()) == config
    plain = dataclasses.replace(config, trained=False)
    assert "trained" not in plain.to_json()
    assert plain.fingerprint != config.fingerprint
    assert plain.diff(config) == "trained: False -> True"
    assert not QuantizationConfig(trained=True).trained  # nothing is quantized, and nothing was trained
