"""Candidates: each op computes as its config says, and nothing else does."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autotune.adapter import Array, Example, Execution
from autotune.adapters.mxnet.adapter import MxnetAdapter
from autotune.adapters.mxnet.framework import mx
from autotune.adapters.mxnet.model import MxnetModel
from autotune.calibration import CalibrationStatistics
from autotune.config import Precision, QuantizationConfig, Recipe
from autotune.errors import ApplyError
from tests.adapters.mxnet.networks import batches, images, mobile, residual, saved, shortcut

ADAPTER = MxnetAdapter()
ROOT = Path(__file__).parents[3]
NETWORKS = {"residual": residual, "mobile": mobile, "shortcut": shortcut}


def calibrated(name: str) -> tuple[MxnetModel, CalibrationStatistics]:
    model = ADAPTER.load(saved(NETWORKS[name]()), Example([images()]))
    return model, ADAPTER.calibrate(model, batches(), seed=0)


def config(model: MxnetModel, names: Sequence[str], **recipe: Any) -> QuantizationConfig:
    preferred = ADAPTER.space(model).preferred
    return QuantizationConfig(ops={name: preferred[name] for name in names}, recipe=Recipe(**recipe))


def offered(model: MxnetModel, statistics: CalibrationStatistics) -> list[str]:
    """Names of the ops that can be int8 for these data."""
    space, _ = ADAPTER.calibrated_space(ADAPTER.space(model), model, statistics)
    return [op.name for op in space.ops if op.space_of(Precision.INT8) is not None]


def outputs(model: MxnetModel) -> Array:
    return ADAPTER.runner(model, Execution(threads=1))({"data": images(seed=9)})[0]


def test_ops_have_the_names_of_the_users_symbol() -> None:
    model, _ = calibrated("residual")
    assert [op.name for op in model.ops] == ["first", "second", "pool", "third", "mean", "head"]


@pytest.mark.parametrize("name", NETWORKS)
def test_the_ops_of_a_config_and_no_others_are_integers(name: str) -> None:
    model, statistics = calibrated(name)
    names = offered(model, statistics)
    for chosen in ([each] for each in names):
        candidate = ADAPTER.apply(model, config(model, chosen), statistics)
        assert candidate.graph.integer_ops() == chosen
        assert candidate.notes == ()
        assert not np.array_equal(outputs(candidate), outputs(model))
    for chosen in (names, names[::2], names[1::2]):
        assert ADAPTER.apply(model, config(model, chosen), statistics).graph.integer_ops() == chosen


def test_a_config_without_ops_changes_nothing() -> None:
    model, statistics = calibrated("residual")
    candidate = ADAPTER.apply(model, QuantizationConfig(ops={}), statistics)
    np.testing.assert_array_equal(outputs(candidate), outputs(model))


@pytest.mark.parametrize("name", NETWORKS)
def test_int8_is_near_fp32(name: str) -> None:
    model, statistics = calibrated(name)
    names = offered(model, statistics)
    reference = outputs(model)
    for chosen in (names, *([each] for each in names)):
        noise = outputs(ADAPTER.apply(model, config(model, chosen), statistics)) - reference
        assert 10 * np.log10(np.square(reference).sum() / np.square(noise).sum()) > 28, chosen


def test_a_sum_that_would_be_cut_at_zero_stays_in_fp32() -> None:
    model, statistics = calibrated("mobile")
    _, notes = ADAPTER.calibrated_space(ADAPTER.space(model), model, statistics)
    assert offered(model, statistics) == ["stem", "expand", "depthwise", "last", "mean"]
    assert any("project" in line and "cut" in line for line in notes)
    with pytest.raises(ApplyError, match="cuts the sum at zero"):
        ADAPTER.apply(model, config(model, ["project"]), statistics)


def test_each_op_gets_the_range_of_its_input() -> None:
    model, statistics = calibrated("residual")
    narrow = CalibrationStatistics(
        {**statistics.tensors, "data": ADAPTER.calibrate(model, [{"data": images() / 8}], seed=0).tensors["data"]},
        statistics.samples,
    )
    reference = outputs(model)
    noise = [
        float(np.abs(outputs(ADAPTER.apply(model, config(model, [name]), found)) - reference).max())
        for name in ("first", "third")
        for found in (statistics, narrow)
    ]
    assert noise[1] > 5 * noise[0], "the first op reads what was cut off"
    assert noise[3] == noise[2], "the third does not"


def test_reduced_ranges_leave_a_bit_unused_and_cannot_saturate() -> None:
    model, statistics = calibrated("residual")
    plain, reduced = (
        ADAPTER.apply(model, config(model, ["second", "third"], reduce_range=each), statistics)
        for each in (False, True)
    )
    assert ADAPTER.saturating_ops(plain) == ("second", "third")
    assert ADAPTER.saturating_ops(reduced) == ()
    ends = [
        max(
            float(node["attrs"]["max_calib_range"]) for node in each.graph.nodes if node["op"] == "_contrib_quantize_v2"
        )
        for each in (plain, reduced)
    ]
    assert ends[1] == pytest.approx(ends[0] * 255 / 127)


def test_depthwise_convolutions_cannot_saturate() -> None:
    model, statistics = calibrated("mobile")
    candidate = ADAPTER.apply(model, config(model, offered(model, statistics)), statistics)
    assert ADAPTER.saturating_ops(candidate) == ("expand",)


def test_a_candidate_is_read_back_and_sent_as_it_is(tmp_path: Path) -> None:
    model, statistics = calibrated("residual")
    candidate = ADAPTER.apply(model, config(model, ["second", "third"]), statistics)
    expected = outputs(candidate)
    path, *_ = ADAPTER.save(candidate, tmp_path / "tuned-symbol.json", {})
    again = ADAPTER.load(path)
    assert again.graph.integer_ops() == ["second", "third"]
    assert ADAPTER.saturating_ops(again) == ("second", "third")
    assert not ADAPTER.space(again).ops
    np.testing.assert_array_equal(outputs(again), expected)
    np.testing.assert_array_equal(outputs(pickle.loads(pickle.dumps(candidate))), expected)


def test_the_kernels_that_run_are_integer_ones(tmp_path: Path) -> None:
    model, statistics = calibrated("residual")
    candidate = ADAPTER.apply(model, config(model, ["second", "pool", "third"]), statistics)
    path, *_ = ADAPTER.save(candidate, tmp_path / "tuned-symbol.json", {})
    script = (
        "import sys, numpy as np; from autotune.adapter import Execution\n"
        "from autotune.adapters.mxnet.adapter import MxnetAdapter as A\n"
        "A().runner(A().load(sys.argv[1]), Execution(threads=1))({'data': np.ones((1, 3, 16, 16), 'float32')})\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", script, str(path)],
        cwd=ROOT,
        env={**os.environ, "MKLDNN_VERBOSE": "1", "DNNL_VERBOSE": "1"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    kernels = {
        kind: ["src_u8" in line for line in said.splitlines() if ",exec," in line and f",{kind}," in line]
        for kind in ("convolution", "pooling_v2", "inner_product")
    }
    assert kernels == {"convolution": [False, True, True], "pooling_v2": [True, False], "inner_product": [False]}


def test_integers_go_from_op_to_op_where_poolings_and_flattenings_lie_between() -> None:
    model, statistics = calibrated("residual")
    candidate = ADAPTER.apply(model, config(model, offered(model, statistics)), statistics)
    kinds = [node["op"] for node in candidate.graph.nodes if node["op"] != "null"]
    assert kinds.count("_contrib_quantize_v2") == 1
    assert "_contrib_dequantize" not in kinds
    assert {"_contrib_quantized_pooling", "_contrib_quantized_flatten"} < set(kinds)
    without = ADAPTER.apply(model, config(model, ["first", "second", "third", "head"]), statistics)
    kinds = [node["op"] for node in without.graph.nodes if node["op"] != "null"]
    assert kinds.count("Pooling") == 2
    assert kinds.count("Flatten") == 1, "it has no integers to move"


def test_poolings_without_an_integer_kernel_are_not_offered() -> None:
    x = mx.sym.var("data")
    kinds: list[dict[str, Any]] = [{"pool_type": "sum"}, {"pool_type": "lp", "p_value": 2}, {"pool_type": "max"}]
    for index, options in enumerate(kinds):
        x = mx.sym.Pooling(x, kernel=(2, 2), name=f"pool{index}", **options)
    x = mx.sym.Convolution(x, name="last", num_filter=4, kernel=(1, 1))
    model = ADAPTER.load(saved(x), Example([images()]))
    assert [op.name for op in model.ops] == ["pool2", "last"]


def test_tensors_keep_their_names_behind_nodes_with_hidden_outputs() -> None:
    """A normalization that no convolution precedes is not fused, and has outputs that a symbol does not list."""
    x = mx.sym.BatchNorm(mx.sym.var("data"), name="norm", fix_gamma=False)
    left, right = mx.sym.SliceChannel(mx.sym.Convolution(x, name="a", num_filter=8, kernel=(3, 3)), num_outputs=2)
    left = mx.sym.Convolution(left, name="left", num_filter=4, kernel=(1, 1))
    right = mx.sym.Convolution(right, name="right", num_filter=4, kernel=(1, 1))
    model = ADAPTER.load(saved(mx.sym.elemwise_mul(left, right, name="gate")), Example([images()]))
    tensors = model.graph.fused.tensors
    sources = {op.name: op.source for op in model.ops}
    assert sources["a"] == "norm_output"
    assert [tensors[tensors.index(sources["left"]) + 1], sources["right"]] == [sources["right"]] * 2
    statistics = ADAPTER.calibrate(model, batches(), seed=0)
    candidate = ADAPTER.apply(model, config(model, offered(model, statistics)), statistics)
    assert candidate.graph.integer_ops() == ["a", "left", "right"]
    noise = outputs(candidate) - outputs(model)
    assert 10 * np.log10(np.square(outputs(model)).sum() / np.square(noise).sum()) > 28


def test_other_ops_and_precisions_are_refused() -> None:
    model, statistics = calibrated("residual")
    preferred = ADAPTER.space(model).preferred
    with pytest.raises(ApplyError, match="names nowhere"):
        ADAPTER.apply(model, QuantizationConfig(ops={"nowhere": preferred["first"]}), statistics)
    assert all(choice.precision is Precision.INT8 for choice in preferred.ops.values())


def test_missing_statistics_are_named() -> None:
    model, statistics = calibrated("residual")
    without = CalibrationStatistics({"data": statistics.tensors["data"]}, statistics.samples)
    with pytest.raises(ApplyError, match="needs statistics of"):
        ADAPTER.apply(model, config(model, ["third"]), without)
