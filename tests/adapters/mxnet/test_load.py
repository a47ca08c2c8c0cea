"""Models that are read, and those that are refused with a way out."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import autotune
from autotune.adapter import Example, Execution
from autotune.adapters.mxnet.adapter import MxnetAdapter
from autotune.adapters.mxnet.framework import INSTALL, mx
from autotune.errors import ApplyError, MissingDependencyError, ModelError
from tests.adapters.mxnet.networks import images, residual, saved

ADAPTER = MxnetAdapter()
ROOT = Path(__file__).parents[3]


def example() -> Example:
    return Example([images()])


def block() -> Any:
    made = mx.gluon.nn.HybridSequential()
    with made.name_scope():
        made.add(mx.gluon.nn.Conv2D(16, 3, activation="relu"), mx.gluon.nn.Flatten(), mx.gluon.nn.Dense(10))
    made.initialize(mx.init.Xavier())
    return made


@pytest.mark.parametrize("ending", ["-symbol.json", "", "-0000.params"])
def test_either_file_and_the_prefix_name_a_model(tmp_path: Path, ending: str) -> None:
    path = saved(residual(), tmp_path)
    model = ADAPTER.load(tmp_path / f"network{ending}", example())
    assert model.fingerprint == ADAPTER.load(path, example()).fingerprint
    assert model.inputs[0].shape == ("batch", 3, 16, 16)


def test_a_block_computes_what_it_does_in_gluon() -> None:
    given = block()
    model = ADAPTER.load(given, example())
    found = ADAPTER.runner(model, Execution(threads=1))({"data": images()})[0]
    np.testing.assert_allclose(found, given(mx.nd.ndarray.array(images())).asnumpy(), rtol=1e-4, atol=1e-5)
    assert len(ADAPTER.space(model).ops) == 2


def test_a_run_tunes_a_block() -> None:
    loader = [images(seed=seed) for seed in range(3)]
    tuner = autotune.Tuner(framework="mxnet", max_trials=1, warmup=1, latency_max_s=0.1)
    result = tuner.tune(block(), loader, metric="cosine", eval_dataloader=loader)
    assert result.best is not None


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: path.with_name("network-0000.params").unlink(), "are missing"),
        (lambda path: path.with_name("network-0000.params").write_bytes(b"none"), "corrupt"),
        (lambda path: path.write_text(path.read_text()[:100]), "corrupt"),
        (lambda path: path.write_text(path.read_text().replace('"Flatten"', '"Unheard"')), "corrupt"),
        (lambda path: path.unlink(), "does not exist"),
    ],
)
def test_damaged_files_are_told(tmp_path: Path, damage: Any, said: str) -> None:
    path = saved(residual(), tmp_path)
    damage(path)
    with pytest.raises(ModelError, match=said):
        ADAPTER.load(path, example())


@pytest.mark.parametrize("source", [3, mx.gluon.nn.Sequential()])
def test_other_objects_are_refused(source: object) -> None:
    with pytest.raises(ModelError, match="HybridBlock"):
        ADAPTER.load(source, example())


def test_a_block_that_reads_values_cannot_be_traced() -> None:
    class Branching(mx.gluon.HybridBlock):
        def hybrid_forward(self, F: Any, x: Any) -> Any:  # noqa: ARG002, N803  # Gluon's own
            return x if x.sum().asscalar() > 0 else -x

    with pytest.raises(ModelError, match="cannot be"):
        ADAPTER.load(Branching(), example())


def test_a_symbol_without_shapes_needs_data(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no data to tell it"):
        ADAPTER.load(saved(residual(), tmp_path))


def test_other_threads_than_those_of_the_process_are_refused() -> None:
    model = ADAPTER.load(saved(residual()), example())
    with pytest.raises(ApplyError, match="OMP_NUM_THREADS=7"):
        ADAPTER.runner(model, Execution(threads=7))


def test_other_versions_are_refused_by_the_line_that_installs_this_one(monkeypatch: pytest.MonkeyPatch) -> None:
    from autotune.adapters.mxnet import framework  # noqa: PLC0415  # its private part

    monkeypatch.setattr(importlib.metadata, "version", lambda _name: "2.0.0")
    with pytest.raises(MissingDependencyError) as caught:
        framework._import()
    assert INSTALL in str(caught.value)


def test_a_missing_framework_is_told_by_the_line_that_installs_it() -> None:
    script = (
        "import sys; sys.modules['mxnet'] = None\n"
        "from autotune.adapters import get_adapter\n"
        "try: get_adapter('mxnet')\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    said = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert said.startswith("MissingDependencyError")
    assert INSTALL in said


def test_the_import_says_nothing_and_leaves_numpy_as_it_was() -> None:
    script = (
        "import numpy; before = set(vars(numpy))\n"
        "import autotune.adapters.mxnet.framework\n"
        "assert not set(vars(numpy)) & {'bool8', 'float_', 'PZERO', 'asfarray'} - before\n"
    )
    said = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert said.stdout + said.stderr == ""
