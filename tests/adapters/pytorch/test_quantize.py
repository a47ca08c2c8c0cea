"""How a config becomes nodes and integers, without a compiler."""

from __future__ import annotations

import dataclasses
import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torch._inductor.decomposition import select_decomp_table
from torch.fx.experimental.proxy_tensor import make_fx

from autotune.adapter import Execution
from autotune.adapters.pytorch import quantize, space
from autotune.adapters.pytorch.graph import constant
from autotune.adapters.pytorch.model import PytorchModel
from autotune.adapters.pytorch.quick import QUANTIZED, quick_graph
from autotune.adapters.pytorch.quiet import quiet
from autotune.adapters.pytorch.session import PytorchRunner
from autotune.calibration import CalibrationStatistics
from autotune.config import Granularity, Precision, QuantizationConfig, Recipe
from autotune.errors import ApplyError, ModelError
from tests.adapters.pytorch.calibrated import ADAPTER, ONE, cnn, encoder
from tests.adapters.pytorch.networks import exported, seeded

STATIC = dict.fromkeys(("stem", "block.conv1", "block.conv2", "block.add"), Precision.INT8)


def targets(model: PytorchModel) -> list[object]:
    assert model.graph is not None
    return [node.target for node in model.graph.graph.nodes]


def reads(model: PytorchModel, op: str) -> list[object]:
    """The nodes that write the tensor arguments of an op."""
    assert model.graph is not None
    name = next(each.node for each in model.ops if each.name == op)
    node = next(each for each in model.graph.graph.nodes if each.name == name)
    return [each.target for each in node.all_input_nodes if each.op == "call_function"]


def test_fp32_ops_read_real_values_and_int8_ops_integers() -> None:
    candidate = cnn().applied({"block.conv1": Precision.INT8})
    assert reads(candidate, "block.conv1") == [
        QUANTIZED.dequantize_per_tensor.default,
        QUANTIZED.dequantize_per_channel.default,
    ]
    assert targets(candidate).count(QUANTIZED.quantize_per_tensor.default) == 1
    assert 0 < cnn().noise(candidate) < 1e-2


def test_a_sum_reads_what_an_int8_convolution_hands_over_as_it_is() -> None:
    fused = reads(cnn().applied(STATIC), "block.add")
    assert fused.count(QUANTIZED.dequantize_per_tensor.default) == 1
    alone = reads(cnn().applied({"block.add": Precision.INT8}), "block.add")
    assert alone.count(QUANTIZED.dequantize_per_tensor.default) == 2


def test_readers_of_one_tensor_share_its_integers() -> None:
    candidate = cnn().applied(STATIC)
    # The input, what the stem wrote (for the first convolution and the sum), and what the first convolution wrote.
    assert targets(candidate).count(QUANTIZED.quantize_per_tensor.default) == 3


def test_integers_are_of_the_scheme_and_stand_for_the_weight() -> None:
    for granularity, scales in ((Granularity.PER_CHANNEL, 16), (Granularity.PER_TENSOR, 1)):
        choice = next(
            each
            for each in cnn().space.by_name["block.conv1"].configs()
            if each.weight is not None and each.weight.granularity == granularity
        )
        candidate = ADAPTER.apply(cnn().model, QuantizationConfig(ops={"block.conv1": choice}), cnn().statistics)
        assert candidate.graph is not None
        assert cnn().model.graph is not None
        node = next(op.node for op in candidate.ops if op.name == "block.conv1")
        integers = constant(candidate.graph, f"{node}_weight_int8")
        scale = constant(candidate.graph, f"{node}_weight_scale")
        assert integers.dtype is torch.int8
        assert len(set(scale.tolist())) == scales
        weight = constant(cnn().model.graph, "block.conv1.weight")
        step = scale.view(-1, 1, 1, 1)
        assert ((integers * step - weight).abs() <= 0.51 * step).all()


def test_dynamic_ranges_are_those_of_the_call() -> None:
    candidate = encoder().applied({"out": Precision.INT8_DYNAMIC})
    assert QUANTIZED.quantize_per_tensor.tensor in targets(candidate)
    x = encoder().batches[0]["x"]
    for factor in (1.0, 1000.0):
        expected = ADAPTER.quick_runner(encoder().model, ONE)({"x": factor * x})[0]
        found = ADAPTER.quick_runner(candidate, ONE)({"x": factor * x})[0]
        assert np.square(found - expected).mean() < 1e-3 * np.square(expected).mean()


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_inductors_forms_of_the_nodes_compute_what_the_graph_does_for_values_of_one_sign(sign: float) -> None:
    module = seeded(nn.Linear(8, 6))
    model = ADAPTER.load(exported(module, 8))
    batch = {model.inputs[0].name: (sign * np.linspace(3, 4, 64).reshape(8, 8)).astype(np.float32)}
    statistics = ADAPTER.calibrate(model, [batch], seed=0)
    (op,) = ADAPTER.space(model).ops
    choice = op.space_of(Precision.INT8_DYNAMIC)
    assert choice is not None
    candidate = ADAPTER.apply(model, QuantizationConfig(ops={op.name: choice.preferred}), statistics)
    (x,) = batch.values()
    lowered = make_fx(candidate.graph, decomposition_table=select_decomp_table())(torch.from_numpy(x))
    expected = ADAPTER.quick_runner(candidate, ONE)(batch)[0]
    np.testing.assert_allclose(lowered(torch.from_numpy(x))[0].numpy(), expected, atol=1e-5)
    fp32 = ADAPTER.quick_runner(model, ONE)(batch)[0]
    assert np.square(expected - fp32).mean() < 1e-4 * np.square(fp32).mean()


class Transposed(nn.Module):
    """A product that reads a sequence with its axes exchanged."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x.transpose(1, 2))


@pytest.mark.parametrize("precision", [Precision.INT8, Precision.INT8_DYNAMIC])
def test_a_product_of_a_transposed_sequence_is_one_product_of_all_samples(precision: Precision) -> None:
    model = ADAPTER.load(exported(seeded(Transposed()), 8, 5))
    batch = {"x": np.random.default_rng(0).normal(size=(4, 8, 5)).astype(np.float32)}
    statistics = ADAPTER.calibrate(model, [batch], seed=0)
    choice = ADAPTER.space(model).by_name["fc"].space_of(precision)
    assert choice is not None
    candidate = ADAPTER.apply(model, QuantizationConfig(ops={"fc": choice.preferred}), statistics)
    with quiet():
        lowered = {node.target for node in candidate.program.run_decompositions().graph.nodes}
    # Inductor's pattern for bmm fails where the number of samples is free.
    assert torch.ops.aten.addmm.default in lowered
    assert torch.ops.aten.bmm.default not in lowered


def test_bfloat16_is_offered_and_applied_only_where_the_cpu_computes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(space, "computes_bf16", lambda: True)
    monkeypatch.setattr(quantize, "computes_bf16", lambda: True)
    offered = ADAPTER.space(cnn().model).by_name["wide"].space_of(Precision.BF16)
    assert offered is not None
    config = QuantizationConfig(ops={"wide": offered.preferred})
    candidate = ADAPTER.apply(cnn().model, config, cnn().statistics)
    assert 0 < cnn().noise(candidate) < 1e-4
    monkeypatch.setattr(space, "computes_bf16", lambda: False)
    monkeypatch.setattr(quantize, "computes_bf16", lambda: False)
    assert ADAPTER.space(cnn().model).by_name["wide"].space_of(Precision.BF16) is None
    with pytest.raises(ApplyError, match=r"int8 or fp32 here, but 'wide' is to be in bf16"):
        ADAPTER.apply(cnn().model, config, cnn().statistics)


def test_recipes_reach_every_layer() -> None:
    everything = {op.name: Precision.INT8 for op in cnn().model.ops}
    prints = {
        recipe: cnn().applied(everything, recipe).fingerprint
        for recipe in (
            Recipe(),
            Recipe(equalization=True),
            Recipe.from_json({"bias_correction": "fast"}),
            Recipe.from_json({"bias_correction": "full"}),
            Recipe.from_json({"weight_rounding": "gptq"}),
            Recipe(reduce_range=True),
            Recipe(bound_pairs=True),
        )
    }
    assert len(set(prints.values())) == len(prints)
    full = cnn().applied(everything, Recipe.from_json({"bias_correction": "full", "weight_rounding": "gptq"}))
    assert cnn().noise(full) < cnn().noise(cnn().applied(everything))
    smooth = encoder().applied(
        dict.fromkeys(("query", "key", "value"), Precision.INT8), Recipe.from_json({"smooth_quant": "auto"})
    )
    assert encoder().noise(smooth) < 1e-2


def test_bounded_weights_cannot_saturate() -> None:
    everything = {op.name: Precision.INT8 for op in cnn().model.ops}
    assert "depthwise" not in ADAPTER.saturating_ops(cnn().applied(everything))
    assert ADAPTER.saturating_ops(cnn().applied(everything))
    for recipe in (Recipe(reduce_range=True), Recipe(bound_pairs=True)):
        assert not ADAPTER.saturating_ops(cnn().applied(everything, recipe))


def test_the_quick_form_is_the_same_to_the_last_bit() -> None:
    candidate = cnn().applied({**STATIC, "wide": Precision.INT8, "head": Precision.INT8_DYNAMIC})
    assert candidate.graph is not None
    quick = quick_graph(candidate.graph)
    assert len(list(quick.graph.nodes)) < len(list(candidate.graph.graph.nodes))
    x = torch.from_numpy(cnn().batches[0]["x"])
    with torch.no_grad():
        np.testing.assert_array_equal(quick(x)[0].numpy(), candidate.graph(x)[0].numpy())
    assert cnn().model.graph is not None
    assert quick_graph(cnn().model.graph) is cnn().model.graph


def test_what_cannot_be_applied_is_said() -> None:
    choice = cnn().choice("stem", Precision.INT8)
    with pytest.raises(ApplyError, match="Calibrate"):
        ADAPTER.apply(cnn().model, QuantizationConfig(ops={"stem": choice}), CalibrationStatistics({}, 0))
    dynamic = dataclasses.replace(choice, precision=Precision.INT8_DYNAMIC)
    with pytest.raises(ApplyError, match="'stem' is to be in int8_dynamic"):
        ADAPTER.apply(cnn().model, QuantizationConfig(ops={"stem": dynamic}), cnn().statistics)
    candidate = cnn().applied({"stem": Precision.INT8})
    with pytest.raises(ApplyError, match="quantized or compiled already"):
        ADAPTER.apply(candidate, QuantizationConfig(ops={"wide": choice}), cnn().statistics)


def test_models_travel_by_pickle_with_their_names_and_can_be_quantized_there() -> None:
    model = pickle.loads(pickle.dumps(cnn().model))
    assert model.fingerprint == cnn().model.fingerprint
    assert model.inputs == cnn().model.inputs
    there = ADAPTER.apply(model, cnn().config(STATIC), cnn().statistics)
    assert there.fingerprint == cnn().applied(STATIC).fingerprint
    again = pickle.loads(pickle.dumps(there))
    np.testing.assert_array_equal(cnn().outputs(again), cnn().outputs(cnn().applied(STATIC)))


def test_threads_are_set_for_the_call_alone() -> None:
    before = torch.get_num_threads()
    seen: list[int] = []

    def run(x: torch.Tensor) -> list[torch.Tensor]:
        seen.append(torch.get_num_threads())
        return [x]

    PytorchRunner(cnn().model.inputs, run, Execution(threads=before + 1))(cnn().batches[0])
    assert seen == [before + 1]
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("shape", [(8, 3, 16, 15), (8, 4, 16, 16), (8, 3, 16)])
def test_an_input_that_does_not_fit_is_refused_before_it_is_run(shape: tuple[int, ...]) -> None:
    with pytest.raises(ApplyError, match=r"'x' takes arrays of shape \(s\d+, 3, 16, 16\), but got one of shape"):
        ADAPTER.quick_runner(cnn().model, ONE)({"x": np.zeros(shape, np.float32)})


def test_a_weight_that_holds_nan_is_named() -> None:
    assert cnn().model.graph is not None
    broken = pickle.loads(pickle.dumps(cnn().model))
    constant(broken.graph, "wide.weight").view(-1)[3] = torch.nan
    with pytest.raises(ModelError, match="weight of 'wide'"):
        ADAPTER.calibrate(broken, cnn().batches, seed=0)


def test_a_convolution_of_one_channel_stays_in_fp32() -> None:
    """PyTorch 2.13 compiles another result for it where the batch is free."""
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 8, 3)).eval()
    batch = torch.zeros(2, 1, 8, 8)
    program = torch.export.export(network, (batch,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
    assert [op.name for op in ADAPTER.space(ADAPTER.load(program)).ops] == ["2"]
