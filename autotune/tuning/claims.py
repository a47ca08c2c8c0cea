"""Owners of the running trials of a shared study, and the trials whose owner is gone.

Each trial names its owner. On one machine the process is looked for, so that what a killed run left behind is found
at once. From another one, an owner whose heartbeat has stood still for :data:`GRACE_S` is taken to be gone. Optuna's
own heartbeats are for ``study.optimize`` on relational databases alone; these work on every storage.
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.study import Study
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState

from autotune.errors import DeadlineReached
from autotune.owner import Owner
from autotune.tuning.bulk import CONFIG
from autotune.tuning.storage import running_trials, storage_errors

BEAT_S = 10.0
"""Seconds between two heartbeats."""
GRACE_S = 60.0
"""Seconds without a heartbeat after which an owner on another machine is taken to be gone. A storage that cannot be
reached is waited for, and that time has room in it."""
_UNNAMED_S = 10.0
"""Seconds that a trial may be there before its owner has written its name to it."""
_POLL_S = (0.02, 0.5)

_OWNER, _BEAT = "autotune:owner", "autotune:beat:"


class TrialGivenUp(Exception):
    """Another run took this one for dead and ended its trial, whose config it may have tried since."""


class Claims:
    """The owners of a study's running trials.

    Args:
        study: The study that is shared.
        shared: Whether other machines may take part, so that heartbeats are needed.
        beat_s: Seconds between two heartbeats.
        grace_s: Seconds without one after which an owner on another machine is taken to be gone.

    Attributes:
        owner: The owner of what this process runs.
    """

    def __init__(self, study: Study, *, shared: bool, beat_s: float = BEAT_S, grace_s: float = GRACE_S) -> None:
        self._study = study
        self._grace_s = grace_s
        self.owner = Owner.new()
        self._seen: dict[str, tuple[Any, float]] = {}
        self._closed = threading.Event()
        if shared:
            self._beat(0)
            threading.Thread(target=self._keep_beating, args=(beat_s,), daemon=True).start()

    def close(self) -> None:
        """Called when the run has ended: what it still holds is nobody's."""
        self._closed.set()
        self.owner.end()

    def sign(self, handle: optuna.Trial) -> None:
        """Write the owner's name to a new trial."""
        handle.set_user_attr(_OWNER, self.owner.to_json())

    def release_dead(self) -> int:
        """End the running trials that nobody runs any more, so that their configs count as untried.

        Returns:
            The number of trials that other runs are running.
        """
        return len(self._running())

    def await_turn(self, number: int, deadline: float | None = None) -> None:
        """Wait until every earlier trial has its config, so that a proposal knows of all of them.

        Proposals are thus made one after another, in the order of their numbers: none is made twice, and what a
        strategy measures of ops first is measured once.

        Raises:
            DeadlineReached: The deadline passed.
        """
        wait_s = _POLL_S[0]
        while True:
            running = running_trials(self._study)
            planned = (trial for trial in running if trial.number < number and CONFIG not in trial.user_attrs)
            if not any(self._runs_elsewhere(trial) for trial in planned):
                return
            self.wait(wait_s, deadline)
            wait_s = min(2 * wait_s, _POLL_S[1])

    def await_change(self, deadline: float | None = None) -> None:
        """Wait until a trial that another run is running ends, one way or the other.

        Raises:
            DeadlineReached: The deadline passed.
        """
        before = self._running()
        while before and before <= self._running():
            self.wait(deadline=deadline)

    def _running(self) -> set[int]:
        running = running_trials(self._study)
        return {trial.number for trial in running if self._runs_elsewhere(trial)}

    def wait(self, seconds: float = _POLL_S[1], deadline: float | None = None) -> None:
        """Wait a moment for other runs.

        Raises:
            DeadlineReached: The deadline passed.
        """
        if deadline is not None and time.monotonic() > deadline:
            raise DeadlineReached("The time given to the run ended while it waited for trials of other runs")
        time.sleep(seconds)

    def _runs_elsewhere(self, trial: FrozenTrial) -> bool:
        """Whether another run that lives is running a trial; a trial that nobody runs is ended."""
        owner = _named(trial)
        if owner is None:
            begun_s = 0.0 if trial.datetime_start is None else time.time() - trial.datetime_start.timestamp()
            # Earlier versions name no owner, and give no trial a config before it has a name.
            lives = CONFIG not in trial.user_attrs and begun_s < _UNNAMED_S
        else:
            if owner.token == self.owner.token:
                return False
            lives = self.lives(owner)
        if not lives:
            with contextlib.suppress(UpdateFinishedTrialError):
                self._study.tell(trial.number, state=OptunaState.FAIL, skip_if_finished=True)
        return lives

    def lives(self, owner: Owner) -> bool:
        """Whether an owner lives, as far as it can be told from here."""
        alive = owner.alive
        return self._beats(owner) if alive is None else alive

    def _beats(self, owner: Owner) -> bool:
        """Whether the heart of an owner on another machine was seen to beat lately, by the clock of this one."""
        beat, now = self._study.user_attrs.get(_BEAT + owner.token, 0), time.monotonic()
        before = self._seen.get(owner.token)
        if before is None or before[0] != beat:
            self._seen[owner.token] = (beat, now)
            return True
        return now - before[1] < self._grace_s

    def _beat(self, count: int) -> None:
        self._study.set_user_attr(_BEAT + self.owner.token, count)

    def _keep_beating(self, beat_s: float) -> None:
        count = 0
        while not self._closed.wait(beat_s):
            count += 1
            # A storage that is gone stops the run itself, where it stays so.
            with contextlib.suppress(Exception), storage_errors(None):
                self._beat(count)


def _named(trial: FrozenTrial) -> Owner | None:
    """The owner that a trial names; None where it names none, or what it says was altered."""
    try:
        return Owner.from_json(trial.user_attrs[_OWNER])
    except (KeyError, TypeError):
        return None
