from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import autotune
from autotune.config import QuantizedType
from autotune.criterion import Criterion
from autotune.errors import ApplyError, ExperimentError
from autotune.host import current_host
from autotune.portability import portable_space, require_portable, saturation_note
from autotune.restriction import SpaceRestriction
from autotune.results.summary import TuningSummary, read_summary
from autotune.trial import TrialState
from tests.numpy_adapter import NumpyAdapter
from tests.numpy_framework import NumpyModel, read

QUICK: dict[str, Any] = {
    "framework": "numpy",
    "objective": "size",
    "strategy": "basic",
    "max_trials": 1,
    "criterion": Criterion(relative=0.2),
    "warmup": 1,
    "latency_max_s": 0.2,
}


def test_a_portable_space_has_bounded_pairs_of_weights_and_activations_of_u8(network: NumpyModel) -> None:
    adapter = NumpyAdapter()
    offered = adapter.space(adapter.load(network))
    space = portable_space(offered)
    assert space.recipe.bound_pairs == (True,)
    assert space.recipe.reduce_range == (False, True)
    assert space.recipe.equalization == offered.recipe.equalization
    for op in space.ops:
        for precision in op.precisions:
            assert all(scheme.dtype is QuantizedType.U8 for scheme in precision.activations)
    assert [op.precisions[-1].precision for op in space.ops] == [op.precisions[-1].precision for op in offered.ops]


def test_the_answer_of_a_portable_run_cannot_saturate(network: NumpyModel, images: Sequence[Any], score: Any) -> None:
    result = autotune.Tuner(portable=True, **QUICK).tune(network, images, score)
    assert not result.best.config.is_fp32
    assert result.saturation_risk == ()
    assert not [note for note in result.notes if "saturate" in note]


@pytest.mark.parametrize("narrow", [True, False])
def test_weights_of_7_bits_are_portable_too(
    network: NumpyModel, images: Sequence[Any], score: Any, narrow: bool
) -> None:
    restriction = SpaceRestriction(recipe={"reduce_range": (narrow,)})
    result = autotune.Tuner(portable=True, restriction=restriction, **QUICK).tune(network, images, score)
    assert result.best.config.recipe.reduce_range is narrow
    assert result.saturation_risk == ()


def test_the_answer_of_another_run_names_its_ops_at_risk(
    network: NumpyModel, images: Sequence[Any], score: Any, tmp_path: Path
) -> None:
    free = SpaceRestriction(recipe={"bound_pairs": (False,), "reduce_range": (False,)})
    result = autotune.Tuner(restriction=free, workspace=tmp_path, **QUICK).tune(network, images, score)
    assert set(result.saturation_risk) <= {"dense_0", "dense_1", "dense_2", "head"}
    assert "dense_1" in result.saturation_risk
    assert any("can saturate on x86 CPUs without VNNI" in note and "dense_1" in note for note in result.notes)
    report = result.report(tmp_path / "report.html").read_text()
    assert "Ops that can saturate without VNNI" in report
    assert read_summary(tmp_path).saturation_risk == list(result.saturation_risk)
    assert TuningSummary.from_json(result.to_json(), result.history).saturation_risk == list(result.saturation_risk)
    metadata = read(result.save(tmp_path / "out.npz"))[1]
    assert json.loads(metadata["autotune:host"])["cpu"] == current_host().cpu


def test_a_candidate_that_saturates_all_the_same_fails(
    network: NumpyModel, images: Sequence[Any], score: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(NumpyAdapter, "saturating_ops", lambda _self, _model: ("dense_1",))
    result = autotune.Tuner(portable=True, **QUICK).tune(network, images, score)
    assert result.history[1].state is TrialState.FAILED
    assert "must not saturate" in (result.history[1].reason or "")


def test_weights_without_a_bound_contradict_portability(network: NumpyModel, images: Sequence[Any], score: Any) -> None:
    free = SpaceRestriction(recipe={"bound_pairs": (False,)})
    with pytest.raises(ExperimentError, match="bound_pairs"):
        autotune.Tuner(portable=True, restriction=free, **QUICK).tune(network, images, score)


def test_a_message_names_a_few_ops_and_counts_the_rest() -> None:
    require_portable([])
    with pytest.raises(ApplyError, match=r"7 ops \(a, b, c, d, e and 2 more\)"):
        require_portable(list("abcdefg"))


def test_the_note_says_what_this_cpu_has_to_do_with_it() -> None:
    wide = dataclasses.replace(current_host(), architecture="x86_64", features=("avx512_vnni",))
    narrow = dataclasses.replace(wide, features=())
    assert saturation_note([], wide) is None
    assert "portable=True" in (saturation_note(["a"], wide) or "")
    assert "This CPU is one of them" in (saturation_note(["a"], narrow) or "")
