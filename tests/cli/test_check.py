"""The report of ``autotune check`` on a tuned model on other CPUs; one test runs it on an emulated one."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autotune import emulation
from autotune.adapter import Execution
from autotune.config import MINMAX, Granularity, OpConfig, Precision, QuantizedType, Recipe
from autotune.config import TensorScheme as Scheme
from autotune.emulation import EmulatedRun, Emulator
from autotune.errors import ApplyError, InputError
from autotune.host import current_host
from tests.cli.conftest import Command
from tests.numpy_adapter import NumpyAdapter

ADAPTER = NumpyAdapter()
NUMPY = ("--framework", "numpy")


def save_tuned(source: Path, path: Path, recipe: Recipe) -> Path:
    """The network with every op in static int8."""
    model = ADAPTER.load(source)
    images = np.random.default_rng(2).normal(size=(8, 3, 16, 16)).astype(np.float32)
    statistics = ADAPTER.calibrate(model, [{"data": images}], seed=0)
    weight = Scheme(dtype=QuantizedType.S8, symmetric=True, granularity=Granularity.PER_CHANNEL)
    choice = OpConfig(
        precision=Precision.INT8, activation=Scheme(dtype=QuantizedType.U8), weight=weight, calibration=MINMAX
    )
    config = ADAPTER.space(model).uniform(choice, recipe)
    ADAPTER.save(ADAPTER.apply(model, config, statistics), path, {})
    return path


@pytest.fixture
def tuned(experiment: Path, network_file: Path, tmp_path: Path) -> Path:  # noqa: ARG001  writes the data
    return save_tuned(network_file, tmp_path / "tuned.npz", Recipe())


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """An emulator that knows two CPUs and adds noise to what runs here; returns the CPUs that were asked for."""
    asked: list[str] = []

    def run(self: Emulator, model: Path, framework: str, batches: Any, cpu: str, *, on_progress: Any) -> EmulatedRun:  # noqa: ARG001
        asked.append(cpu)
        assert framework == "numpy"
        runner = ADAPTER.runner(ADAPTER.load(model), Execution())
        outputs = [runner(feeds)[0] for feeds in batches]
        on_progress(len(batches))
        host = dataclasses.replace(current_host(), architecture="x86_64", features=("avx2",))
        noisy = tuple((-each,) for each in outputs)
        return EmulatedRun(host=host, outputs=noisy, without_avx512=cpu == "Icelake-Server")

    monkeypatch.setattr(Emulator, "run", run)
    known = Emulator(program="/usr/bin/qemu-x86_64", cpus=("Haswell", "Icelake-Server"))
    monkeypatch.setattr("autotune.cli.check.find_emulator", lambda: known)
    return asked


@pytest.fixture
def without_emulator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autotune.cli.check.find_emulator", lambda: None)


def cells(out: str, name: str) -> list[str]:
    return next(line for line in out.splitlines() if line.strip().startswith(name)).split()


@pytest.mark.usefixtures("without_emulator")
def test_ops_at_risk_are_named_without_data_and_without_an_emulator(command: Command, tuned: Path) -> None:
    outcome = command("check", *NUMPY, tuned.name)
    assert outcome.status == 0
    assert "4 ops can saturate on x86 CPUs without VNNI: dense_0, dense_1, dense_2, head" in outcome.out
    assert "`--data`" in outcome.out


@pytest.mark.usefixtures("without_emulator")
def test_a_model_without_risk(command: Command, tuned: Path, network_file: Path) -> None:
    save_tuned(network_file, tuned, Recipe(bound_pairs=True))
    assert "No op can saturate" in command("check", *NUMPY, tuned.name).out


@pytest.mark.usefixtures("without_emulator")
def test_many_ops_are_cut_unless_all_are_asked_for(
    command: Command, tuned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(NumpyAdapter, "saturating_ops", lambda *_: tuple(f"op_{i}" for i in range(25)))
    out = command("check", *NUMPY, tuned.name).out
    assert "op_19 and 5 more (`--ops` lists them)" in out
    assert "op_24" in command("check", *NUMPY, tuned.name, "--ops").out


@pytest.mark.usefixtures("without_emulator")
def test_what_to_install_where_no_emulator_is(command: Command, tuned: Path) -> None:
    outcome = command("check", *NUMPY, tuned.name, "--data", "experiment.yaml")
    assert outcome.status == 0
    assert "apt install qemu-user" in outcome.out


def test_figures_there_beside_here_and_fp32(command: Command, tuned: Path, scripted: list[str]) -> None:
    outcome = command("check", *NUMPY, tuned.name, "--data", "experiment.yaml", "--samples", 32, "--cpu", "Haswell")
    assert outcome.status == 0
    assert scripted == ["Haswell"]
    assert float(cells(outcome.out, "fp32 here")[-1]) == 1.0  # the labels are its own answers
    there = cells(outcome.out, "Haswell")
    assert there[1] == "yes"
    assert float(there[2]) == pytest.approx(-6.0, abs=0.3)  # the outputs' signs were turned
    assert float(there[4]) > 50.0  # per cent of the answers
    assert float(there[-1]) < 0.5
    assert "32 samples. SQNR and changed answers are against fp32." in outcome.out


def test_an_archive_is_compared_with_this_cpu(
    command: Command, tuned: Path, tmp_path: Path, scripted: list[str]
) -> None:
    data = np.load(tmp_path / "data.npz")
    np.savez(tmp_path / "plain.npz", anything=data["images"])
    outcome = command("check", *NUMPY, tuned.name, "--data", "plain.npz", "--samples", 60)
    assert scripted == ["Haswell"]
    assert "top1" not in outcome.out
    assert "64 samples" in outcome.out
    assert "against here" in outcome.out
    np.savez(tmp_path / "named.npz", data=data["images"], labels=data["labels"], more=data["few"])
    outcome = command("check", *NUMPY, tuned.name, "--data", "named.npz", "--cpu", "Icelake-Server")
    assert "top1" in outcome.out
    assert "QEMU leaves out AVX-512 and VNNI: Icelake-Server was run as a CPU without them." in outcome.out


def test_a_function_that_scores_is_not_run_elsewhere(
    command: Command, tuned: Path, tmp_path: Path, scripted: list[str]
) -> None:
    path = tmp_path / "experiment.yaml"
    text = path.read_text()
    before, after = text.partition("  accuracy:\n")[0], text.partition("  isolation: none")[2]
    path.write_text(f"{before}  accuracy: {{function: 'scores:evaluate'}}\n  isolation: none{after}")
    outcome = command("check", *NUMPY, tuned.name, "--data", path.name)
    assert outcome.status == 0
    assert scripted == ["Haswell"]
    assert "scores by a function of its own" in outcome.out
    assert cells(outcome.out, "Haswell")[1] == "yes"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cpu", "Haswel"], "but got 'Haswel' (did you mean 'Haswell'?). It knows Haswell, Icelake-Server"),
        (["--data", "data.csv"], "must be an experiment file (.yaml) or a NumPy archive (.npz), but got data.csv"),
        (["--data", "nowhere.npz"], "There is no data file nowhere.npz"),
        (["--data", "nowhere.yaml"], "There is no experiment file nowhere.yaml"),
        (["--data", "data.npz"], "must have an array for each input of the model (data), but has"),
        (["--data", "text.npz"], "must be a NumPy archive"),
    ],
)
def test_bad_input_states_the_rule_the_value_and_the_way_out(
    command: Command, tuned: Path, tmp_path: Path, scripted: list[str], arguments: list[str], message: str
) -> None:
    (tmp_path / "text.npz").write_text("no archive")
    outcome = command("check", *NUMPY, tuned.name, *arguments)
    assert outcome.status == 2
    assert message in outcome.err
    assert scripted == []


LISTED = """\
Available CPUs:
x86 486                   (alias configured by machine type)
x86 Haswell-v4            Intel Core Processor (Haswell, no TSX, IBRS)
x86 qemu64-v1             QEMU Virtual CPU version 2.5+
x86 max                   Enables all features supported by the accelerator in the current host

Recognized CPUID flags:
  3dnow 3dnowext avx512f
"""


def test_cpus_are_read_from_what_the_emulator_lists() -> None:
    assert emulation._cpus(LISTED) == ("486", "Haswell-v4", "qemu64-v1", "max")
    assert emulation._cpus(LISTED.replace("x86 ", "  ")) == ("486", "Haswell-v4", "qemu64-v1", "max")


def test_an_interpreter_that_does_not_run_there_is_no_traceback(tmp_path: Path) -> None:
    """The program that stands for the emulator is the interpreter itself, which refuses its options."""
    stand_in = Emulator(program=sys.executable, cpus=("Haswell",))
    with pytest.raises(ApplyError, match=r"must run on an emulated Haswell, but .*Name a newer CPU"):
        stand_in.run(tmp_path / "model.npz", "numpy", [], "Haswell")
    with pytest.raises(InputError, match="but got 'Nehalem'"):
        stand_in.run(tmp_path / "model.npz", "numpy", [], "Nehalem")
    assert "SIGILL: this Python, or a library" in emulation._failure("Nehalem", -4, "")
    assert "but no such file. Name" in emulation._failure("Haswell", 1, "warning: TCG\nno such file\n")
