from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import openvino as ov
import pytest

from autotune.errors import WorkspaceError
from tests.adapters.openvino.calibrated import ADAPTER, ONE_THREAD, wide


def test_saved_model_computes_the_same_bits_and_keeps_its_precisions(tmp_path: Path) -> None:
    candidate = wide().int8("c1", "logits")
    ADAPTER.save(candidate, tmp_path / "model.xml", {})
    again = ADAPTER.load(tmp_path / "model.xml")
    feeds = wide().batches[0]
    np.testing.assert_array_equal(
        ADAPTER.runner(candidate, ONE_THREAD)(feeds)[0], ADAPTER.runner(again, ONE_THREAD)(feeds)[0]
    )
    assert (tmp_path / "model.bin").read_bytes() == candidate.files[1]
    stored = {
        op.get_element_type().to_string() for op in again.graph.get_ordered_ops() if op.get_type_name() == "Constant"
    }
    assert {"i8", "f32"} <= stored
    assert "f16" not in stored


def test_openvino_itself_reads_the_files(tmp_path: Path) -> None:
    candidate = wide().int8()
    ADAPTER.save(candidate, tmp_path / "model.xml", {})
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = ov.Core().compile_model(tmp_path / "model.xml", "CPU", options)
    feeds = wide().batches[0]
    ours = ADAPTER.runner(candidate, ONE_THREAD)(feeds)[0]
    np.testing.assert_allclose(compiled(feeds)[0], ours, rtol=1e-4, atol=1e-4)


def test_metadata_can_be_read_from_the_model(tmp_path: Path) -> None:
    text = '{"a": [1, "<b>"]}'
    ADAPTER.save(wide().model, tmp_path / "model.xml", {"autotune:config": text, "author": "someone"})
    graph = ov.Core().read_model(tmp_path / "model.xml")
    assert graph.get_rt_info(["autotune", "config"]).astype(str) == text
    assert graph.get_rt_info("author").astype(str) == "someone"
    assert not wide().model.graph.has_rt_info("author")


@pytest.mark.parametrize("name", ["model.bin", "v1.2", "model"])
def test_a_name_that_may_share_its_weights_with_another_model_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "model.bin").write_text("weights of another model")
    with pytest.raises(WorkspaceError, match=rf"must be saved under a name that ends in \.xml.*{name}\.xml"):
        ADAPTER.save(wide().int8(), tmp_path / name, {})
    assert [file.read_text() for file in tmp_path.iterdir()] == ["weights of another model"]


def test_full_disk_leaves_both_old_files_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.xml"
    ADAPTER.save(wide().model, path, {})
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WorkspaceError, match=r"model\.xml: No space left on device"):
        ADAPTER.save(wide().int8(), path, {})
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_reader_never_sees_the_graph_of_one_model_with_the_weights_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.xml"
    ADAPTER.save(wide().model, path, {})
    replace = Path.replace

    def interrupted(self: Path, target: Path) -> Path:
        if target == path:
            raise OSError(errno.EIO, "interrupted")
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", interrupted)
        with pytest.raises(WorkspaceError, match="interrupted"):
            ADAPTER.save(wide().int8(), path, {})
    assert not path.exists()
