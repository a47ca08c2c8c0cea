"""Sources that users give: files of both representations, whole and damaged, and layers."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autotune.adapter import Example
from autotune.adapters.paddle.framework import paddle
from autotune.adapters.paddle.load import read_model
from autotune.adapters.paddle.parameters import read_parameters
from autotune.config import QuantizationConfig
from autotune.errors import DataError, ModelError, WorkspaceError
from tests.adapters.paddle.calibrated import ADAPTER, calibrated, candidate, outputs
from tests.adapters.paddle.networks import Pooled, Residual, batches, filled, images, saved


@pytest.fixture
def program(tmp_path: Path) -> Path:
    return saved(filled(Residual()), tmp_path)


def test_program_parameters_and_prefix_are_one_model(program: Path) -> None:
    names = (program, program.with_suffix(".pdiparams"), program.with_suffix(""), str(program))
    assert len({read_model(name, None).fingerprint for name in names}) == 1


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"missing\.pdmodel does not exist"):
        read_model(tmp_path / "missing", None)


def test_a_folder_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is a folder"):
        read_model(tmp_path, None)


def test_a_program_without_its_parameters_is_named(program: Path) -> None:
    program.with_suffix(".pdiparams").unlink()
    with pytest.raises(ModelError, match=r"network\.pdiparams does not exist.*Put the \.pdiparams file beside it"):
        read_model(program, None)


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("suffix", [".pdmodel", ".pdiparams"])
def test_a_file_that_is_cut_off_is_named(program: Path, suffix: str, kept: float) -> None:
    damaged = program.with_suffix(suffix)
    content = damaged.read_bytes()
    damaged.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(ModelError, match=r"network\.pd"):
        read_model(program, None)


def test_parameters_of_another_model_are_named(program: Path, tmp_path: Path) -> None:
    other = saved(filled(Residual(width=16)), tmp_path / "other")
    shutil.copy(other.with_suffix(".pdiparams"), program.with_suffix(".pdiparams"))
    with pytest.raises(ModelError, match="Copy both files of one export"):
        read_model(program, None)


def test_a_program_of_the_new_representation_is_told_the_way(tmp_path: Path) -> None:
    (tmp_path / "network.json").write_text("{}")
    (tmp_path / "network.pdiparams").write_bytes(b"")
    for name in ("network.json", "network"):
        with pytest.raises(ModelError, match=r"\(PIR\).*FLAGS_enable_pir_api=0"):
            read_model(tmp_path / name, None)


def test_a_layer_without_data_is_told_what_it_needs() -> None:
    with pytest.raises(ModelError, match=r"traced with a batch.*data loader"):
        read_model(filled(Residual()), None)


class Branching(paddle.nn.Layer):
    """A layer whose result depends on values that Python looks at."""

    def forward(self, x: Any) -> Any:
        return x * int(x.numpy().sum())


class Unnamed(paddle.nn.Layer):
    def forward(self, *inputs: Any) -> Any:
        return inputs[0]


def test_a_layer_that_cannot_be_traced_is_told_why() -> None:
    with pytest.raises(ModelError, match="Branching cannot be"):
        read_model(Branching(), Example([images()]))
    with pytest.raises(ModelError, match="names none"):
        read_model(Unnamed(), Example([images()]))


def test_a_layer_says_which_inputs_it_misses() -> None:
    with pytest.raises(DataError, match=r"inputs of `forward` \(x\)"):
        read_model(filled(Residual()), Example([{"picture": images()}]))


def test_a_layer_is_named_by_its_own_parts_and_stays_as_it_was() -> None:
    layer = filled(Pooled())
    layer.train()
    layer.stem.eval()
    model = ADAPTER.load(layer, Example([images()]))
    assert list(ADAPTER.space(model).by_name) == ["stem", "left", "right"]
    assert [layer.training, layer.stem.training, layer.pool.training] == [True, False, True]
    assert model.inputs[0].shape == (None, 3, 16, 16)


def test_a_layer_is_the_same_model_however_many_were_made_before() -> None:
    first, second = (ADAPTER.load(filled(Residual()), Example([images()])) for _ in range(2))
    assert first.fingerprint == second.fingerprint
    assert set(first.constants) == set(second.constants)
    statistics = ADAPTER.calibrate(first, batches(), seed=0)
    config = QuantizationConfig(ops=ADAPTER.space(second).preferred.ops)
    np.testing.assert_array_equal(
        outputs(ADAPTER.apply(second, config, statistics)), outputs(ADAPTER.apply(first, config, statistics))
    )


@pytest.mark.parametrize("imported", ["", "import paddle; "])
def test_a_layer_is_read_whether_paddle_was_imported_before_or_not(imported: str) -> None:
    """Paddle starts with the new representation unless told otherwise before it is imported."""
    code = (
        f"import warnings; warnings.simplefilter('ignore'); {imported}import numpy as np\n"
        "from autotune.adapter import Example\n"
        "from autotune.adapters import get_adapter\n"
        "from tests.adapters.paddle.networks import Residual, filled, images\n"
        "print(get_adapter('paddle').load(filled(Residual()), Example([images()])).fingerprint)"
    )
    root = Path(__file__).parents[3]
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert ran.stdout.split()[-1] == ADAPTER.load(filled(Residual()), Example([images()])).fingerprint


def test_a_saved_candidate_keeps_names_metadata_and_bits(tmp_path: Path) -> None:
    made = ADAPTER.load(filled(Pooled()), Example([images()]))
    statistics = ADAPTER.calibrate(made, batches(), seed=0)
    tuned = ADAPTER.apply(made, ADAPTER.space(made).preferred, statistics)
    path, _ = ADAPTER.save(tuned, tmp_path / "tuned.pdmodel", {"measurement": "fast"})
    assert b"measurement" in path.read_bytes()
    again = ADAPTER.load(path)
    assert again.integers
    np.testing.assert_array_equal(outputs(again), outputs(tuned))


def test_paddle_itself_reads_what_is_saved(tmp_path: Path) -> None:
    """Two lines of Paddle Inference run it, as the documentation says."""
    tuned = candidate("Residual")
    path, beside = ADAPTER.save(tuned, tmp_path / "tuned.pdmodel", {})
    config = paddle.inference.Config(str(path), str(beside))
    config.disable_glog_info()
    config.enable_mkldnn()
    config.enable_mkldnn_int8(set())
    predictor = paddle.inference.create_predictor(config)
    handle = predictor.get_input_handle(predictor.get_input_names()[0])
    feeds = batches()[0]["x"]
    handle.reshape(feeds.shape)
    handle.copy_from_cpu(feeds)
    predictor.run()
    found = predictor.get_output_handle(predictor.get_output_names()[0]).copy_to_cpu()
    np.testing.assert_array_equal(found, outputs(tuned))


def test_nothing_half_written_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = candidate("Residual")
    path = tmp_path / "tuned.pdmodel"
    ADAPTER.save(made, path, {})
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def full(*_: object) -> bytes:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("autotune.adapters.paddle.model.write_parameters", full)
    with pytest.raises(WorkspaceError, match="No space left"):
        ADAPTER.save(made, path, {})
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_preparation_changes_no_output() -> None:
    for name in ("Residual", "Mobile", "Shortcut", "Pooled"):
        model, _ = calibrated(name)
        np.testing.assert_allclose(outputs(model), outputs(ADAPTER.as_given(model)), rtol=1e-4, atol=1e-4)


def test_arrays_are_read_to_their_last_byte(program: Path) -> None:
    content = program.with_suffix(".pdiparams").read_bytes()
    with pytest.raises(ValueError, match="more than"):
        read_parameters(content, [])


def test_what_stays_in_fp32_is_told() -> None:
    assert any("1 Linear layers stay in fp32" in note for note in calibrated("Residual")[0].notes)
    assert not calibrated("Mobile")[0].notes


def test_a_program_that_is_quantized_already_stays_so(tmp_path: Path) -> None:
    path, _ = ADAPTER.save(candidate("Mobile"), tmp_path / "tuned.pdmodel", {})
    again = ADAPTER.load(path)
    assert any("quantized already" in note for note in again.notes)
    assert len(ADAPTER.space(again).tunable) == 0
    np.testing.assert_array_equal(outputs(again), outputs(candidate("Mobile")))


def test_inputs_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(DataError, match="must be of numbers, but 'x' is of <U1"):
        ADAPTER.load(filled(Residual()), Example([np.array(["a", "b"])]))
