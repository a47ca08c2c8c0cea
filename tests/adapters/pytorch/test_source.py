"""Modules tuned on the runtimes that read ONNX."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import autotune
from autotune.config import Precision
from autotune.errors import DataError, InputError, MissingDependencyError, ModelError, WorkspaceError
from autotune.restriction import OpRestriction, SpaceRestriction
from tests.adapters.pytorch.modules import Network, Text, images, seeded, tokens

ROOT = Path(__file__).parents[3]


def loader(samples: int = 16, **options: Any) -> Any:
    pictures = images(samples)
    with torch.no_grad():
        labels = seeded(Network)(pictures).argmax(1)
    return DataLoader(TensorDataset(pictures, labels), batch_size=4, **options)


def agreement(model: Any) -> float:
    """The share of pictures for which the model says what fp32 does; it sees and gives tensors."""
    assert isinstance(model, torch.nn.Module)
    right = total = 0
    with torch.no_grad():
        for pictures, labels in loader():
            output = model.eval()(pictures)
            assert isinstance(output, torch.Tensor)
            right += int((output.argmax(1) == labels).sum())
            total += len(labels)
    return right / total


def tuner(**options: Any) -> autotune.Tuner:
    """A tuner for size, which unlike latency is the same in every run; half of the pictures may change."""
    return autotune.Tuner(
        **{
            "criterion": autotune.Criterion(relative=0.5),
            "objective": "size",
            "max_trials": 1,
            "strategy": "basic",
            **options,
        }
    )


@pytest.mark.parametrize("framework", ["onnxruntime", "openvino"])
def test_a_module_is_tuned_and_comes_back_as_one(framework: str, tmp_path: Path) -> None:
    network = seeded(Network)
    result = tuner(framework=framework).tune(network, loader(), agreement)
    assert {"stem", "layer1.0.conv1", "layer1.1.add", "fc"} <= set(result.op_types)
    assert result.best.config.is_fp32 == (framework == "openvino")  # whose file of so small a network grows
    tuned, pictures = result.module(), images(3)
    output = tuned(pictures)
    with torch.no_grad():
        wanted = network(pictures)
    assert output.dtype is torch.float32
    torch.testing.assert_close(output, wanted, rtol=0.0, atol=0.2 * float(wanted.abs().max()))
    np.testing.assert_array_equal(result.model(pictures), output.numpy())

    path = result.save(tmp_path / f"model{'.onnx' if framework == 'onnxruntime' else '.xml'}")
    assert path.exists()
    assert not network.training
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_a_module_that_was_tuned_works_in_another_process(tmp_path: Path) -> None:
    tuned = tuner().tune(seeded(Network), loader(), agreement).module()
    here = tuned(images(2)).tolist()  # opens it, so that there is a session that must not be pickled
    (tmp_path / "tuned.pickle").write_bytes(pickle.dumps(tuned))
    code = (
        "import pickle, sys\nfrom tests.adapters.pytorch.modules import images\n"
        "tuned = pickle.loads(open(sys.argv[1], 'rb').read())\nprint(tuned(images(2)).tolist())"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "tuned.pickle")],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert ran.stdout.strip() == str(here)


def test_a_program_is_tuned_as_its_module_is() -> None:
    batch = {0: torch.export.Dim("batch")}
    program = torch.export.export(seeded(Network), (images(2),), dynamic_shapes=(batch,))
    of_program = tuner().tune(program, loader(), agreement)
    of_module = tuner().tune(seeded(Network), loader(), agreement)
    assert of_program.op_types == of_module.op_types
    torch.testing.assert_close(of_program.module()(images(2)), of_module.module()(images(2)))


def test_metrics_read_tensors_too() -> None:
    result = tuner().tune(seeded(Network), loader(), metric="topk", eval_dataloader=loader())
    assert result.baseline.measurement is not None
    assert result.baseline.measurement.accuracy == 1.0


def test_dicts_with_keys_that_the_module_does_not_take() -> None:
    batches = [tokens(4, 6), tokens(4, 8)]

    def score(model: Any) -> float:
        return float(sum(model(**batch).mean() for batch in batches)) + 100.0

    result = tuner(criterion=autotune.Criterion(relative=0.5)).tune(seeded(Text), batches, score)
    assert any("does not take token_type_ids, labels" in note for note in result.notes)
    torch.testing.assert_close(result.module()(**batches[0]), result.module()(batches[0]))


def test_ops_are_restricted_by_the_modules_name() -> None:
    restriction = SpaceRestriction(op_name={"layer1.0.conv1": OpRestriction(precision=(Precision.FP32,))})
    result = tuner(restriction=restriction).tune(seeded(Network), loader(), agreement)
    config = result.history[1].config
    assert config["layer1.0.conv1"].precision is Precision.FP32
    assert config["layer1.0.conv2"].precision is Precision.INT8


def test_a_workspace_goes_on_with_the_module_in_another_process(tmp_path: Path) -> None:
    code = (
        "from tests.adapters.pytorch.test_source import *\n"
        "tuner(workspace=sys.argv[1]).tune(seeded(Network), loader(), agreement)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    result = tuner(workspace=tmp_path, max_trials=2).tune(seeded(Network), loader(), agreement)
    assert [trial.number for trial in result.history] == [0, 1, 2]


def test_a_loader_that_shuffles_is_named_where_a_workspace_sees_other_data(tmp_path: Path) -> None:
    runs = tuner(workspace=tmp_path, sampling_size=8)
    shuffled = [loader(shuffle=True, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    runs.tune(seeded(Network), shuffled[0], agreement)
    with pytest.raises(WorkspaceError, match=r"calibration data: .* a data loader that shuffles.*shuffle=False"):
        runs.tune(seeded(Network), shuffled[1], agreement)


def test_a_worker_process_gets_the_module_too() -> None:
    result = tuner(isolation="process").tune(seeded(Network), loader(), agreement)
    assert not result.best.config.is_fp32


def test_an_exception_of_eval_fn_on_the_module_surfaces_as_it_is() -> None:
    def broken(_model: Any) -> float:
        raise KeyError("labels")

    with pytest.raises(KeyError, match="labels"):
        tuner().tune(seeded(Network), loader(), broken)


def test_a_generator_can_be_read_once_only() -> None:
    def batches() -> Iterator[torch.Tensor]:
        yield images(2)

    with pytest.raises(DataError, match="iterable again and again"):
        tuner().tune(seeded(Network), batches(), agreement)


def test_a_module_in_training_mode_is_refused_before_anything_is_measured() -> None:
    with pytest.raises(ModelError, match="in training mode"):
        tuner().tune(seeded(Network).train(), loader(), agreement)


def test_a_file_has_no_module(network_file: Path) -> None:
    data = [np.zeros((2, 3, 16, 16), np.float32)]
    result = tuner().tune(network_file, data, lambda model: float(np.asarray(model(data[0])).size))
    with pytest.raises(InputError, match=r"`module\(\)` needs a model that was given as a framework's own object"):
        result.module()


def test_without_onnxscript_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("autotune.adapters.pytorch.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(MissingDependencyError, match=r"'onnxscript'.*pip install 'autotune-quantization\[pytorch\]'"):
        autotune.tune(torch.nn.Linear(1, 1), [], agreement)
