from __future__ import annotations

import dataclasses
import threading
from pathlib import Path

import optuna
import pytest

from autotune.config import OpConfig, Precision, QuantizationConfig
from autotune.errors import DeadlineReached
from autotune.owner import Owner
from autotune.strategy import Objective
from autotune.trial import Measurement, Trial, TrialState
from autotune.tuning import claims as module
from autotune.tuning.claims import Claims, TrialGivenUp
from autotune.tuning.history import History, OpenTrial
from tests.tuning.killed import held_by, kill

IDENTITY = {"model": "abc"}
CONFIG = QuantizationConfig(ops={"a": OpConfig(precision=Precision.INT8)})
OTHER = QuantizationConfig(ops={"b": OpConfig(precision=Precision.INT8)})

RUNNING = """
import sys
from pathlib import Path
import optuna
from autotune.config import OpConfig, Precision, QuantizationConfig
from autotune.tuning.history import History
history = History(Path(sys.argv[1]), {"model": "abc"})
opened = history.open(optuna.samplers.RandomSampler(seed=1))
if sys.argv[2] == "planned":
    history.start(opened, QuantizationConfig(ops={"a": OpConfig(precision=Precision.INT8)}), "")
print(opened.number, flush=True)
sys.stdin.read()
"""


def _open(history: History) -> OpenTrial:
    return history.open(optuna.samplers.RandomSampler(seed=1))


def _finish(history: History, opened: OpenTrial) -> Trial:
    measured = Measurement(accuracy=0.5, loss=0.0, speedup=2.0)
    trial = Trial(number=opened.number, config=CONFIG, state=TrialState.COMPLETED, measurement=measured)
    history.finish(opened, trial, Objective.LATENCY, 0.01)
    return trial


def test_a_trial_stays_with_the_process_that_runs_it_and_is_free_once_that_is_killed(tmp_path: Path) -> None:
    with held_by(RUNNING, tmp_path, "planned") as process:
        history = History(tmp_path, IDENTITY)
        (running,) = history.trials
        assert (running.config, running.state) == (CONFIG, TrialState.RUNNING)
        assert history.claims.release_dead() == 1
        kill(process)
        assert history.claims.release_dead() == 0
        assert list(history.trials) == []
        assert History(tmp_path, IDENTITY).begun == 0


def test_a_proposal_waits_for_those_that_are_being_made(tmp_path: Path) -> None:
    with held_by(RUNNING, tmp_path, "proposing") as process:
        history = History(tmp_path, IDENTITY)
        opened = _open(history)
        with pytest.raises(DeadlineReached):
            history.claims.await_turn(opened.number, deadline=0.0)
        kill(process)
        history.claims.await_turn(opened.number, deadline=0.0)


def test_proposals_of_many_runs_are_made_one_after_another(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []

    def run() -> None:
        history = History(tmp_path, IDENTITY)
        for _ in range(3):
            opened = _open(history)
            history.claims.await_turn(opened.number)
            seen.append((opened.number, len(history.trials)))
            history.start(opened, CONFIG, "")
            _finish(history, opened)

    runs = [threading.Thread(target=run) for _ in range(4)]
    for each in runs:
        each.start()
    for each in runs:
        each.join()
    # Whatever the order in which they ended, each knew of all that have a smaller number and of no other.
    assert sorted(seen) == [(number, number) for number in range(12)]


def test_another_ones_outcome_is_waited_for(tmp_path: Path) -> None:
    other, history = History(tmp_path, IDENTITY), History(tmp_path, IDENTITY)
    opened = _open(other)
    other.start(opened, CONFIG, "")
    waiting = threading.Thread(target=history.claims.await_change)
    waiting.start()
    waiting.join(timeout=0.2)
    assert waiting.is_alive()
    _finish(other, opened)
    waiting.join()
    history.claims.await_change()  # nobody runs anything


def _elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let owners that are made in the block be of another machine."""
    new = Owner.new
    monkeypatch.setattr(Owner, "new", lambda: dataclasses.replace(new(), machine="another", host="another"))


def test_a_trial_on_another_machine_is_free_once_its_heart_stands_still(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("autotune.tuning.claims.time.monotonic", lambda: now[0])
    with monkeypatch.context() as patch:
        _elsewhere(patch)
        other = History(tmp_path, IDENTITY)
    opened = _open(other)
    other.start(opened, CONFIG, "")
    history = History(tmp_path, IDENTITY)
    for beat in range(3):
        other.claims._beat(beat + 1)
        assert history.claims.release_dead() == 1
        now[0] += module.GRACE_S - 1
        assert history.claims.release_dead() == 1
    now[0] += 2
    assert history.claims.release_dead() == 0
    assert list(history.trials) == []
    # It was not dead but cut off, and comes back to find its trial gone.
    with pytest.raises(TrialGivenUp):
        _finish(other, opened)
    assert list(history.trials) == []


def test_hearts_beat_where_other_machines_may_look(tmp_path: Path) -> None:
    study = optuna.create_study(storage=f"sqlite:///{tmp_path / 'study.db'}")
    claims = Claims(study, shared=True, beat_s=0.01)
    beats = [key for key in study.user_attrs if key.startswith("autotune:beat:")]
    assert len(beats) == 1
    while study.user_attrs[beats[0]] < 3:
        pass
    claims.close()
    assert not [key for key in History(None, IDENTITY).study.user_attrs if key.startswith("autotune:beat:")]


def test_a_trial_of_a_version_that_named_no_owners_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    history = History(tmp_path, IDENTITY)
    with monkeypatch.context() as patch:
        patch.setattr(Claims, "sign", lambda _claims, _handle: None)
        opened = _open(history)
        assert history.claims.release_dead() == 1  # it may be about to be named
        history.start(opened, OTHER, "")
    assert history.claims.release_dead() == 0


@pytest.mark.parametrize(
    "altered", [[], 3, None, "text", {}, {"pid": 1}, {**Owner.new().to_json(), "pid": "1"}], ids=str
)
def test_a_trial_whose_owner_was_altered_is_free(tmp_path: Path, altered: object) -> None:
    history = History(tmp_path, IDENTITY)
    opened = _open(history)
    history.start(opened, CONFIG, "")
    opened.handle.set_user_attr("autotune:owner", altered)
    assert History(tmp_path, IDENTITY).claims.release_dead() == 0
    assert not history.trials


@pytest.mark.parametrize("altered", ["x", None, [], {}, 1e308])
def test_a_heartbeat_that_was_altered_is_one_until_it_stands_still(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, altered: object
) -> None:
    clock = [0.0]
    monkeypatch.setattr("autotune.tuning.claims.time.monotonic", lambda: clock[0])
    claims = History(tmp_path, IDENTITY).claims
    far = dataclasses.replace(claims.owner, machine="another one")
    claims._study.set_user_attr(f"autotune:beat:{far.token}", altered)
    assert claims.lives(far)
    clock[0] = module.GRACE_S + 1
    assert not claims.lives(far)
