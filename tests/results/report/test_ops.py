"""Ops as a report explains them."""

from __future__ import annotations

import dataclasses
import math

import pytest

from autotune.config import OpConfig, Precision, QuantizationConfig, Recipe
from autotune.results.report.ops import costliest, op_rows
from tests.results.report.conftest import ALL, WITHOUT_MIDDLE, MakeSummary, evidence, trial


def test_the_price_of_fp32_counts_the_conversions_at_the_borders_of_the_op(summary: MakeSummary) -> None:
    rows = {row.name: row for row in op_rows(summary(trial(1, ALL, 0.0, 2.0)))}
    # Kernels, and conversions of what it reads and writes.
    assert rows["<middle>"].price_ms == pytest.approx(0.5 - 0.2 + 0.02 + 0.03)
    assert rows["first"].price_ms == pytest.approx(0.4 - 0.1 + 0.02)
    assert rows["last"].price_ms == pytest.approx(0.1 - 0.3 + 0.03)


def test_an_op_that_is_fp32_already_has_the_price_that_was_paid(summary: MakeSummary) -> None:
    rows = {row.name: row for row in op_rows(summary())}
    assert not rows["<middle>"].quantized
    assert rows["<middle>"].price_ms == pytest.approx(0.5 - 0.2 + 0.02 + 0.03)
    # Beside an op in fp32 there is nothing left to convert.
    assert rows["first"].price_ms == pytest.approx(0.4 - 0.1 - 0.02)
    assert "keeps 80 % of the noise out" in rows["<middle>"].why


def test_the_costliest_are_those_of_most_noise_and_never_guesses_of_nothing(summary: MakeSummary) -> None:
    assert [row.name for row in costliest(op_rows(summary()))] == ["<middle>", "first", "last"]
    unknown = summary(evidence=evidence(sensitivity={"first": 0.0, "last": math.inf}))
    assert [row.name for row in costliest(op_rows(unknown))] == ["last"]


def test_a_share_of_a_group_is_marked_as_a_guess(summary: MakeSummary) -> None:
    rows = op_rows(summary(evidence=evidence(alone=frozenset({"<middle>"}))))
    assert [row.guessed for row in rows] == [True, False, True]
    assert not any(row.guessed for row in op_rows(summary()))


def test_two_trials_that_differ_in_one_op_speak_for_it(summary: MakeSummary) -> None:
    rows = {row.name: row for row in op_rows(summary())}
    assert rows["<middle>"].trials == ("fp32 in trial 2, quantized in 1: loss 5.00 % → 0.20 %, 2.00x → 1.60x")
    assert rows["first"].trials == "quantized in 2 of 2 trials"


def test_the_closest_pair_of_trials_speaks(summary: MakeSummary) -> None:
    none = QuantizationConfig(ops={"last": ALL["last"]})
    rows = {row.name: row for row in op_rows(summary(trial(1, ALL, 0.05, 2.0), trial(2, none, 0.001, 1.2)))}
    assert rows["first"].trials.endswith("together with <middle>")
    closer = trial(3, WITHOUT_MIDDLE, 0.002, 1.6)
    rows = {row.name: row for row in op_rows(summary(trial(1, ALL, 0.05, 2.0), trial(2, none, 0.001, 1.2), closer))}
    assert rows["first"].trials == "fp32 in trial 2, quantized in 3: loss 0.20 % → 0.10 %, 1.60x → 1.20x"


def test_trials_of_different_recipes_are_not_compared(summary: MakeSummary) -> None:
    other = dataclasses.replace(WITHOUT_MIDDLE, recipe=Recipe(equalization=True))
    rows = op_rows(summary(trial(1, ALL, 0.05, 2.0), trial(2, other, 0.002, 1.6)))
    assert {row.trials for row in rows} == {"quantized in 2 of 2 trials", "quantized in 1 of 2 trials"}


def test_a_workspace_that_kept_nothing_still_has_its_ops(summary: MakeSummary) -> None:
    bare = evidence(sensitivity={}, seconds={}, crossing={}, readers=None, tensors=(), runs=())
    rows = op_rows(summary(evidence=bare))
    assert [row.name for row in rows] == ["first", "<middle>", "last"]
    assert {(row.price_ms, row.sensitivity) for row in rows} == {(None, None)}


def test_other_precisions_are_priced_by_their_own_profile(summary: MakeSummary) -> None:
    config = QuantizationConfig(ops={"first": OpConfig(precision=Precision.BF16)})
    given = evidence(seconds={"first": {"fp32": 4e-4, "int8": 1e-4, "bf16": 3e-4}})
    rows = {row.name: row for row in op_rows(summary(trial(1, config, 0.0, 1.2), evidence=given))}
    assert rows["first"].price_ms == pytest.approx(0.1)
