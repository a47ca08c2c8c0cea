"""A workspace holds its labelled data to a hash, as it does the calibration data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import autotune
from autotune.adapter import Execution
from autotune.criterion import Criterion
from autotune.errors import WorkspaceError
from autotune.tuning.history import History
from tests.numpy_adapter import NumpyAdapter
from tests.numpy_framework import NumpyModel
from tests.tuning.cheap import CHEAP


def labelled(images: Sequence[Any], network: NumpyModel, **changed: int) -> list[tuple[Any, Any]]:
    run = NumpyAdapter().runner(network, Execution())
    pairs = [(batch, run({network.inputs[0].name: batch})[0].argmax(1)) for batch in images]
    for index, label in ((int(name.removeprefix("label_")), value) for name, value in changed.items()):
        pairs[-1][1][index] = label
    return pairs


def tuner(**options: Any) -> autotune.Tuner:
    return autotune.Tuner(
        **{**CHEAP, "objective": "size", "max_trials": 1, "criterion": Criterion(absolute=0.9), **options}
    )


@pytest.mark.parametrize("changes", [{}, {"threads": 2}, {"criterion": Criterion(absolute=0.8)}])
def test_another_label_is_refused_and_what_was_measured_stays(
    network: NumpyModel, images: Sequence[Any], tmp_path: Path, changes: dict[str, Any]
) -> None:
    data = labelled(images, network)
    first = tuner(workspace=tmp_path).tune(network, images, metric="topk", eval_dataloader=data)
    other = labelled(images, network, label_0=int(data[-1][1][0] + 1) % 3)
    again = tuner(workspace=tmp_path, **changes)
    with pytest.raises(WorkspaceError, match=r"evaluation data: \w+ there, \w+ here.*--fresh"):
        again.tune(network, images, metric="topk", eval_dataloader=other)
    whole = tuner(workspace=tmp_path).tune(network, images, metric="topk", eval_dataloader=data)
    assert [each.loss for each in whole.history] == [each.loss for each in first.history]


def test_fewer_samples_and_another_order_are_refused(
    network: NumpyModel, images: Sequence[Any], tmp_path: Path
) -> None:
    data = labelled(images, network)
    given = tuner(workspace=tmp_path)
    given.tune(network, images, metric="topk", eval_dataloader=data)
    for other in (data[:-1], data[::-1]):
        with pytest.raises(WorkspaceError, match="a data loader that shuffles"):
            given.tune(network, images, metric="topk", eval_dataloader=other)


def test_a_study_in_a_storage_knows_its_data_too(network: NumpyModel, images: Sequence[Any], tmp_path: Path) -> None:
    data = labelled(images, network)
    given = tuner(storage=f"sqlite:///{tmp_path}/study.db")
    given.tune(network, images, metric="topk", eval_dataloader=data)
    with pytest.raises(WorkspaceError, match="evaluation data"):
        given.take_part(network, images, metric="topk", eval_dataloader=data[:-1])


def test_a_workspace_from_before_it_was_known_goes_on(
    network: NumpyModel, images: Sequence[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = labelled(images, network)
    given = tuner(workspace=tmp_path)
    with monkeypatch.context() as earlier:
        earlier.setattr(History, "require_evaluated_on", lambda *_: None)
        given.tune(network, images, metric="topk", eval_dataloader=data)
    given.tune(network, images, metric="topk", eval_dataloader=data)
    with pytest.raises(WorkspaceError, match="evaluation data"):
        given.tune(network, images, metric="topk", eval_dataloader=data[:-1])
