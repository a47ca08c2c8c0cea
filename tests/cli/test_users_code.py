"""Code of the user's under the command line: it is listed, and it cannot feign a success."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Command


def scored_by(experiment: Path, module: str, text: str) -> None:
    """Let an experiment be scored by ``evaluate`` of a module beside it."""
    experiment.with_name(f"{module}.py").write_text(text)
    content = experiment.read_text()
    start, end = content.index("  accuracy:"), content.index("  isolation:")
    experiment.write_text(f'{content[:start]}  accuracy: {{function: "{module}:evaluate"}}\n{content[end:]}')


@pytest.mark.parametrize(
    "text",
    [
        "import sys\nsys.exit(0)\n",
        "import sys\ndef evaluate(model): sys.exit(0)\n",
        "def evaluate(model): raise GeneratorExit\n",
        "class Mine(BaseException): pass\ndef evaluate(model): raise Mine\n",
        "def evaluate(model): return 10**400\n",
        "def evaluate(model): return float('nan')\n",
    ],
)
def test_code_that_ends_the_process_is_bad_input(command: Command, experiment: Path, text: str) -> None:
    scored_by(experiment, "ending", text)
    outcome = command("run", experiment)
    assert outcome.status == 2, outcome
    assert "Traceback" not in outcome.err
    assert f"Runs code: ending:evaluate in {experiment.with_name('ending.py')}" in outcome.out


def test_what_ends_the_process_on_a_candidate_fails_the_trial(command: Command, experiment: Path) -> None:
    text = "import sys\ncalls = 0\ndef evaluate(model):\n    global calls\n    calls += 1\n"
    scored_by(experiment, "ending_later", text + "    return 1.0 if calls == 1 else sys.exit(0)\n")
    outcome = command("run", experiment)
    assert outcome.status in (0, 3), outcome
    assert "eval_fn must return or raise an Exception" in outcome.out


def test_a_function_from_elsewhere_is_refused_before_it_is_imported(command: Command, experiment: Path) -> None:
    scored_by(experiment, "harmless", "")
    experiment.write_text(experiment.read_text().replace("harmless:evaluate", "subprocess:getoutput"))
    outcome = command("run", experiment)
    assert outcome.status == 2
    assert "--trust subprocess" in outcome.err
    assert "Runs code" not in outcome.out
