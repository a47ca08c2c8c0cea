from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch

from autotune.adapters.pytorch.arguments import TensorReader, signature
from autotune.adapters.pytorch.module import TunedModule
from autotune.errors import DataError, InputError
from tests.adapters.pytorch.modules import Network, Text, images, seeded, tokens


class Call:
    """Keeps what it is called with and gives twice the first array."""

    def __call__(self, batch: Any) -> Any:
        self.batch = batch
        return next(iter(batch.values())) * 2 if isinstance(batch, dict) else batch * 2


@pytest.fixture
def call() -> Call:
    return Call()


@pytest.fixture
def module(call: Call) -> TunedModule:
    return TunedModule(call, TensorReader(takes=signature(seeded(Network))))


@pytest.fixture
def text(call: Call) -> TunedModule:
    return TunedModule(call, TensorReader(takes=signature(seeded(Text))))


def test_tensors_in_tensors_out_and_arrays_in_arrays_out(module: TunedModule, call: Call) -> None:
    pictures = images(3)
    torch.testing.assert_close(module(pictures), pictures * 2)
    assert isinstance(call.batch, np.ndarray)
    assert isinstance(module(pictures.numpy()), np.ndarray)


def test_gradients_and_types_that_numpy_lacks_are_no_obstacle(module: TunedModule, call: Call) -> None:
    pictures = images(3).requires_grad_()
    assert not module(pictures).requires_grad
    module(images(3).bfloat16())
    assert call.batch.dtype == np.float32


def test_an_output_is_the_callers_own(module: TunedModule) -> None:
    """A runtime may lend memory of its own, which the next call would write over."""
    lent = np.zeros(3, np.float32)
    read_only = TunedModule(lambda _: lent, module._read)
    module_output = read_only(images(3))
    lent[:] = 1
    assert not module_output.any()


@pytest.mark.parametrize(
    "how",
    [
        lambda text, batch: text(**batch),
        lambda text, batch: text(batch),
        lambda text, batch: text(batch["input_ids"], attention_mask=batch["attention_mask"], labels=None),
    ],
)
def test_inputs_by_name_without_those_that_the_module_does_not_take(text: TunedModule, call: Call, how: Any) -> None:
    how(text, tokens(2, 4))
    assert list(call.batch) == ["input_ids", "attention_mask"]
    assert all(isinstance(each, np.ndarray) for each in call.batch.values())


def test_several_inputs_by_position(text: TunedModule) -> None:
    batch = tokens(2, 4)

    def second(inputs: Any) -> Any:
        assert isinstance(inputs, tuple)
        return inputs[1]

    output = TunedModule(second, text._read)(batch["input_ids"], batch["attention_mask"])
    torch.testing.assert_close(output, batch["attention_mask"])


def test_an_input_twice(text: TunedModule) -> None:
    with pytest.raises(DataError, match="must give each input once"):
        text(tokens(2, 4)["input_ids"], **tokens(2, 4))


def test_it_stays_in_evaluation_mode(module: TunedModule) -> None:
    assert module.eval() is module
    assert not module.training
    with pytest.raises(InputError, match=r"stays in evaluation mode.*tune it again"):
        module.train()


def test_it_stays_where_it_is(module: TunedModule) -> None:
    assert module.to("cpu").float() is module
    assert module.device == torch.device("cpu")
    assert not list(module.parameters())
    for move in (lambda: module.to("meta"), module.half, module.double, lambda: module.to(torch.bfloat16)):
        with pytest.raises(InputError, match="runs on the CPU and takes float32"):
            move()


def test_copies(module: TunedModule) -> None:
    pictures = images(2)
    for made in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        torch.testing.assert_close(made(pictures), module(pictures))
