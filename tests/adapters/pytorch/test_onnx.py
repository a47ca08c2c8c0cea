from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from autotune.adapter import Example
from autotune.adapters.pytorch.export import exported
from autotune.adapters.pytorch.names import program_names
from autotune.adapters.pytorch.onnx import to_onnx
from autotune.errors import ModelError
from tests.adapters.pytorch.modules import FixedBatch, Network, Shared, Text, images, seeded, tokens

ROOT = Path(__file__).parents[3]

BLOCK = ("conv1", "relu", "conv2", "add", "relu_1")
NETWORK = (
    "stem",
    "relu",
    *(f"layer1.{number}.{name}" for number in (0, 1) for name in BLOCK),
    "mean",
    "fc",
)


def converted(module: nn.Module, *batches: object) -> onnx.ModelProto:
    return onnx.load_from_string(to_onnx(exported(module, Example(batches))))


def names(proto: onnx.ModelProto) -> list[str]:
    return [node.name for node in proto.graph.node]


def shapes(proto: onnx.ModelProto) -> dict[str, list[str | int]]:
    return {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*proto.graph.input, *proto.graph.output)
    }


def test_ops_are_named_by_the_modules_that_compute_them() -> None:
    """Batch norm is folded into its convolution, which keeps its own name."""
    assert names(converted(seeded(Network), images(2))) == list(NETWORK)


def test_a_program_and_its_onnx_graph_give_an_op_one_name() -> None:
    program = exported(seeded(Network), Example([images(2)]))
    own = set(program_names(program).values())
    assert set(NETWORK) <= own
    assert own - set(NETWORK) == {f"layer1.{number}.{name}" for number in (0, 1) for name in ("bn1", "bn2")}


def test_a_module_that_is_called_twice_never_takes_the_name_of_another() -> None:
    """``fc`` is called twice and there is a ``fc_1``; a bare parameter stands for the product with it."""
    module = seeded(Shared)
    program = exported(module, Example([torch.randn(2, 6)]))
    assert list(program_names(program).values()) == ["fc", "fc_2", "fc_1", "matrix"]
    assert names(onnx.load_from_string(to_onnx(program))) == ["fc", "fc_2", "fc_1", "matrix"]


def test_the_bias_of_a_linear_layer_is_named_after_it() -> None:
    module = seeded(nn.Sequential, nn.Linear(4, 5), nn.GELU(), nn.LayerNorm(5), nn.LayerNorm(5))
    assert names(converted(module, torch.randn(2, 3, 4))) == ["0", "0.add", "1", "2", "3"]


def test_attention_is_named_by_its_parameters() -> None:
    module = seeded(nn.TransformerEncoderLayer, 8, 2, 16, 0.0, "relu", 1e-5, True)
    found = names(converted(module, torch.randn(2, 3, 8)))
    assert {"self_attn.in_proj", "self_attn.out_proj", "linear1", "linear2", "norm1", "norm2"} <= set(found)
    assert len(set(found)) == len(found)


def test_inputs_free_axes_and_output_have_names_that_say_what_they_are() -> None:
    assert shapes(converted(seeded(Network), images(2))) == {"x": ["batch", 1, 8, 8], "output": ["batch", 10]}
    text = converted(seeded(Text), tokens(2, 4), tokens(2, 5))
    assert shapes(text) == {
        "input_ids": ["batch", "input_ids_1"],
        "attention_mask": ["batch", "input_ids_1"],
        "output": ["batch", 3],
    }
    fixed = converted(seeded(FixedBatch, 4), torch.randn(4, 3, 4))
    assert shapes(fixed) == {"x": [4, 3, 4], "output": [4, 2]}


def test_onnx_computes_what_the_module_does() -> None:
    network = seeded(Network)
    session = onnxruntime.InferenceSession(converted(network, images(2)).SerializeToString())
    with torch.no_grad():
        wanted = network(images(3)).numpy()
    np.testing.assert_allclose(session.run(None, {"x": images(3).numpy()})[0], wanted, atol=1e-5)


def test_nothing_tells_of_the_exporting_machine() -> None:
    data = to_onnx(exported(seeded(Network), Example([images(2)])))
    for word in (str(ROOT), "modules.py", "stack_trace", "site-packages"):
        assert word.encode() not in data


def test_the_bytes_are_the_same_in_another_process() -> None:
    code = (
        "import hashlib\nfrom autotune.adapter import Example\nfrom autotune.adapters.pytorch.export import exported\n"
        "from autotune.adapters.pytorch.onnx import to_onnx\n"
        "from tests.adapters.pytorch.modules import Text, seeded, tokens\n"
        "program = exported(seeded(Text), Example([tokens(2, 4), tokens(2, 5)]))\n"
        "print(hashlib.sha256(to_onnx(program)).hexdigest())"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "7"},
    )
    here = to_onnx(exported(seeded(Text), Example([tokens(2, 4), tokens(2, 5)])))
    assert ran.stdout.strip() == hashlib.sha256(here).hexdigest()


def test_an_op_without_a_form_in_onnx(capfd: pytest.CaptureFixture[str]) -> None:
    class Special(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.linalg.matrix_exp(x)

    program = exported(Special().eval(), Example([torch.randn(2, 3, 3)]))
    with pytest.raises(ModelError, match=r"ops that have a form in ONNX.*matrix_exp.*framework: pytorch") as caught:
        to_onnx(program)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_module_beyond_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    program = exported(seeded(Network), Example([images(2)]))
    monkeypatch.setattr("autotune.adapters.pytorch.onnx.IN_MEMORY_LIMIT", 1000)
    with pytest.raises(ModelError, match=r"less than .* GiB of weights.*external_data=True"):
        to_onnx(program)
