from __future__ import annotations

import logging
from collections import UserDict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from autotune.adapter import Example
from autotune.adapters.pytorch.export import export, exported
from autotune.errors import DataError, ModelError
from tests.adapters.pytorch.modules import (
    AnyNames,
    DependsOnData,
    FixedBatch,
    Network,
    NoTensorOps,
    Returns,
    Text,
    images,
    seeded,
    tokens,
)


def free_axes(program: torch.export.ExportedProgram) -> dict[str, tuple[bool, ...]]:
    """By input: which axes may have any length."""
    inputs = set(program.graph_signature.user_inputs)
    return {
        node.name: tuple(not isinstance(size, int) for size in node.meta["val"].shape)
        for node in program.graph.nodes
        if node.op == "placeholder" and node.name in inputs
    }


def runs(
    module: nn.Module, program: torch.export.ExportedProgram, *inputs: torch.Tensor, **named: torch.Tensor
) -> None:
    with torch.no_grad():
        torch.testing.assert_close(program.module()(*inputs, **named), module(*inputs, **named))


@pytest.mark.parametrize("samples", [1, 2, 5])
def test_the_number_of_samples_is_free(samples: int) -> None:
    network = seeded(Network)
    program = exported(network, Example([(images(samples), torch.zeros(samples))]))
    assert free_axes(program) == {"x": (True, False, False, False)}
    for size in (1, 3, 7):
        runs(network, program, images(size))


def test_an_axis_in_which_batches_differ_is_free_too() -> None:
    text = seeded(Text)
    program = exported(text, Example([tokens(4, 6), tokens(4, 9)]))
    assert free_axes(program) == {"input_ids": (True, True), "attention_mask": (True, True)}
    batch = tokens(3, 11)
    runs(text, program, input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])


def test_a_length_like_the_number_of_samples_is_not_taken_for_it() -> None:
    text = seeded(Text)
    program = exported(text, Example([tokens(4, 4), tokens(4, 9)]))
    batch = tokens(3, 5)
    runs(text, program, input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])


def test_inputs_that_are_named_without_parameters_are_free_too() -> None:
    wrapper = seeded(AnyNames)
    batches = [
        {name: batch[name] for name in ("input_ids", "attention_mask")} for batch in (tokens(4, 6), tokens(4, 7))
    ]
    program = exported(wrapper, Example(batches))
    assert free_axes(program) == {"input_ids": (True, True), "attention_mask": (True, True)}
    assert "forward" not in vars(wrapper)


def test_labels_and_what_forward_does_not_take_are_left_out() -> None:
    made = export(seeded(Text), Example([UserDict(tokens(4, 6))]))  # as Hugging Face's BatchEncoding is one
    assert list(made.example.named) == ["input_ids", "attention_mask"]


def test_an_optional_input_may_be_left_out_by_the_loader() -> None:
    program = exported(seeded(Text), Example([{"input_ids": tokens(4, 6)["input_ids"]}]))
    assert list(free_axes(program)) == ["input_ids"]


class NamedOnly(nn.Module):
    """An input that must be given by name comes after one that may be left out."""

    def forward(self, x: torch.Tensor, *, scale: float = 2.0, y: torch.Tensor) -> torch.Tensor:
        return x * scale + y


def test_an_input_after_an_optional_one_may_be_required() -> None:
    program = exported(NamedOnly().eval(), Example([{"x": torch.ones(2, 3), "y": torch.ones(2, 3)}]))
    assert list(free_axes(program)) == ["x", "y"]
    with pytest.raises(DataError, match=r"but 'y' is not among 'x'\."):
        exported(NamedOnly().eval(), Example([{"x": torch.ones(2, 3)}]))


def test_a_pair_is_a_batch_with_labels_where_one_input_is_required() -> None:
    made = export(seeded(Network), Example([[images(4), torch.zeros(4)]]))
    assert len(made.example.positional) == 1


def test_examples_have_the_type_of_the_weights() -> None:
    program = exported(seeded(Network), Example([images(2).double().numpy()]))
    assert next(iter(program.state_dict.values())).dtype is torch.float32


class TimeMajor(nn.Module):
    """Its samples lie along the second axis."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.cumsum(0)[-1]


@pytest.mark.parametrize("axis", [1, -2, {"x": 1}])
def test_the_axis_that_the_user_names_is_the_one_that_is_free(axis: Any) -> None:
    program = exported(TimeMajor().eval(), Example([torch.randn(5, 1, 3)], axis))
    assert free_axes(program) == {"x": (False, True, False)}


def test_a_baked_in_number_of_samples_is_kept_with_a_note() -> None:
    made = export(seeded(FixedBatch, 4), Example([torch.randn(4, 3, 4)]))
    assert free_axes(made.program) == {"x": (False, False, False)}
    (note,) = made.notes
    assert "first one's shape alone (x float32 (4, 3, 4))" in note
    assert "specialized it to be a constant (4)" in note


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what torch itself imports for torch.compile
def test_a_compiled_module_is_the_module_that_was_compiled() -> None:
    network = seeded(Network)
    program = exported(torch.compile(network), Example([images(2)]))
    assert set(program.state_dict) == set(network.state_dict())


def test_a_program_of_the_users_stays_as_it_is() -> None:
    program = torch.export.export(seeded(Network), (images(2),))
    assert exported(program, Example([images(2)])) is program


def refused(module: Any, batches: Sequence[Any], error: type[Exception] = ModelError) -> str:
    with pytest.raises(error) as caught:
        export(module, Example(batches))
    return str(caught.value)


def test_control_flow_that_depends_on_data_names_its_line(capfd: pytest.CaptureFixture[str]) -> None:
    message = refused(seeded(DependsOnData), [images(2)])
    assert message.startswith("The control flow of a module must not depend on values")
    assert "Could not guard on data-dependent expression" in message
    assert "(modules.py, line " in message
    assert "`if x.sum() > 0:`" in message
    assert "torch.where" in message
    assert "\n" not in message
    assert capfd.readouterr() == ("", "")  # torch prints the graph there


def test_what_torch_does_not_export_names_its_line() -> None:
    message = refused(seeded(NoTensorOps), [images(2)])
    assert "torch.export takes" in message
    assert "`return torch.from_numpy(x.numpy() * 2)`" in message


def test_logging_is_as_it_was_after_an_export() -> None:
    before = logging.root.manager.disable
    refused(seeded(DependsOnData), [images(2)])
    assert logging.root.manager.disable == before


@pytest.mark.parametrize(
    ("kind", "told"), [("pair", "a tuple of 2"), ("dict", "a dict with logits, hidden"), ("none", "a NoneType")]
)
def test_a_module_must_return_one_tensor(kind: str, told: str) -> None:
    message = refused(seeded(Returns, kind), [images(2)])
    assert f"must return one tensor, but it returns {told}" in message
    assert "Wrap it in a module" in message
    assert ("['logits']" in message) == (kind == "dict")


@pytest.mark.parametrize("kind", ["pair", "dict"])
def test_a_program_must_return_one_tensor(kind: str) -> None:
    program = torch.export.export(seeded(Returns, kind), (images(2),))
    assert "must return one tensor" in refused(program, [images(2)])


def test_a_module_in_training_mode() -> None:
    assert "it (a Network) is in training mode" in refused(seeded(Network).train(), [images(2)])
    network = seeded(Network)
    network.layer1[1].bn2.train()
    message = refused(network, [images(2)])
    assert "'layer1.1.bn2' (a BatchNorm2d) is in training mode" in message
    assert ".eval()" in message


@pytest.mark.parametrize("layer", [nn.Dropout(), nn.BatchNorm2d(1)])
def test_a_program_that_was_exported_in_training_mode(layer: nn.Module) -> None:
    program = torch.export.export(layer.train(), (images(2),))
    assert "must be exported in evaluation mode" in refused(program, [images(2)])


def test_a_module_without_values_or_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    network = seeded(Network).to("meta")
    message = refused(network, [images(2)])
    assert "'stem.weight' is on the meta device" in message
    assert "load_state_dict" in message

    class OnGpu(torch.Tensor):
        device = torch.device("cuda", 1)

    network = seeded(Network)
    monkeypatch.setattr(network, "named_parameters", lambda: iter([("stem.weight", torch.zeros(1).as_subclass(OnGpu))]))
    assert "must be on the CPU, which runs it here, but 'stem.weight' is on cuda:1. Call `.cpu()`" in refused(
        network, [images(2)]
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_weights_of_another_type(dtype: torch.dtype) -> None:
    name = str(dtype).removeprefix("torch.")
    module = seeded(Network).to(dtype)
    assert f"weights of float32, which are what is quantized, but 'stem.weight' is {name}" in refused(
        module, [images(2)]
    )
    program = torch.export.export(module, (images(2).to(dtype),))
    assert "Call `.float()`" in refused(program, [images(2)])


class Moving(nn.Module):
    """Calls a function that computes something else in training."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x) * 2


@pytest.mark.parametrize(
    "function",
    [
        functional.dropout,
        functional.dropout2d,
        partial(functional.alpha_dropout, training=True),
        partial(functional.feature_alpha_dropout, training=True),
        partial(functional.rrelu, training=True),
        partial(functional.batch_norm, running_mean=None, running_var=None, training=True),
    ],
)
def test_a_function_that_computes_as_in_training_names_its_line(
    function: Callable[[torch.Tensor], torch.Tensor],
) -> None:
    message = refused(Moving(function).eval(), [images(2)])
    assert message.startswith("The functions that a module calls must compute as in evaluation mode, but '")
    assert "(test_export.py, line " in message
    assert "`return self.function(x) * 2`" in message
    assert "Pass `training=self.training` to it" in message


def test_a_function_that_computes_as_in_evaluation_is_taken() -> None:
    module = Moving(partial(functional.dropout, training=False)).eval()
    runs(module, exported(module, Example([images(2)])), images(3))
    module = Moving(functional.instance_norm).eval()  # by the sample's own statistics, in training and out of it
    runs(module, exported(module, Example([images(2)])), images(3))


def test_a_tensor_that_is_an_attribute_is_not_moved_with_the_module() -> None:
    network = seeded(Network)
    network.layer1[0].table = torch.ones(1, device="meta")
    assert "'layer1.0.table' is on the meta device" in refused(network, [images(2)])


def test_batch_norm_without_statistics() -> None:
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2, track_running_stats=False)).eval()
    message = refused(module, [images(2)])
    assert "must have running statistics, but '1' (a BatchNorm2d) has none" in message
    assert "GroupNorm" in message


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_torchscript() -> None:
    assert "got TorchScript" in refused(torch.jit.script(seeded(Network)), [images(2)])
    assert "got TorchScript" in refused(torch.jit.trace(seeded(Network), images(2)), [images(2)])


def test_data_that_the_module_does_not_read() -> None:
    network = seeded(Network)
    message = refused(network, [torch.randn(4, 3, 8, 8)], DataError)
    assert "must run on the first batch of the data loader (x float32 (4, 3, 8, 8)), but it raised" in message
    assert "'pixels'" in refused(network, [{"pixels": images(2)}], DataError)
    assert "must have 1 input," in refused(network, [(images(2), images(2), images(2))], DataError)
    assert "is a str" in refused(network, [("cat", 0)], DataError)
    assert "at least one sample, but the first has none (x float32 (0, 1, 8, 8))" in refused(
        network, [images(0)], DataError
    )
    assert "at least one batch" in refused(network, [], DataError)


def test_a_module_cannot_be_read_without_data() -> None:
    with pytest.raises(ModelError, match=r"only be read with a batch of data.*torch\.onnx\.export"):
        export(seeded(Network), None)
