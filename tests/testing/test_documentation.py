"""docs/adapters.md as a reader follows it: its files pass the suite, and tune a model."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "adapters.md"


def files() -> dict[str, str]:
    """The page's blocks of Python, by the file that the first line of one names; others go on with the last file."""
    found: dict[str, str] = {}
    name = ""
    for block in re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        if named := re.match(r"# (\w+\.py)\n", block):
            name = named[1]
        found[name] = f"{found[name]}\n{block}" if name in found else block
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    for name, text in files().items():
        (folder / name).write_text(text, encoding="utf-8")
    information = folder / "toy-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n")
    (entry,) = re.findall(r'^\[project\.entry-points\."(.*)"\]\n(\w+) = "(.*)"$', PAGE.read_text(), re.MULTILINE)
    (information / "entry_points.txt").write_text("[{}]\n{} = {}\n".format(*entry))
    return folder


def run(folder: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(folder)])}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_its_adapter_passes_the_suite(folder: Path) -> None:
    out = run(folder, "-m", "pytest", "-q", "-W", "error", "test_toy.py")
    assert re.search(r"\d\d passed, 6 skipped", out), "the six are about protocols that the page leaves out"


def test_its_adapter_tunes_a_model_by_name(folder: Path) -> None:
    out = run(folder, "tune_toy.py")
    assert re.match(r"met: \d+ bytes in fp32, \d+ in int8", out)
    assert (folder / "tuned.npz").is_file()


def test_without_pytest_the_suites_say_what_to_install() -> None:
    code = "import sys; sys.modules['pytest'] = None; import autotune.testing"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "Install it with `pip install pytest`" in done.stderr
