"""The offer that follows from measured speeds, the measurement itself, and the cache that spares it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from autotune.adapter import Execution, host_of
from autotune.adapters.onnx.graph import Graph
from autotune.adapters.onnxruntime import OnnxRuntimeAdapter
from autotune.adapters.onnxruntime.choices.ops import quantizable_ops
from autotune.adapters.onnxruntime.choices.space import tuning_space
from autotune.adapters.onnxruntime.measure.half_cache import half_speeds, read_or_measure
from autotune.adapters.onnxruntime.measure.half_speed import (
    Case,
    HalfFigure,
    HalfSpeeds,
    Kind,
    kind_of,
    measure,
    work_of,
)
from autotune.cache import CACHE_VARIABLE, cache_folder
from autotune.config import OpConfig, Precision
from autotune.errors import ExperimentError
from autotune.evaluation.latency import LatencyOptions
from autotune.restriction import OpRestriction, SpaceRestriction
from tests.adapters.onnx.graphs import build, node, normal, small_cnn
from tests.adapters.onnx.transformers import small_transformer

ADAPTER = OnnxRuntimeAdapter()
QUICK = LatencyOptions(warmup=1, min_pairs=5, max_pairs=10, max_seconds=0.1)


def figure(work: int, low: float | None, precision: Precision = Precision.FP16, kind: Kind = Kind.MATMUL) -> HalfFigure:
    return HalfFigure(kind=kind, work=work, precision=precision, kernel=True, speedup=low or 0.5, low=low)


def everything_faster(*precisions: Precision) -> HalfSpeeds:
    return HalfSpeeds(figures=tuple(figure(1000, 2.0, precision, kind) for precision in precisions for kind in Kind))


def test_real_measurement_of_small_sizes() -> None:
    cases = [
        Case(kind=Kind.MATMUL, source=(1, 64), outputs=64),
        Case(kind=Kind.GEMM, source=(4, 64), outputs=64),
        Case(kind=Kind.CONV, source=(1, 8, 8, 8), outputs=8),
        Case(kind=Kind.POINTWISE, source=(1, 8, 8, 8), outputs=8),
        Case(kind=Kind.DEPTHWISE, source=(1, 8, 8, 8), outputs=8),
    ]
    assert [case.work for case in cases] == [4096, 16384, 36864, 4096, 4608]
    found = measure(cases, QUICK, without_kernel=True).figures
    assert [(f.kind, f.precision) for f in found] == [
        (case.kind, precision) for precision in (Precision.FP16, Precision.BF16) for case in cases
    ]
    assert all(f.speedup is not None and f.speedup > 0 for f in found if f.precision is Precision.FP16)
    for each in found:
        # A kernel that is missing is slower or the same by the clock, whatever chance says of small sizes.
        assert each.kernel or not each.faster
        assert each.low is None or (each.speedup is not None and each.low <= each.speedup)


def test_without_a_kernel_nothing_is_measured() -> None:
    found = measure([Case(kind=Kind.MATMUL, source=(1, 16), outputs=16)], QUICK).figures
    for each in found:
        assert (each.speedup is None) == (not each.kernel)


@pytest.mark.parametrize(
    ("lows", "work", "offered"),
    [
        ([1.2, 1.3], 500, True),
        ([1.2, 1.3], 50, True),
        ([1.2, 1.3], 5000, True),
        ([1.2, 1.3], None, True),
        ([0.9, 1.3], 50, False),
        ([0.9, 1.3], 500, False),
        ([0.9, 1.3], 1000, True),
        ([0.9, 1.3], 5000, True),
        ([0.9, 1.3], None, False),
        ([1.3, 0.9], 5000, False),
        ([1.04, 1.04], 500, False),
        ([None, None], 500, False),
        ([], 500, False),
    ],
)
def test_offered_only_where_the_sizes_around_are_faster(
    lows: list[float | None], work: int | None, offered: bool
) -> None:
    speeds = HalfSpeeds(figures=tuple(figure(size, low) for size, low in zip((100, 1000), lows, strict=False)))
    assert speeds.offered(Kind.MATMUL, work) == ((Precision.FP16,) if offered else ())
    assert speeds.offered(Kind.CONV, work) == ()


def test_float32_in_disguise_is_never_offered() -> None:
    disguised = HalfFigure(kind=Kind.CONV, work=10, precision=Precision.FP16, kernel=False, speedup=1.5, low=1.4)
    assert HalfSpeeds(figures=(disguised,)).offered(Kind.CONV, 10) == ()


def test_the_faster_of_two_comes_first() -> None:
    speeds = HalfSpeeds(figures=(figure(10, 1.2), figure(10, 1.4, Precision.BF16)))
    assert speeds.offered(Kind.MATMUL, 10) == (Precision.BF16, Precision.FP16)


def test_line_for_people() -> None:
    assert str(HalfSpeeds()) == "fp16 and bf16 not measured"
    none = HalfFigure(kind=Kind.CONV, work=10, precision=Precision.BF16, kernel=False)
    speeds = HalfSpeeds(figures=(figure(10, 1.2), figure(20, 1.5), figure(10, 0.25, kind=Kind.GEMM), none))
    assert str(speeds) == (
        "fp16 offered where faster: MatMul 1.2x to 1.5x, Gemm 0.25x of fp32's speed; "
        "bf16 not offered: ONNX Runtime has no kernel for MatMul, Gemm and Conv here"
    )


def test_int8_stays_first_and_fp32_comes_after() -> None:
    graph = Graph(ADAPTER.load(small_cnn()).proto)
    space = tuning_space(graph, host_of(ADAPTER), everything_faster(Precision.FP16))
    plain = tuning_space(graph, host_of(ADAPTER))
    assert [p.precision for p in space.by_name["c1"].precisions] == [
        Precision.INT8,
        Precision.INT8_DYNAMIC,
        Precision.FP16,
        Precision.FP32,
    ]
    assert space.preferred == plain.preferred
    # Ops that were not measured, or have no weight, have no such choice.
    assert all(space.by_name[name] == plain.by_name[name] for name in ("sum", "pooled"))
    assert OpConfig(precision=Precision.FP16) in space.by_name["logits"]
    assert not any(p.precision is Precision.FP16 for op in plain.ops for p in op.precisions)


def test_matmuls_of_a_transformer_prefer_what_they_did() -> None:
    graph = Graph(ADAPTER.load(small_transformer()).proto)
    both = tuning_space(graph, host_of(ADAPTER), everything_faster(Precision.FP16, Precision.BF16))
    plain = tuning_space(graph, host_of(ADAPTER))
    assert both.preferred == plain.preferred
    assert [p.precision for p in both.by_name["inner"].precisions] == [
        Precision.INT8_DYNAMIC,
        Precision.INT8,
        Precision.FP16,
        Precision.BF16,
        Precision.FP32,
    ]


def test_type_that_the_opset_does_not_have_is_not_offered() -> None:
    graph = Graph(ADAPTER.load(small_cnn()).proto)
    space = tuning_space(graph, host_of(ADAPTER), everything_faster(Precision.BF16))
    assert space.by_name["c1"].space_of(Precision.BF16) is None  # Conv has bfloat16 from opset 22 on
    assert space.by_name["logits"].space_of(Precision.BF16) is not None


def test_kinds_and_work() -> None:
    graph = Graph(ADAPTER.load(small_cnn()).proto)
    found = {op.name: (kind_of(op, graph), work_of(op, graph)) for op in quantizable_ops(graph)[0]}
    assert found["c1"] == (Kind.CONV, 64 * 32 * 27)
    assert found["c2"] == (Kind.DEPTHWISE, 64 * 32 * 9)
    assert found["c3"] == (Kind.POINTWISE, 64 * 32 * 32)
    assert found["logits"] == (Kind.GEMM, 32 * 500)
    assert found["sum"][0] is None


def test_unknown_size_needs_every_size_to_be_faster() -> None:
    proto = build([node("MatMul", "x w", "y")], {"x": ("N", "tokens", 8)}, {"y": None}, {"w": normal(8, 4)})
    graph = Graph(ADAPTER.load(proto).proto)
    (op,) = quantizable_ops(graph)[0]
    assert work_of(op, graph) is None


def test_precision_that_is_not_offered_is_a_clear_error() -> None:
    space = ADAPTER.space(ADAPTER.load(small_cnn()))
    wanted = OpRestriction(precision=(Precision.FP16,))
    with pytest.raises(
        ExperimentError, match=r"'c1' \(Conv\) can compute in int8, int8_dynamic, fp32, but `precision`"
    ):
        SpaceRestriction(op_name={"c1": wanted}).apply(space)
    offered = tuning_space(Graph(ADAPTER.load(small_cnn()).proto), host_of(ADAPTER), everything_faster(Precision.FP16))
    restricted = SpaceRestriction(op_name={"c1": wanted}).apply(offered)
    assert restricted.preferred["c1"] == OpConfig(precision=Precision.FP16)
    assert restricted.decode(restricted.encode(restricted.preferred)) == restricted.preferred


class Measured:
    """A measurement that counts how often it is asked for."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> HalfSpeeds:
        self.calls += 1
        return HalfSpeeds(figures=(figure(100, 1.2), figure(100, None, Precision.BF16)))


def test_second_run_reads_what_the_first_measured(tmp_path: Path) -> None:
    measured = Measured()
    folder = tmp_path / "made" / "on demand"
    first = read_or_measure("host", folder, measured)
    assert read_or_measure("host", folder, measured) == first == measured.__class__()()
    assert measured.calls == 1
    assert [path.name for path in folder.iterdir()] == ["half-precision-host.json"], "no temporary file is left"


def test_other_host_is_measured_anew(tmp_path: Path) -> None:
    measured = Measured()
    for host in ("one", "other", "one", "other"):
        read_or_measure(host, tmp_path, measured)
    assert measured.calls == 2


@pytest.mark.parametrize(
    "damage", ["", "{", "[]", "null", '{"format_version": 1}', "version", "host", "figures", "kind", "binary"]
)
def test_file_that_cannot_be_used_is_written_anew(tmp_path: Path, damage: str) -> None:
    measured = Measured()
    expected = read_or_measure("host", tmp_path, measured)
    path = tmp_path / "half-precision-host.json"
    data = json.loads(path.read_text())
    if damage == "version":
        data["format_version"] = 99
    elif damage == "host":
        data["host"] = "another"
    elif damage == "figures":
        data["figures"] = 5
    elif damage == "kind":
        data["figures"][0]["kind"] = "LSTM"
    text = json.dumps(data).encode() if damage in ("version", "host", "figures", "kind") else damage.encode()
    path.write_bytes(b"\xff\xfe\x00" if damage == "binary" else text)
    assert read_or_measure("host", tmp_path, measured) == expected
    assert read_or_measure("host", tmp_path, measured) == expected
    assert measured.calls == 2


@pytest.mark.parametrize(
    "change",
    [
        {"speedup": 1e308},
        {"speedup": float("inf")},
        {"speedup": float("nan")},
        {"speedup": -1.0},
        {"low": 0.0},
        {"low": 1.3},
        {"work": 0},
        {"work": 1.5},
        {"kernel": "no"},
    ],
    ids=str,
)
def test_figures_that_nobody_measured_are_measured_anew(tmp_path: Path, change: dict[str, Any]) -> None:
    measured = Measured()
    expected = read_or_measure("host", tmp_path, measured)
    path = tmp_path / "half-precision-host.json"
    data = json.loads(path.read_text())
    data["figures"][0] |= change
    path.write_text(json.dumps(data))
    assert read_or_measure("host", tmp_path, measured) == expected
    assert measured.calls == 2


def test_deeply_nested_text_is_measured_anew(tmp_path: Path) -> None:
    (tmp_path / "half-precision-host.json").write_text("[" * 100_000)
    assert read_or_measure("host", tmp_path, Measured()).figures


def test_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    measured = Measured()
    taken = tmp_path / "file"
    taken.write_text("not a folder")
    for folder in (taken, taken / "below", None):
        assert read_or_measure("host", folder, measured).figures
    assert measured.calls == 3
    (tmp_path / "half-precision-host.json").mkdir()  # renaming onto a folder fails
    assert read_or_measure("host", tmp_path, measured).figures
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "half-precision-host.json"]


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv(CACHE_VARIABLE)
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "autotune"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "autotune"


def test_the_adapter_says_what_the_cache_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    read_or_measure(host_of(ADAPTER).fingerprint, tmp_path, lambda: everything_faster(Precision.FP16))
    assert ADAPTER.host_findings() == (str(half_speeds(host_of(ADAPTER))),)
    assert ADAPTER.host_findings()[0].startswith("fp16 offered where faster")
    assert ADAPTER.space(ADAPTER.load(small_cnn())).by_name["c1"].space_of(Precision.FP16) is not None


def test_offered_choices_can_be_applied_and_run() -> None:
    model = ADAPTER.load(small_cnn())
    space = tuning_space(Graph(model.proto), host_of(ADAPTER), everything_faster(Precision.FP16))
    batches = [{"x": normal(2, 3, 8, 8, scale=1.0)}]
    statistics = ADAPTER.calibrate(model, batches, seed=0)
    config = space.uniform(OpConfig(precision=Precision.FP16))
    assert set(config.ops) == {"c1", "c2", "c3", "logits"}
    candidate = ADAPTER.apply(model, config, statistics)
    onnx.checker.check_model(candidate.proto)
    expected, actual = (ADAPTER.runner(each, Execution())(batches[0])[0] for each in (model, candidate))
    np.testing.assert_allclose(actual, expected, atol=5e-3 * float(np.abs(expected).max()))
