"""Several runs of one experiment: in one workspace, or sharing a study."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import optuna
import psutil
import pytest

from autotune.trial import TrialState
from autotune.tuning.history import read_study
from autotune.tuning.storage import STUDY_NAME, open_storage
from tests.cli.conftest import Command
from tests.tuning.killed import held_by
from tests.tuning.postgresql import postgresql

HOLDING = """
import sys
from pathlib import Path
from autotune.tuning.hold import Hold
hold = Hold(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_a_second_run_in_a_workspace_says_who_holds_it(command: Command, experiment: Path, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    with held_by(HOLDING, tmp_path / "work") as process:
        outcome = command("run", experiment)
    assert outcome.status == 2
    assert f"is held by another run: process {process.pid} on {socket.gethostname()}, since " in outcome.err
    assert "autotune worker" in outcome.err
    assert command("run", experiment).status == 0
    assert command("run", experiment).status == 0


SLEEPING = """
import time
from pathlib import Path

def evaluate(model):
    place = Path(__file__).parent / "evaluated"
    place.mkdir(exist_ok=True)
    (place / f"{time.time_ns()}").touch()
    time.sleep(SECONDS)
    return 1.0
"""


def sleeping(experiment: Path, seconds: float, **changes: object) -> None:
    """Let the experiment's evaluation sleep, and note each."""
    text = experiment.read_text()
    start, end = text.index("  accuracy:"), text.index("  isolation:")
    experiment.with_name("sleeping.py").write_text(SLEEPING.replace("SECONDS", str(seconds)))
    text = f'{text[:start]}  accuracy: {{function: "sleeping:evaluate"}}\n{text[end:]}'
    for before, after in {"name: basic": "name: random", **changes}.items():
        assert before in text
        text = text.replace(before, str(after))
    experiment.write_text(text)


MAIN = "from autotune.cli import main; main()"
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(numpy_distribution: Path, tmp_path: Path) -> Iterator[Start]:
    """Starts ``autotune`` in a process of its own, which knows the toy framework; ends what is left."""
    started: list[subprocess.Popen[str]] = []

    def begin(command: str, experiment: Path, *arguments: object) -> subprocess.Popen[str]:
        line = [sys.executable, "-c", MAIN, command, str(experiment), *map(str, arguments)]
        places = [str(Path(__file__).parents[2]), str(numpy_distribution)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(places), "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            line,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
            cwd=tmp_path,
            preexec_fn=_heed_signals,  # noqa: PLW1509  no thread of the tests holds a lock then
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def _heed_signals() -> None:
    """Heed the signals that `nohup` or a shell's `&` have let the tests ignore, which children would ignore too."""
    for each in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_DFL)


def _await(condition: Callable[[], bool], *processes: subprocess.Popen[str]) -> None:
    while not condition():
        assert all(process.poll() is None for process in processes), [p.communicate() for p in processes if p.poll()]
        time.sleep(0.02)


def _evaluations(experiment: Path) -> int:
    return len(list((experiment.parent / "evaluated").glob("*")))


@pytest.mark.parametrize("storage", ["workspace", "journal", "proxy", "postgresql"])
def test_a_worker_that_is_killed_does_no_harm(start: Start, experiment: Path, tmp_path: Path, storage: str) -> None:
    """A run and two workers, of which one is killed inside of an evaluation."""
    sleeping(experiment, 0.3, **{"max_trials: 2": "max_trials: 12"})
    with storage_url(storage, tmp_path) as url:
        given = () if url is None else ("--set", f"tuning.storage={url}")
        run = start("run", experiment, *given)
        workers = [start("worker", experiment, *given) for _ in range(2)]
        _await(lambda: _evaluations(experiment) > 6, run, *workers)
        _await(lambda: _running(url or tmp_path / "work", workers[0].pid) > 0, run)
        workers[0].kill()
        out, _ = run.communicate()
        told, _ = workers[1].communicate()
        assert run.returncode == 0, out
        assert workers[1].returncode == 0, told
        trials, kept = read_study(url or tmp_path / "work")
    assert "`autotune run` gives the answer" in told
    assert len(trials) == 13
    assert len({trial.config for trial in trials}) == 13
    assert {trial.state for trial in trials} == {TrialState.COMPLETED}
    # fp32 is looked at by each process alone; the rest once, but for what the killed one was at.
    assert _evaluations(experiment) <= 13 + 1
    assert kept["summary"]["verdict"] == "met"


def _running(storage: Path | str, pid: int) -> int:
    """How many trials a process is running."""
    study = optuna.load_study(study_name=STUDY_NAME, storage=open_storage(storage))
    states = (optuna.trial.TrialState.RUNNING,)
    owners = [trial.user_attrs.get("autotune:owner", {}) for trial in study.get_trials(deepcopy=False, states=states)]
    return sum(owner.get("pid") == pid for owner in owners)


@contextlib.contextmanager
def storage_url(kind: str, folder: Path) -> Iterator[str | None]:
    """The URL of a storage of a kind; None for the workspace's own."""
    journal = folder / "journal.log"
    if kind == "postgresql":
        with postgresql(folder) as server:
            yield server.url
        return
    if kind != "proxy":
        yield {"workspace": None, "journal": f"journal://{journal}"}[kind]
        return
    pytest.importorskip("grpc")
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    script = (
        "import sys\n"
        "from optuna.storages import JournalStorage, run_grpc_proxy_server\n"
        "from optuna.storages.journal import JournalFileBackend\n"
        "storage = JournalStorage(JournalFileBackend(sys.argv[1]))\n"
        "run_grpc_proxy_server(storage, host='localhost', port=int(sys.argv[2]))"
    )
    with subprocess.Popen([sys.executable, "-W", "ignore", "-c", script, str(journal), str(port)]) as server:
        try:
            yield f"grpc://localhost:{port}"
        finally:
            server.kill()


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_a_run_that_is_asked_to_end_says_that_it_is_unfinished(
    start: Start, experiment: Path, tmp_path: Path, name: str
) -> None:
    sleeping(experiment, 0.05, **{"max_trials: 2": "max_trials: 1000", "isolation: none": "isolation: process"})
    run = start("run", experiment)
    _await(lambda: _evaluations(experiment) > 3, run)
    run.send_signal(getattr(signal, name))
    out, _ = run.communicate()
    assert run.returncode == 130, out
    assert "Unfinished: the run was ended before it was done" in out
    assert "Unfinished" in (tmp_path / "work" / "report.html").read_text()
    assert (tmp_path / "work" / "best.npz").is_file()
    assert not (tmp_path / "work" / "owner.json").exists()


def test_a_killed_run_leaves_no_process_and_the_next_one_finds_no_folder(
    start: Start, experiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed while its worker is inside of an evaluation that has no end."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    sleeping(experiment, 0.0, **{"max_trials: 2": "max_trials: 3", "isolation: none": "isolation: process"})
    module = experiment.with_name("sleeping.py")
    sound = module.read_text()
    module.write_text(sound.replace("time.sleep(0.0)", "while place.joinpath('../hang').exists(): pass"))
    run = start("run", experiment)
    _await(lambda: _evaluations(experiment) > 0, run)
    (tmp_path / "hang").touch()
    before = _evaluations(experiment)
    with contextlib.suppress(psutil.NoSuchProcess):
        _await(lambda: _evaluations(experiment) > before or run.poll() is not None)
    family = psutil.Process(run.pid).children(recursive=True)
    assert family
    run.kill()
    _, alive = psutil.wait_procs(family, timeout=60)
    assert not alive
    (tmp_path / "hang").unlink()
    again = start("run", experiment)
    out, _ = again.communicate()
    assert again.returncode == 0, out
    assert not list(tmp_path.glob("autotune-*"))
