from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import onnx
import pytest

from autotune.adapters.onnx import model
from autotune.adapters.onnxruntime import OnnxRuntimeAdapter
from autotune.errors import WorkspaceError
from tests.adapters.onnx.graphs import small_cnn

ADAPTER = OnnxRuntimeAdapter()


def test_metadata_goes_into_the_file_beside_what_was_there(tmp_path: Path) -> None:
    proto = small_cnn()
    onnx.helper.set_model_props(proto, {"author": "someone", "config": "old"})
    loaded = ADAPTER.load(proto)
    ADAPTER.save(loaded, tmp_path / "model.onnx", {"config": "new", "host": "this"})
    saved = {entry.key: entry.value for entry in onnx.load(tmp_path / "model.onnx").metadata_props}
    assert saved == {"author": "someone", "config": "new", "host": "this"}


def test_full_disk_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.onnx"
    loaded = ADAPTER.load(small_cnn())
    ADAPTER.save(loaded, path, {})
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WorkspaceError, match=r"model\.onnx: No space left on device"):
        ADAPTER.save(loaded, path, {"new": "one"})
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]
    assert path.read_bytes() == before


def test_old_model_finds_its_weights_until_the_new_one_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "IN_MEMORY_LIMIT", 4096)
    path = tmp_path / "model.onnx"
    first = ADAPTER.load(small_cnn())
    ADAPTER.save(first, path, {})
    changed = small_cnn()
    changed.graph.initializer[0].raw_data = bytes(len(changed.graph.initializer[0].raw_data))
    second = ADAPTER.load(changed)
    replace = Path.replace

    def interrupted(self: Path, target: Path) -> Any:
        if target == path:
            raise OSError(errno.EIO, "interrupted")
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", interrupted)
        with pytest.raises(WorkspaceError, match="interrupted"):
            ADAPTER.save(second, path, {})
    assert ADAPTER.load(path).fingerprint == first.fingerprint
    ADAPTER.save(second, path, {})
    assert ADAPTER.load(path).fingerprint == second.fingerprint
