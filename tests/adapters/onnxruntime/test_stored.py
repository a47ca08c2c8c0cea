"""Stored workspaces of earlier versions: they are read and resumed by these literal values."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import pytest
from optuna.distributions import distribution_to_json

from autotune.adapter import host_of
from autotune.adapters.onnxruntime import OnnxRuntimeAdapter
from autotune.adapters.onnxruntime.choices.execution_options import FORMAT, OPTIMIZATION
from autotune.config import MINMAX, PERCENTILE, Precision, QuantizationConfig, TensorScheme
from autotune.host import Host
from autotune.recipe import WeightOnly, WeightRounding
from autotune.recipe_space import RecipeSpace
from autotune.space import FP32_SPACE, OpSpace, PrecisionSpace, TuningSpace
from tests.adapters.onnx.graphs import small_cnn

EVERYTHING = (
    '{"ops": [{"names": ["a"], "precision": "int8", "activation": "u8 asymmetric per_tensor", '
    '"weight": "s8 symmetric per_channel", "calibration": "percentile:99.99"}, {"names": ["b"], "precision": '
    '"int8_dynamic", "weight": "s8 symmetric per_tensor"}, {"names": ["c"], "precision": "int4_weight"}], "recipe": '
    '{"reduce_range": true, "equalization": true, "bias_correction": "full", "weight_rounding": "error_feedback", '
    '"smooth_quant": "0.5", "format": "qoperator", "optimization": "extended", "weight_only": "hqq"}}'
)
STORED = {
    EVERYTHING: "24c36163adf0e196",
    '{"ops": [{"names": ["a"], "precision": "int8", "activation": "u8 asymmetric per_tensor", "weight": '
    '"s8 symmetric per_channel", "calibration": "minmax"}]}': "20dea6fc8c1e607f",
    '{"ops": [{"names": ["a"], "precision": "fp16"}], "recipe": {"optimization": "gelu_approximation"}}': (
        "5e6b3ba7dafe7e0a"
    ),
    '{"ops": []}': "b2f0effc1a37cecc",
    '{"ops": [], "prepared": true}': "120b9747b2dcbcaf",
}

SPACE = TuningSpace(
    ops=(
        OpSpace(
            name="a",
            op_type="Conv",
            precisions=(
                PrecisionSpace(
                    precision=Precision.INT8,
                    activations=(TensorScheme.parse("u8 asymmetric per_tensor"),),
                    weights=(
                        TensorScheme.parse("s8 symmetric per_channel"),
                        TensorScheme.parse("s8 symmetric per_tensor"),
                    ),
                    algorithms=(MINMAX, PERCENTILE),
                ),
                FP32_SPACE,
            ),
        ),
    ),
    recipe=RecipeSpace(
        reduce_range=(False, True),
        weight_rounding=tuple(WeightRounding),
        options=(FORMAT, OPTIMIZATION),
        weight_only=(WeightOnly.GPTQ, WeightOnly.RTN),
    ),
)


@pytest.mark.parametrize(("text", "fingerprint"), STORED.items())
def test_configs_are_read_and_written_as_before(text: str, fingerprint: str) -> None:
    config = QuantizationConfig.from_json(json.loads(text))
    assert json.dumps(config.to_json()) == text
    assert config.fingerprint == fingerprint


def test_a_space_has_the_hash_that_its_history_remembers() -> None:
    assert _hash(repr(SPACE)) == "074d22ee292fa45d"


def test_the_space_of_a_model_has_the_hash_that_its_history_remembers(monkeypatch: pytest.MonkeyPatch) -> None:
    module = "autotune.adapters.onnxruntime.adapter"
    monkeypatch.setattr(f"{module}.half_speeds", lambda _: None)
    monkeypatch.setattr("autotune.host.Host.saturates_u8s8", False)
    adapter = OnnxRuntimeAdapter()
    assert _hash(repr(adapter.space(adapter.load(small_cnn())))) == "be43c3ae6ebb5b4a"


def test_parameters_have_the_names_and_choices_that_the_study_has() -> None:
    stored = {
        "a/precision": ["int8", "fp32"],
        "a/weights": ["s8 symmetric per_channel", "s8 symmetric per_tensor"],
        "a/algorithms": ["minmax", "percentile:99.99"],
        "recipe/reduce_range": [False, True],
        "recipe/weight_rounding": ["nearest", "error_feedback"],
        "recipe/format": ["qdq", "qoperator"],
        "recipe/optimization": ["all", "plain_layout", "extended", "gelu_approximation"],
        "recipe/weight_only": ["gptq", "rtn"],
    }
    found: Mapping[str, Any] = {
        name: json.loads(distribution_to_json(each))["attributes"]["choices"]
        for name, each in SPACE.distributions().items()
    }
    assert found == stored
    assert list(found) == list(stored), "draws come in this order"


def test_recipes_are_counted_in_the_same_order() -> None:
    assert SPACE.size == 320
    assert _hash(json.dumps([recipe.to_json() for recipe in SPACE.recipe.recipes()])) == "95545d96f88f8138"


def test_a_host_has_the_fingerprint_that_its_histories_remember() -> None:
    stored = (
        '{"cpu": "Some CPU", "architecture": "x86_64", "features": ["avx2", "avx512_vnni"], "logical_cores": 4, '
        '"physical_cores": 2, "governor": "performance", "system": "Linux 6.1", "python": "3.12.3", "packages": '
        '{"autotune-quantization": "0.1.0", "numpy": "2.3.1", "onnx": "1.18.0", "onnxruntime": "1.22.0", '
        '"optuna": "4.4.0"}}'
    )
    host = Host.from_json(json.loads(stored))
    assert json.dumps(host.to_json()) == stored
    assert host.fingerprint == "e9cd645af80f564a"
    installed = host_of(OnnxRuntimeAdapter()).packages
    assert [name for name in installed if name != "autotune-quantization"] == ["numpy", "onnx", "onnxruntime", "optuna"]


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
