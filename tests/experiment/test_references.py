"""Which functions an experiment file may name: its own folder's, and those of packages that the user trusts."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from autotune.errors import ExperimentError, UsersCodeError
from autotune.experiment.references import resolve, source_of


@pytest.fixture(autouse=True)
def _imports(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Forget the path and the modules of a test."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("refs_"):
            del sys.modules[name]


def write(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    "reference",
    [
        "subprocess:getoutput",
        "os:system",
        "os.path:exists",
        "builtins:eval",
        "importlib:import_module",
        "runpy:run_path",
        "pytest:main",
        "numpy:load",
        "autotune.cli:main",
        "sys:exit",
        "__main__:anything",
    ],
)
def test_installed_functions_are_refused_with_the_way_to_allow_them(tmp_path: Path, reference: str) -> None:
    package = reference.partition(":")[0].partition(".")[0]
    with pytest.raises(ExperimentError, match=f"--trust {package}|no module '{package}'"):
        resolve(reference, tmp_path)


def test_a_trusted_package_may_be_named(tmp_path: Path) -> None:
    assert resolve("os.path:basename", tmp_path, ["os", "posixpath"])("a/b") == "b"
    with pytest.raises(ExperimentError, match="--trust subprocess"):
        resolve("subprocess:getoutput", tmp_path, ["os"])


def test_modules_packages_and_folders_beside_the_experiment(tmp_path: Path) -> None:
    write(
        tmp_path, "refs_one.py", "def f():\n    return 1\nclass C:\n    @staticmethod\n    def m():\n        return 2\n"
    )
    write(tmp_path, "refs_two/__init__.py", "")
    write(tmp_path, "refs_two/inner.py", "from refs_one import f\n")
    write(tmp_path, "refs_three/inner.py", "import functools, math\ng = functools.partial(math.sqrt, 4)\n")
    assert resolve("refs_one:f", tmp_path)() == 1
    assert resolve("refs_one:C.m", tmp_path)() == 2
    assert resolve("refs_two.inner:f", tmp_path)() == 1, "one module beside it may take from another"
    assert resolve("refs_three.inner:g", tmp_path)() == 2, "an object that the user's module made is the user's"
    assert source_of("refs_two.inner:f", tmp_path) == str(tmp_path / "refs_two" / "__init__.py")


@pytest.mark.parametrize("name", ["subprocess.getoutput", "getoutput", "os.system", "Popen", "path.os.system"])
def test_what_a_module_beside_it_only_imports_is_refused(tmp_path: Path, name: str) -> None:
    write(tmp_path, "refs_reexport.py", "import os, subprocess\nfrom os import path\nfrom subprocess import *\n")
    with pytest.raises(ExperimentError, match="must be defined in the folder"):
        resolve(f"refs_reexport:{name}", tmp_path)


def test_a_file_beside_the_experiment_takes_no_package_s_place(tmp_path: Path) -> None:
    write(tmp_path, "colorsys.py", f"import pathlib\npathlib.Path({str(tmp_path / 'ran')!r}).touch()\ndef f(): pass\n")
    with pytest.raises(ExperimentError, match=r"colorsys\.py is called like the module in .* Rename the file"):
        resolve("colorsys:f", tmp_path)
    import colorsys  # noqa: PLC0415

    assert not (tmp_path / "ran").exists()
    assert Path(str(colorsys.__file__)).parent != tmp_path


def test_nothing_runs_before_it_is_allowed(tmp_path: Path) -> None:
    """The working directory is searched too, since functions import from it, but it is not the experiment's folder."""
    folder = tmp_path / "experiments"
    folder.mkdir()
    write(
        tmp_path,
        "refs_cwd.py",
        f"import pathlib\npathlib.Path({str(tmp_path / 'ran')!r}).touch()\ndef f():\n    return 3\n",
    )
    with pytest.raises(ExperimentError, match="--trust refs_cwd"):
        resolve("refs_cwd:f", folder)
    assert not (tmp_path / "ran").exists()
    assert resolve("refs_cwd:f", folder, ["refs_cwd"])() == 3
    assert (tmp_path / "ran").exists()


def test_an_environment_inside_of_the_folder_is_not_the_experiment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, ".venv/lib/site-packages/refs_installed.py", "def f(): pass\n")
    monkeypatch.syspath_prepend(str(tmp_path / ".venv/lib/site-packages"))
    with pytest.raises(ExperimentError, match="--trust refs_installed"):
        resolve("refs_installed:f", tmp_path)


@pytest.mark.parametrize(
    "statement", ["sys.exit(0)", "raise SystemExit", "raise GeneratorExit", "raise BaseException(5)"]
)
def test_a_module_cannot_end_the_process(tmp_path: Path, statement: str) -> None:
    write(tmp_path, "refs_exit.py", f"import sys\n{statement}\n")
    with pytest.raises(UsersCodeError, match="must return or raise an Exception, but it ended with"):
        resolve("refs_exit:f", tmp_path)
