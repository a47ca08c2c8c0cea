"""``autotune init`` on kinds of models: the file that it writes runs once its places are filled in."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import yaml

from autotune.adapter import TensorSpec
from autotune.adapters.onnxruntime import OnnxRuntimeAdapter
from autotune.cli.exit_status import ExitStatus
from autotune.cli.proposal import Role, input_roles, propose
from autotune.experiment import load_experiment
from tests.adapters.conftest import convolutional_network
from tests.adapters.onnx import shapes
from tests.cli.conftest import Command

Arrays = dict[str, npt.NDArray[Any]]
RNG = np.random.default_rng(0)
FAST = ["--set", "evaluation.isolation=none", "--set", "evaluation.performance.warmup=1", "--max-trials", "2"]
ENDED = (ExitStatus.MET, ExitStatus.NOT_MET)


def pictures(count: int, size: int) -> npt.NDArray[np.uint8]:
    return RNG.integers(0, 256, (count, size, size, 3), dtype=np.uint8)


KINDS: dict[str, tuple[onnx.ModelProto, Arrays, str]] = {
    "image classifier": (convolutional_network(), {"images": pictures(24, 16)}, "agreement"),
    "detector": (shapes.detector(), {"images": pictures(12, 40)}, "boxes"),
    "older detector": (shapes.detector("yolov5", "batch"), {"images": pictures(12, 32)}, "boxes"),
    "text": (
        shapes.text_classifier(),
        {"input_ids": RNG.integers(0, 50, (24, 7)), "attention_mask": np.ones((24, 7), np.int64)},
        "agreement",
    ),
    "voice": (shapes.voice_detector(), {"input": shapes.normal(24, 16)}, "agreement"),
    "unnamed voice": (shapes.voice_detector(None), {"input": shapes.normal(24, 16)}, "agreement"),
    "probabilities": (shapes.step_probabilities(), {"x": shapes.normal(6, 30, 8)}, "fidelity"),
    "tabular": (shapes.regressor(), {"x": shapes.normal(24, 8)}, "fidelity"),
    "two inputs": (
        shapes.two_inputs(),
        {"picture": shapes.normal(24, 3, 8, 8), "features": shapes.normal(24, 8)},
        "agreement",
    ),
    "utterance": (shapes.utterance("frames"), {"x": shapes.normal(6, 30, 8)}, "cosine"),
    "unnamed utterance": (shapes.utterance(None), {"x": shapes.normal(6, 30, 8)}, "cosine"),
    "time-major": (shapes.time_major_lstm(), {"x": shapes.normal(12, 9, 8)}, "cosine"),
    "cache": (shapes.cached_decoder(), {"x": shapes.normal(8, 5, 8)}, "cosine"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_file_runs_once_it_points_at_data(command: Command, tmp_path: Path, kind: str) -> None:
    proto, arrays, metric = KINDS[kind]
    onnx.save(proto, tmp_path / "model.onnx")
    outcome = command("init", "model.onnx", "-o", "mine.yaml")
    assert (outcome.status, outcome.err) == (0, "")
    text = (tmp_path / "mine.yaml").read_text()
    assert yaml.safe_load(text)["evaluation"]["accuracy"]["metric"] == metric
    np.savez(tmp_path / "calibration.npz", **arrays)  # type: ignore[arg-type]  # numpy's stub knows no names
    for place in ("<calibration.npz>", "<evaluation.npz>"):
        text = text.replace(place, "calibration.npz")
    (tmp_path / "mine.yaml").write_text(text)
    assert load_experiment(tmp_path / "mine.yaml").unfilled == ()
    outcome = command("run", "mine.yaml", *FAST)
    assert outcome.status in ENDED, outcome
    assert "failed:" not in outcome.out


@pytest.mark.parametrize("kind", KINDS)
def test_the_functions_beside_it_run_as_they_are(command: Command, tmp_path: Path, kind: str) -> None:
    onnx.save(KINDS[kind][0], tmp_path / "model.onnx")
    name = f"f{abs(hash(tmp_path))}"  # modules are imported once in a process
    assert command("init", "model.onnx", "-o", f"{name}.yaml").status == 0
    written = yaml.safe_load((tmp_path / f"{name}.yaml").read_text())
    written["calibration"]["dataset"] = {"function": f"{name}_functions:batches"}
    written["evaluation"]["accuracy"] = {"function": f"{name}_functions:evaluate"}
    (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(written))
    outcome = command("run", f"{name}.yaml", *FAST)
    assert outcome.status in ENDED, outcome
    assert "failed:" not in outcome.out
    accuracies = [line.split()[1] for line in outcome.out.splitlines() if line.split()[:1] == ["0"]]
    assert accuracies[0] == "1.0000"  # fp32 beside itself


def test_places_that_are_left_are_named_with_their_lines(command: Command, network_file: Path, tmp_path: Path) -> None:
    written = command("init", network_file)
    lines = (tmp_path / "experiment.yaml").read_text().splitlines()
    outcome = command("run", "experiment.yaml")
    assert outcome.status == 2
    for name, keys in (("calibration", "calibration"), ("evaluation", "evaluation.accuracy")):
        number = next(index for index, line in enumerate(lines, 1) if f"<{name}.npz>" in line)
        told = f"experiment.yaml:{number}: {keys}.dataset.npz.path: <{name}.npz> is a place to be filled in"
        assert told in outcome.err
        assert told in written.out


def test_labels_are_used_where_there_are_some(command: Command, network_file: Path, tmp_path: Path) -> None:
    assert command("init", network_file, "--labels", "truth").status == 0
    accuracy = yaml.safe_load((tmp_path / "experiment.yaml").read_text())["evaluation"]["accuracy"]
    assert (accuracy["metric"], accuracy["k"]) == ("topk", 1)
    assert accuracy["dataset"]["npz"]["labels"] == "truth"


def test_functions_that_are_there_stay(command: Command, network_file: Path, tmp_path: Path) -> None:
    (tmp_path / "experiment_functions.py").write_text("mine = 1")
    assert command("init", network_file).status == 0
    assert (tmp_path / "experiment_functions.py").read_text() == "mine = 1"
    assert command("init", network_file, "--force").status == 0
    assert "def evaluate(model)" in (tmp_path / "experiment_functions.py").read_text()


def test_what_the_metric_does_not_see_is_said(command: Command, tmp_path: Path) -> None:
    onnx.save(shapes.detector(), tmp_path / "model.onnx")
    command("init", "model.onnx")
    text = (tmp_path / "experiment.yaml").read_text()
    assert "It seems to be a detector of objects" in text
    assert "does not see whether fp32's detections are right" in text
    assert "F1 0.44 it was 0.999" in text
    accuracy = yaml.safe_load(text)["evaluation"]["accuracy"]
    assert accuracy["layout"] == "yolov8"


def test_scalars_are_constants_and_states_are_zeros(command: Command, tmp_path: Path) -> None:
    onnx.save(shapes.voice_detector(), tmp_path / "model.onnx")
    command("init", "model.onnx")
    dataset = yaml.safe_load((tmp_path / "experiment.yaml").read_text())["calibration"]["dataset"]
    assert dataset["npz"]["inputs"] == {"input": "input"}
    assert dataset["constants"] == {"sr": 16000, "state": {"shape": [2, "batch", 6], "value": 0, "dtype": "float32"}}
    assert dataset["batch_size"] == 10


@pytest.mark.parametrize(
    ("inputs", "outputs", "states"),
    [
        (
            {"x": ("b", 4), "h0": (1, "b", 6), "c0": (1, "b", 6)},
            {"y": ("b", 1), "hn": (1, "b", 6), "cn": (1, "b", 6)},
            {"h0", "c0"},
        ),
        ({"x": ("b", 4), "h": (1, "b", 6)}, {"y": ("b", 1), "h_out": (1, "b", 6)}, {"h"}),
        (
            {"ids": ("b", "s"), "past_key_values.0.key": ("b", 2, "past", 8)},
            {"logits": ("b", "s", 50), "present.0.key": ("b", 2, "total", 8)},
            {"past_key_values.0.key"},
        ),
        ({"x": ("b", 4), "cache_in": ("b", 6)}, {"y": ("b", 1), "cache_out": ("b", 6)}, {"cache_in"}),
        # Features of the same shape are no state, nor is an encoder's output that a decoder reads.
        ({"x": ("b", 4)}, {"x_new": ("b", 4)}, set()),
        ({"ids": ("b", "s"), "encoder_hidden_states": ("b", "t", 8)}, {"last_hidden_state": ("b", "s", 8)}, set()),
    ],
)
def test_states_are_told_by_the_output_that_follows_them(
    inputs: dict[str, Any], outputs: dict[str, Any], states: set[str]
) -> None:
    def specs(given: dict[str, Any]) -> tuple[TensorSpec, ...]:
        return tuple(TensorSpec(name=name, dtype=np.dtype(np.float32), shape=shape) for name, shape in given.items())

    model: Any = SimpleNamespace(inputs=specs(inputs), outputs=specs(outputs))
    assert {name for name, role in input_roles(model).items() if role is Role.STATE} == states


def test_a_graph_network_is_left_to_a_function(command: Command, tmp_path: Path) -> None:
    onnx.save(shapes.graph_network(), tmp_path / "model.onnx")
    assert command("init", "model.onnx").status == 0
    experiment = load_experiment(tmp_path / "experiment.yaml")
    proposal = propose(OnnxRuntimeAdapter(), OnnxRuntimeAdapter().load(shapes.graph_network()))
    assert proposal.stack_axis is None
    assert experiment.calibration.dataset.stack_axis is None


_COMMANDS = """
import sys
from autotune.cli import main
for line in sys.stdin.read().splitlines():
    sys.argv = ["autotune", *line.split()]
    try:
        main()
    except SystemExit as ended:
        assert not ended.code, line
"""


def test_nothing_but_the_answer_reaches_the_terminal(tmp_path: Path) -> None:
    """ONNX Runtime's logger writes to the file of standard error itself, which is why this needs a process."""
    models = {"baked": shapes.baked_batch(), "graph": shapes.graph_network(), "text": shapes.text_classifier()}
    lines = []
    for name, proto in models.items():
        onnx.save(proto, tmp_path / f"{name}.onnx")
        lines += [f"inspect {name}.onnx", f"init {name}.onnx -o {name}.yaml"]
    ran = subprocess.run(
        [sys.executable, "-c", _COMMANDS],
        input="\n".join(lines),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
