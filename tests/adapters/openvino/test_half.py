from __future__ import annotations

from pathlib import Path

import numpy as np
import openvino as ov
import pytest

from autotune.adapters.openvino import adapter, candidate, session
from autotune.config import OpConfig, Precision, QuantizationConfig
from autotune.errors import ApplyError
from tests.adapters.openvino.calibrated import ADAPTER, ONE_THREAD, wide

BF16 = OpConfig(precision=Precision.BF16)
OPS = ("c1", "c2", "c3", "sum", "logits")


@pytest.fixture
def with_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (adapter, candidate):
        monkeypatch.setattr(module, "half_types", lambda: ("bf16", "f16"))


@pytest.mark.parametrize("listed", [[], ["FP32", "INT8"], ["FP32", "BF16"], ["FP32", "FP16"], ["FP16", "BF16", "FP32"]])
def test_only_what_openvino_lists_is_offered(listed: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ov.Core, "get_property", lambda *_: listed)
    found = session.half_types()
    assert found == tuple(name for name, key in (("bf16", "BF16"), ("f16", "FP16")) if key in listed)
    monkeypatch.setattr(adapter, "half_types", lambda: found)
    offered = {space.precision for op in ADAPTER.space(wide().model).ops for space in op.precisions}
    half = {"BF16": Precision.BF16, "FP16": Precision.FP16}
    expected = next(({half[key]} for key in ("BF16", "FP16") if key in listed), set())
    assert offered - {Precision.INT8, Precision.FP32} == expected


@pytest.mark.usefixtures("with_bf16")
def test_one_half_op_makes_all_floating_point_half_and_the_notes_say_so(tmp_path: Path) -> None:
    int8 = {name: choice for name, choice in ADAPTER.space(wide().model).preferred.ops.items() if name == "c1"}
    made = ADAPTER.apply(wide().model, QuantizationConfig(ops={**int8, "c3": BF16}), wide().statistics)
    assert made.floats == "bf16"
    assert "INFERENCE_PRECISION_HINT=bf16" in made.notes[0]
    assert made.notes[1].startswith("'c2', 'sum', 'logits': in bf16 too")
    assert made.fingerprint != wide().int8("c1").fingerprint
    ADAPTER.save(made, tmp_path / "model.xml", {})
    again = ADAPTER.load(tmp_path / "model.xml")
    assert ADAPTER.as_given(again).floats == again.floats == "bf16"
    feeds = wide().batches[0]
    ours, theirs = (ADAPTER.runner(model, ONE_THREAD)(feeds)[0] for model in (made, again))
    np.testing.assert_array_equal(ours, theirs)
    fp32 = ADAPTER.apply(wide().model, QuantizationConfig(), wide().statistics)
    assert fp32.floats == "f32"


def test_two_half_types_in_one_model_are_refused() -> None:
    config = QuantizationConfig(ops={"c1": BF16, "c3": OpConfig(precision=Precision.FP16)})
    with pytest.raises(ApplyError, match="one floating-point type for a whole model, but the config asks for bf16 and"):
        ADAPTER.apply(wide().model, config, wide().statistics)


@pytest.mark.usefixtures("with_bf16")
def test_a_hint_that_openvino_ignores_is_no_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    options = session.compile_options
    monkeypatch.setattr(session, "compile_options", lambda execution, _, profile: options(execution, profile=profile))
    space, notes = ADAPTER.calibrated_space(ADAPTER.space(wide().model), wide().model, wide().statistics)
    assert {each.precision for op in space.ops for each in op.precisions} == {Precision.INT8, Precision.FP32}
    assert notes == ["'c1', 'c2', 'c3' and 2 more: no bf16, since OpenVINO computes them in fp32 all the same"]


@pytest.mark.skipif("bf16" not in session.half_types(), reason="OpenVINO computes in bf16 on some CPUs alone")
@pytest.mark.usefixtures("with_bf16")
def test_where_the_cpu_has_bf16_openvino_computes_in_it() -> None:
    made = ADAPTER.apply(wide().model, QuantizationConfig(ops=dict.fromkeys(OPS, BF16)), wide().statistics)
    assert made.notes == made.told
    feeds = wide().batches[0]
    reference, half = (ADAPTER.runner(model, ONE_THREAD)(feeds)[0] for model in (wide().model, made))
    assert 0 < np.abs(half - reference).mean() < 0.02 * np.abs(reference).mean()
