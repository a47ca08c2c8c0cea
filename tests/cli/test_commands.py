from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from autotune.evaluation.latency.throughput import Throughput, ThroughputOptions
from autotune.experiment import SCHEMA_FILE, load_experiment
from tests.cli.conftest import Command

NUMPY = ("--framework", "numpy")


def test_init_writes_an_experiment_that_loads(command: Command, network_file: Path, tmp_path: Path) -> None:
    outcome = command("init", *NUMPY, network_file, "-o", "mine.yaml")
    assert outcome.status == 0
    text = (tmp_path / "mine.yaml").read_text()
    assert text.startswith("# yaml-language-server: $schema=autotune.schema.json\n")
    assert (tmp_path / "autotune.schema.json").read_text() == SCHEMA_FILE.read_text()
    assert "# input  data: float32 (batch, 3, 16, 16)" in text
    assert "# output logits: float32 (batch, 10)" in text
    experiment = load_experiment(tmp_path / "mine.yaml")
    assert experiment.model.path is not None
    assert experiment.model.path.resolve() == network_file.resolve()
    steps = experiment.evaluation.accuracy.dataset.preprocess if experiment.evaluation.accuracy.dataset else ()
    assert [type(step.operation).__name__ for step in steps] == ["Resize", "Rescale", "Normalize", "Transpose"]
    assert experiment.workspace == tmp_path / "runs" / "mine"


def test_what_init_comments_out_is_valid_too(command: Command, network_file: Path, tmp_path: Path) -> None:
    command("init", *NUMPY, network_file)
    lines = (tmp_path / "experiment.yaml").read_text().splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("# quantization:"))
    end = next(number for number, line in enumerate(lines) if line.startswith("evaluation:"))
    lines[start:end] = [line.removeprefix("# ") if line.startswith("# q") else line[1:] for line in lines[start:end]]
    (tmp_path / "all.yaml").write_text("\n".join(lines))
    restriction = load_experiment(tmp_path / "all.yaml").quantization.restriction()
    assert set(restriction.op_type) == {"Dense"}
    assert set(restriction.op_name) == {"dense_0"}


def test_hints_of_init_name_the_framework(command: Command, network_file: Path, tmp_path: Path) -> None:
    outcome = command("init", *NUMPY, network_file)
    text = (tmp_path / "experiment.yaml").read_text() + outcome.out
    hints = re.findall(r"`?autotune (inspect|check|benchmark|init)\b([^`\n]*)", text)
    assert hints
    assert all("--framework numpy" in arguments for _, arguments in hints)


def test_benchmark_counts_the_samples_that_a_call_has(
    command: Command, network_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[ThroughputOptions] = []

    def measure(_adapter: object, models: list[object], _feeds: object, options: ThroughputOptions) -> list[Throughput]:
        asked.append(options)
        return [Throughput(samples_per_s=1.0, low=1.0, high=1.0, pinned=True) for _ in models]

    monkeypatch.setattr("autotune.cli.benchmark.measure_throughput", measure)
    shape = ["--shape", "data=2,3,16,16", "--instances", 1, "--warmup", 1]
    assert command("benchmark", *NUMPY, network_file.name, network_file.name, *shape).status == 0
    assert [options.batch_size for options in asked] == [2]


def test_init_writes_a_far_path_in_full(command: Command, network_file: Path, tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    assert command("init", *NUMPY, network_file, "-o", "a/x.yaml").status == 0
    assert yaml.safe_load((tmp_path / "a" / "x.yaml").read_text())["model"]["path"] == "../network.npz"
    assert command("init", *NUMPY, network_file, "-o", "a/b/x.yaml").status == 0
    assert yaml.safe_load((tmp_path / "a" / "b" / "x.yaml").read_text())["model"]["path"] == str(network_file.resolve())


def test_init_does_not_write_over_a_file(command: Command, network_file: Path, tmp_path: Path) -> None:
    (tmp_path / "experiment.yaml").write_text("mine")
    outcome = command("init", *NUMPY, network_file)
    assert outcome.status == 2
    assert "is there already" in outcome.err
    assert (tmp_path / "experiment.yaml").read_text() == "mine"
    assert command("init", *NUMPY, network_file, "--force").status == 0


def test_inspect(command: Command, network_file: Path) -> None:
    outcome = command("inspect", *NUMPY, network_file, "--ops")
    assert outcome.status == 0
    lines = [line.split() for line in outcome.out.splitlines()]
    assert ["Dense", "4", "int8,", "int8_dynamic,", "int8_weight,", "fp32"] in lines
    assert any(line[:2] == ["dense_1", "Dense"] for line in lines)
    assert "inputs   data float32 (batch, 3, 16, 16)" in outcome.out
    assert "\n  measured integers are simulated in float32\n" in outcome.out
    assert "s8 symmetric per_channel" in outcome.out
    assert ["bound_pairs", "the", "graph", "false,", "true"] in lines
    assert "Ops that have a choice" in outcome.out


@pytest.mark.parametrize("arguments", [["inspect", "nowhere.npz"], ["init", "nowhere.npz"], ["inspect", "text.npz"]])
def test_a_missing_or_corrupt_model_is_bad_input(command: Command, tmp_path: Path, arguments: list[str]) -> None:
    (tmp_path / "text.npz").write_text("no model")
    outcome = command(*arguments, *NUMPY)
    assert outcome.status == 2
    assert arguments[1] in outcome.err
    assert "Traceback" not in outcome.err


def test_benchmark_compares_with_the_first(command: Command, network_file: Path) -> None:
    outcome = command("benchmark", *NUMPY, network_file.name, network_file.name, "--batch-size", 2, "--warmup", 1)
    assert outcome.status == 0
    rows = [line.split() for line in outcome.out.splitlines() if "network.npz" in line]
    assert len(rows) == 2
    assert "1.00x" in rows[0]
    speedup = float(rows[1][4].removesuffix("x"))
    assert speedup > 0  # how much, a busy machine decides


def test_benchmark_shows_throughput_beside_latency(command: Command, network_file: Path) -> None:
    outcome = command("benchmark", *NUMPY, network_file.name, network_file.name, "--warmup", 1, "--instances", 1)
    assert outcome.status == 0
    table = outcome.out[outcome.out.index("Samples/s") :]
    rows = [line.split() for line in table.splitlines() if "network.npz" in line]
    first, second = (float(row[1].replace(",", "")) for row in rows)
    assert first > 0
    assert second > 0
    assert "1 instance on 1 core of its own." in outcome.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["network.npz", "--cores-per-instance", 2], "goes with `--instances`"),
        (["network.npz", "--instances", 4096], "must not exceed"),
        ([], "needs two models or more, but got 1"),
        (["nowhere.npz"], "nowhere.npz"),
        (["network.npz", "--shape", "data=1,x"], "must read like"),
        (["network.npz", "--shape", "data=1,3,16," + "9" * 5_000], "must read like"),
        (["network.npz", "--shape", "data=1,3,16"], "must be a shape that the input has"),
        (["network.npz", "--shape", "data=1,3,16,17"], "must be a shape that the input has"),
        (["network.npz", "--shape", "data=0,3,16,16"], "with 1 or more in each axis"),
        (["network.npz", "--shape", "data=999999999,3,16,16"], "must have at most 1,000,000,000 numbers"),
        (["network.npz", "--seed", "-1"], "--seed"),
        (["network.npz", "--shape", "data=2,3,16,16", "--batch-size", 3], "a call of network.npz has 2 (data (2,"),
        (["network.npz", "--shape", "date=1,3"], "must name inputs of the model (data), but got 'date'"),
    ],
)
def test_benchmarks_that_cannot_be_run(
    command: Command, network_file: Path, arguments: list[object], message: str
) -> None:
    outcome = command("benchmark", *NUMPY, network_file.name, *arguments)
    assert outcome.status == 2
    assert message in outcome.err


def test_report_shows_what_a_run_found(command: Command, experiment: Path, tmp_path: Path) -> None:
    ran = command("run", experiment)
    reported = command("report", "work", "-o", "out.html")
    assert reported.status == 0
    tables = ran.out[ran.out.index("Tune results") : ran.out.index("Target met")]
    assert tables in reported.out
    assert (tmp_path / "out.html").read_text().lstrip().lower().startswith("<!doctype html>")


def test_report_of_what_is_no_workspace(command: Command, tmp_path: Path) -> None:
    outcome = command("report", tmp_path)
    assert outcome.status == 2
    assert "holds no history" in outcome.err


def test_schema(command: Command, tmp_path: Path) -> None:
    printed = command("schema")
    assert json.loads(printed.out)["title"] == "autotune experiment"
    command("schema", "-o", "schema.json")
    assert (tmp_path / "schema.json").read_text() == printed.out == SCHEMA_FILE.read_text()
    assert command("schema", "-o", "nowhere/schema.json").status == 2


def test_python_dash_m() -> None:
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-m", "autotune", "--help"], cwd=root, capture_output=True, text=True, check=True
    )
    for name in ("init", "inspect", "run", "report", "benchmark", "schema"):
        assert name in done.stdout
    assert "130" in done.stdout


def test_init_leaves_nothing_that_yaml_reads_otherwise(command: Command, network_file: Path, tmp_path: Path) -> None:
    odd = tmp_path / "1: odd # name.npz"
    odd.write_bytes(network_file.read_bytes())
    assert command("init", *NUMPY, odd).status == 0
    assert yaml.safe_load((tmp_path / "experiment.yaml").read_text())["model"]["path"] == odd.name
