"""Importing Paddle: versions that do not do, and what it prints."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from autotune.adapters.paddle.framework import onednn, quiet

ROOT = Path(__file__).parents[3]


def test_a_paddle_that_is_too_old_is_told_the_line_that_installs_another(tmp_path: Path) -> None:
    (tmp_path / "paddle").mkdir()
    (tmp_path / "paddle" / "__init__.py").write_text("__version__ = '2.4.2'")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from autotune.adapters import get_adapter\n"
        "from autotune.errors import MissingDependencyError\n"
        "try: get_adapter('paddle')\n"
        "except MissingDependencyError as error: print(error)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert "must be 3.0 or newer, but 2.4.2 is installed" in ran.stdout
    assert "pip install 'autotune-quantization[paddle]'" in ran.stdout


def test_the_import_leaves_logging_to_the_user() -> None:
    code = (
        "import logging\n"
        "from autotune.adapters import get_adapter\n"
        "get_adapter('paddle')\n"
        "logging.getLogger('autotune').info('an event')\n"
        "print(logging.getLogger().handlers, logging.getLogger().level == logging.WARNING)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert ran.stdout == "[] True\n"
    assert "an event" not in ran.stderr


def test_the_import_leaves_the_end_of_a_run_to_its_own_handler() -> None:
    code = (
        "import os, signal\n"
        "signal.signal(signal.SIGTERM, lambda *_: print('handed over'))\n"
        "from autotune.adapters import get_adapter\n"
        "get_adapter('paddle')\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n"
        "print('goes on')"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert (ran.returncode, ran.stdout.split()) == (0, ["handed", "over", "goes", "on"]), ran.stderr


def test_lines_of_native_code_are_kept_and_not_shown(capfd: pytest.CaptureFixture[str]) -> None:
    with quiet() as captured:
        subprocess.run(["echo", "from a child"], check=True)
    assert captured.lines == ["from a child"]
    assert capfd.readouterr().out == ""


def test_output_goes_on_where_what_is_kept_quiet_fails(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="inside"), quiet():
        raise ValueError("inside")
    subprocess.run(["echo", "shown"], check=True)
    assert capfd.readouterr().out == "shown\n"


def test_the_log_of_onednn_is_off_afterwards() -> None:
    assert onednn().dnnl_set_verbose(0) == 0
