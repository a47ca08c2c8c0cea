"""Candidates compiled by Inductor: integer kernels for the ops asked for, one file, the same in every process."""

from __future__ import annotations

import functools
import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from autotune.adapters.pytorch import package
from autotune.adapters.pytorch.model import PytorchModel
from autotune.config import Precision
from autotune.errors import ApplyError, MissingDependencyError, ModelError
from tests.adapters.pytorch.calibrated import ADAPTER, ONE, cnn, encoder
from tests.adapters.pytorch.networks import SmallCnn, exported, seeded

EVERY_KIND = {
    "stem": Precision.INT8,
    "block.conv1": Precision.INT8,
    "block.conv2": Precision.INT8,
    "block.add": Precision.INT8,
    "depthwise": Precision.INT8,
    "head": Precision.INT8_DYNAMIC,
}


@functools.cache
def compiled() -> PytorchModel:
    """A candidate with static and dynamic ops, and one in fp32 between them."""
    candidate = cnn().applied(EVERY_KIND)
    package.package_file(candidate)
    return candidate


def test_the_ops_asked_for_became_integer_kernels() -> None:
    assert package.stayed_fp32(compiled()) == []
    assert compiled().notes == ()


def test_static_and_dynamic_products_became_integer_kernels() -> None:
    candidate = encoder().applied(
        {"query": Precision.INT8, "key": Precision.INT8_DYNAMIC, "out": Precision.INT8_DYNAMIC}
    )
    package.package_file(candidate)
    assert package.stayed_fp32(candidate) == []


def test_what_stays_in_fp32_is_a_note_once_it_is_compiled() -> None:
    # No int8 convolution's kernel can take this sum over.
    candidate = cnn().applied({"block.add": Precision.INT8, "wide": Precision.INT8})
    package.package_file(candidate)
    assert package.stayed_fp32(candidate) == ["block.add"]
    assert candidate.notes == ("'block.add': Inductor computes them in fp32 all the same",)


def test_a_saved_package_runs_alike_in_a_fresh_process_and_leaves_nothing_behind(tmp_path: Path) -> None:
    (path,) = ADAPTER.save(compiled(), tmp_path / "tuned.pt2", {"autotune:config": "{}"})
    np.save(tmp_path / "x.npy", cnn().batches[0]["x"])
    (tmp_path / "temporary").mkdir()
    script = (
        "import os, sys, numpy as np\n"
        "from autotune.adapter import Execution\n"
        "from autotune.adapters.pytorch.adapter import PytorchAdapter as A\n"
        "model = A().load(sys.argv[1])\n"
        "x = np.load('x.npy')\n"
        "runner = A().runner(model, Execution(threads=1))\n"
        "np.save('y.npy', runner({'x': x})[0])\n"
        "print(model.fingerprint, flush=True)\n"
        "os._exit(0)\n"  # no session is closed, as where the process is killed
    )
    environment = {"PATH": "/usr/bin:/bin", "TMPDIR": str(tmp_path / "temporary"), "USER": "tests"}
    said = subprocess.run(
        [sys.executable, "-c", script, str(path)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    expected = ADAPTER.runner(compiled(), ONE)(cnn().batches[0])[0]
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), expected)
    assert said.stdout.strip() == compiled().fingerprint
    assert sorted(file.name for file in tmp_path.iterdir()) == ["temporary", "tuned.pt2", "x.npy", "y.npy"]
    kept = [file.name for file in (tmp_path / "temporary").iterdir()]
    assert all(name.startswith("torchinductor") for name in kept), "PyTorch's cache alone, which is named by a variable"


def test_metadata_lies_in_the_file_and_the_rest_of_it_is_the_same(tmp_path: Path) -> None:
    (path,) = ADAPTER.save(compiled(), tmp_path / "tuned.pt2", {"autotune:version": "1"})
    with zipfile.ZipFile(path) as file, zipfile.ZipFile(package.package_file(compiled())) as cached:
        (name,) = (name for name in file.namelist() if name.endswith("autotune.json"))
        said = json.loads(file.read(name))
        assert said["metadata"] == {"autotune:version": "1"}
        assert said["inputs"] == [["x", "float32", [cnn().model.inputs[0].shape[0], 3, 16, 16]]]
        assert file.namelist() == cached.namelist()
        assert all(file.read(each) == cached.read(each) for each in file.namelist() if each != name)


def test_a_package_cannot_be_quantized_or_calibrated_and_says_so(tmp_path: Path) -> None:
    (path,) = ADAPTER.save(compiled(), tmp_path / "tuned.pt2", {})
    model = ADAPTER.load(path)
    assert not ADAPTER.space(model).ops
    assert ADAPTER.is_compiled(model)
    with pytest.raises(ModelError, match="cannot be calibrated"):
        ADAPTER.calibrate(model, cnn().batches, seed=0)
    with pytest.raises(ApplyError, match="compiled already"):
        ADAPTER.apply(model, cnn().config(EVERY_KIND), cnn().statistics)


@pytest.mark.parametrize("damage", ["empty", "cut", "foreign", "folder", "missing"])
def test_a_file_that_is_no_package_is_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "model.pt2"
    if damage == "folder":
        path.mkdir()
    elif damage == "foreign":  # what `torch.export.save` writes has the same suffix
        torch.export.save(exported(seeded(SmallCnn(16)), 3, 16, 16), path)
    elif damage != "missing":
        content = package.package_file(compiled()).read_bytes()
        path.write_bytes(b"" if damage == "empty" else content[: len(content) // 2])
    with pytest.raises(ModelError, match=r"model\.pt2"):
        ADAPTER.load(path)


def test_without_a_compiler_the_package_to_install_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    with pytest.raises(MissingDependencyError, match=r"apt-get install g\+\+"):
        ADAPTER.load(exported(seeded(SmallCnn(16)), 3, 16, 16))


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("no such kernel\nand much more", "RuntimeError: no such kernel"),
        (
            "C++ compile error\n\nCommand:\ng++ x.cpp\n\nOutput:\ncc1plus: fatal error: No space left on device\n",
            "RuntimeError: C++ compile error: cc1plus: fatal error: No space left on device",
        ),
        ("", "RuntimeError: RuntimeError"),
    ],
)
def test_what_inductor_refuses_fails_the_trial(
    said: str, told: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(*_arguments: object, **_options: object) -> None:
        raise RuntimeError(said)

    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", refuse)
    monkeypatch.setattr(package, "cache_dir", lambda: str(tmp_path))
    with pytest.raises(ApplyError, match=rf"Inductor refuses the model: {re.escape(told)}$"):
        ADAPTER.runner(cnn().model, ONE)
    assert not list((tmp_path / "autotune").iterdir())


def test_old_packages_leave_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(package._KEPT + 3):
        (tmp_path / f"{number}.pt2").touch()
    package._prune(tmp_path)
    assert len(list(tmp_path.iterdir())) == package._KEPT + 3, "none is a day old"
    monkeypatch.setattr(package, "_KEPT_S", -1.0)
    package._prune(tmp_path)
    assert len(list(tmp_path.iterdir())) == package._KEPT
