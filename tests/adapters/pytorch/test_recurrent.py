"""LSTM and GRU in dynamic int8, against the same arithmetic in NumPy."""

from __future__ import annotations

import dataclasses
import functools
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from autotune.adapter import Array
from autotune.adapters.pytorch import package
from autotune.adapters.pytorch import recurrent as recurrent_ops
from autotune.adapters.pytorch.graph import array, constant
from autotune.adapters.pytorch.model import PytorchModel
from autotune.adapters.pytorch.recurrent import integers_name, matrix_name
from autotune.config import OpConfig, Precision, QuantizationConfig, Recipe
from autotune.errors import ApplyError
from tests.adapters.pytorch.calibrated import ADAPTER, ONE, Calibrated
from tests.adapters.pytorch.networks import exported, seeded

STEPS, INPUTS, HIDDEN = 5, 6, 8
KINDS: dict[str, Any] = {"LSTM": nn.LSTM, "GRU": nn.GRU}
FORMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "deep": {"num_layers": 2},
    "both ways": {"bidirectional": True, "num_layers": 2},
    "no biases": {"bias": False},
}
SEVEN_BITS = Recipe(reduce_range=True)
"""Nothing saturates with it, on CPUs without VNNI either."""


class Recurrent(nn.Module):
    """A recurrent module from a state that depends on the input, all of whose outputs are read."""

    def __init__(self, kind: str, *, batch_first: bool = True, **options: Any) -> None:
        super().__init__()
        self.rnn = KINDS[kind](INPUTS, HIDDEN, batch_first=batch_first, **options)
        self.passes = options.get("num_layers", 1) * (2 if options.get("bidirectional") else 1)
        self.batch_first = batch_first

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        start = 0.1 * x.sum((1, 2)).view(1, -1, 1).expand(self.passes, x.shape[0], HIDDEN)
        read = x if self.batch_first else x.transpose(0, 1)
        y, last = self.rnn(read, (start, -start) if isinstance(self.rnn, nn.LSTM) else start)
        ends = torch.cat(list(last) if isinstance(last, tuple) else [last])
        return torch.cat(
            [(y if self.batch_first else y.transpose(0, 1)).flatten(1), ends.transpose(0, 1).flatten(1)], 1
        )


@functools.cache
def recurrent(kind: str, form: str) -> Calibrated:
    return Calibrated(exported(seeded(Recurrent(kind, **FORMS[form])), STEPS, INPUTS), (STEPS, INPUTS))


def integers_of(values: Array) -> tuple[Array, float, int]:
    """A tensor in u8 by its own range, with its scale and zero point."""
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    scale = max((high - low) / 255, float(np.finfo(np.float32).eps))
    zero_point = int(np.clip(-np.round(low / scale), 0, 255))
    return np.clip(np.round(values / scale) + zero_point, 0, 255), scale, zero_point


class Reference:
    """The steps of a candidate's recurrent op in NumPy.

    Args:
        module: The module in fp32.
        candidate: The model that was quantized of it.
    """

    def __init__(self, module: Recurrent, candidate: PytorchModel) -> None:
        assert candidate.graph is not None
        (op,) = candidate.ops
        self.module = module
        places = range(len(op.matrices))
        self.integers = [array(constant(candidate.graph, integers_name(op.node, each))) for each in places]
        self.scales = [
            array(constant(candidate.graph, f"{matrix_name(op.node, each)}_weight_scale")) for each in places
        ]

    def product(self, x: Array, place: int, bias: str) -> Array:
        integers, scale, zero_point = integers_of(x)
        summed = (integers.astype(np.int64) - zero_point) @ self.integers[place].astype(np.int64).T
        real = summed * (scale * self.scales[place].astype(np.float64))
        return np.asarray(real + (array(getattr(self.module.rnn, bias)) if self.module.rnn.bias else 0.0))

    def cell(self, given: Array, own: Array, states: list[Array]) -> list[Array]:
        def sigmoid(values: Array) -> Array:
            return np.asarray(1 / (1 + np.exp(-values)))

        if len(states) == 2:
            i, f, g, o = np.split(given + own, 4, -1)
            cells = sigmoid(f) * states[1] + sigmoid(i) * np.tanh(g)
            return [sigmoid(o) * np.tanh(cells), cells]
        read, held = np.split(given, 3, -1), np.split(own, 3, -1)
        reset, update = sigmoid(read[0] + held[0]), sigmoid(read[1] + held[1])
        new = np.tanh(read[2] + reset * held[2])
        return [(1 - update) * new + update * states[0]]

    def __call__(self, x: Array) -> Array:
        rnn, ends, layer_input = self.module.rnn, [], x.transpose(1, 0, 2).astype(np.float64)
        start = np.repeat(0.1 * x.sum((1, 2), keepdims=True)[:, 0], HIDDEN, 1)
        place = 0
        for layer in range(rnn.num_layers):
            sides = []
            for suffix in ("", "_reverse")[: 2 if rnn.bidirectional else 1]:
                flat = layer_input.reshape(-1, layer_input.shape[-1])
                given = self.product(flat, 2 * place, f"bias_ih_l{layer}{suffix}").reshape(STEPS, len(x), -1)
                states = [start, -start][: 2 if isinstance(rnn, nn.LSTM) else 1]
                written = {}
                for step in reversed(range(STEPS)) if suffix else range(STEPS):
                    own = self.product(states[0], 2 * place + 1, f"bias_hh_l{layer}{suffix}")
                    states = self.cell(given[step], own, states)
                    written[step] = states[0]
                ends.append(states)
                sides.append(np.stack([written[step] for step in range(STEPS)]))
                place += 1
            layer_input = np.concatenate(sides, -1)
        y = layer_input.transpose(1, 0, 2).reshape(len(x), -1)
        return np.concatenate([y, *(end[k] for k in range(len(ends[0])) for end in ends)], 1)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_candidate_computes_what_numpy_computes_with_the_same_integers(kind: str, form: str) -> None:
    made = recurrent(kind, form)
    candidate = made.applied({"rnn": Precision.INT8_DYNAMIC}, SEVEN_BITS)
    module = seeded(Recurrent(kind, **FORMS[form]))
    expected = Reference(module, candidate)(made.batches[0]["x"])
    found = made.outputs(candidate)
    noise = float(np.square(found - expected).mean() / np.square(expected).mean())
    # A value that falls to the other side of a rounding differs by a step of the grid.
    assert noise < 0.01 * made.noise(candidate) < 1e-5


def test_the_axis_of_the_steps_may_come_first() -> None:
    made = Calibrated(exported(seeded(Recurrent("LSTM", batch_first=False)), STEPS, INPUTS), (STEPS, INPUTS))
    other = recurrent("LSTM", "plain")
    config = {"rnn": Precision.INT8_DYNAMIC}
    np.testing.assert_allclose(
        made.outputs(made.applied(config, SEVEN_BITS)), other.outputs(other.applied(config, SEVEN_BITS)), atol=1e-2
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_steps_become_integer_kernels_and_run_alike_after_saving(kind: str, tmp_path: Path) -> None:
    made = recurrent(kind, "plain")
    candidate = made.applied({"rnn": Precision.INT8_DYNAMIC}, SEVEN_BITS)
    compiled = ADAPTER.runner(candidate, ONE)(made.batches[0])[0]
    assert package.stayed_fp32(candidate) == []
    noise = float(np.square(compiled - made.outputs(candidate)).mean() / np.square(compiled).mean())
    assert noise < 1e-5
    (path,) = ADAPTER.save(candidate, tmp_path / "tuned.pt2", {})
    again = ADAPTER.runner(ADAPTER.load(path), ONE)
    np.testing.assert_array_equal(again(made.batches[0])[0], compiled)
    one = {"x": made.batches[0]["x"][:1]}  # the number of samples stays free
    assert again(one)[0].shape == (1, compiled.shape[1])


def test_an_op_is_not_taken_for_integer_while_one_of_its_matrices_is_not() -> None:
    made = recurrent("LSTM", "plain")
    real = dataclasses.replace(made.model, asked={"rnn": Precision.INT8_DYNAMIC})
    package.package_file(real)
    assert package.stayed_fp32(real) == ["rnn"]


def test_an_lstm_of_small_matrices_prefers_fp32_and_all_others_integers() -> None:
    small = recurrent("LSTM", "plain").space.by_name["rnn"]
    assert [each.precision for each in small.precisions] == [Precision.FP32, Precision.INT8_DYNAMIC]
    gru = recurrent("GRU", "plain").space.by_name["rnn"]
    assert [each.precision for each in gru.precisions] == [Precision.INT8_DYNAMIC, Precision.FP32]
    large = ADAPTER.load(exported(Last(512), 3, 8))
    found = ADAPTER.space(large).by_name["rnn"]
    assert [each.precision for each in found.precisions] == [Precision.INT8_DYNAMIC, Precision.FP32]


class Last(nn.Module):
    """The last step of an LSTM."""

    def __init__(self, hidden: int, **options: Any) -> None:
        super().__init__()
        self.rnn = nn.LSTM(8, hidden, batch_first=True, **options)
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.rnn(x)[0][:, -1]


@pytest.mark.parametrize(
    ("module", "steps", "reason"),
    [
        (Last(4, proj_size=2), 3, "projects its hidden state"),
        (Last(4), 9, "takes 9 steps in 1 passes"),
        (Last(4, num_layers=2, bidirectional=True), 3, "takes 3 steps in 4 passes"),
    ],
)
def test_an_lstm_that_stays_fp32_says_why_and_where_it_need_not(
    module: nn.Module, steps: int, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recurrent_ops, "MOST_STEPS", 8)
    assert ADAPTER.load(exported(Last(4), 8, 8)).ops
    model = ADAPTER.load(exported(module, steps, 8))
    assert model.ops == ()
    (note,) = model.notes
    assert note.startswith("'rnn': fp32 on PyTorch, since it ")
    assert reason in note
    assert "runtimes=['onnxruntime']" in note


def test_matrices_that_can_saturate_are_named() -> None:
    made = recurrent("GRU", "deep")
    assert ADAPTER.saturating_ops(made.applied({"rnn": Precision.INT8_DYNAMIC})) == ("rnn",)
    assert ADAPTER.saturating_ops(made.applied({"rnn": Precision.INT8_DYNAMIC}, SEVEN_BITS)) == ()


def test_a_candidate_is_carried_to_another_process_as_it_is() -> None:
    made = recurrent("LSTM", "both ways")
    candidate = made.applied({"rnn": Precision.INT8_DYNAMIC})
    again = pickle.loads(pickle.dumps(candidate))
    assert again.fingerprint == candidate.fingerprint
    np.testing.assert_array_equal(made.outputs(again), made.outputs(candidate))


def test_static_integers_are_refused() -> None:
    made = recurrent("LSTM", "plain")
    choice = dataclasses.replace(made.choice("rnn", Precision.INT8_DYNAMIC), precision=Precision.INT8)
    config = QuantizationConfig(ops={"rnn": OpConfig(precision=choice.precision, weight=choice.weight)})
    with pytest.raises(ApplyError, match=r"computes in int8_dynamic or fp32 here, but 'rnn' is to be in int8"):
        ADAPTER.apply(made.model, config, made.statistics)
