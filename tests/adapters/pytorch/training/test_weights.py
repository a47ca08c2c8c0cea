from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from autotune.adapter import Example
from autotune.adapters.pytorch.export import export
from autotune.adapters.pytorch.source import TorchSource
from autotune.errors import ApplyError, WorkspaceError
from tests.adapters.pytorch.modules import Network, images, seeded

FRAMEWORK = TorchSource()


def shifted(module: nn.Module, by: float = 0.5) -> nn.Module:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(by)
    return module


def test_weights_survive_a_file(tmp_path: Path) -> None:
    source, trained = seeded(Network), shifted(seeded(Network))
    FRAMEWORK.save_weights(trained, tmp_path / "weights.pt")
    again = FRAMEWORK.load_weights(source, tmp_path / "weights.pt")
    assert not FRAMEWORK.changed(trained, again)
    assert FRAMEWORK.changed(source, again)
    assert not again.training


@pytest.mark.parametrize("damage", ["cut", "other", "empty"])
def test_a_file_that_is_no_such_model_is_named(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    FRAMEWORK.save_weights(seeded(Network, 4) if damage == "other" else seeded(Network), path)
    if damage != "other":
        path.write_bytes(path.read_bytes()[: 100 if damage == "cut" else 0])
    with pytest.raises(WorkspaceError, match=r"weights\.pt.*Remove it"):
        FRAMEWORK.load_weights(seeded(Network), path)


def test_an_exported_program_gets_trained_weights_too() -> None:
    program = export(seeded(Network), Example([images(4).numpy()])).program
    trained = FRAMEWORK.trained(program, shifted(seeded(Network)))
    torch.testing.assert_close(trained.module()(images(4)), shifted(seeded(Network))(images(4)))
    assert FRAMEWORK.changed(program, trained)
    torch.testing.assert_close(program.module()(images(4)), seeded(Network)(images(4)))


def test_weights_that_are_not_finite_say_that_training_diverged() -> None:
    broken = seeded(Network)
    with torch.no_grad():
        broken.fc.weight[0, 0] = float("nan")
    with pytest.raises(ApplyError, match=r"'fc\.weight' is not: training diverged"):
        FRAMEWORK.trained(seeded(Network), broken)


@pytest.mark.parametrize("returned", [3, nn.Linear(2, 2), seeded(Network, 4)])
def test_what_train_fn_returns_must_be_such_a_model(returned: object) -> None:
    with pytest.raises(ApplyError, match=r"train_fn"):
        FRAMEWORK.trained(seeded(Network), returned)
