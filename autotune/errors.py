"""The errors of this package.

```
AutotuneError                    everything this package raises on purpose
├── InputError                   something the user gave cannot be used; exit status 2
│   ├── ModelError               missing, corrupt, not what the adapter reads
│   ├── DataError                a data loader or data set of wrong shape, dtype, length or kind
│   ├── EvaluationFunctionError  eval_fn returned something that is no score
│   ├── CriterionError           a criterion that cannot be decided with this metric or baseline
│   ├── ExperimentError          an experiment file that does not fit the schema
│   ├── StrategyError            an unknown strategy, an option that it does not have
│   ├── UsersCodeError           the user's own code tried to end the process
│   ├── WorkspaceError           a workspace that cannot be written, or that belongs to another run
│   └── MissingDependencyError   an optional package is not installed
└── TrialError                   one candidate failed; recorded, the run goes on
    ├── ApplyError               the configuration could not be applied to the model
    ├── OutputError              the candidate's outputs are not finite or of another shape
    └── DeadlineReached          the time given to the run ended inside this trial
```
A message states the rule that was broken, the value that broke it and the way out.
"""


class AutotuneError(Exception):
    """Root of everything this package raises on purpose."""


class InputError(AutotuneError):
    """An input of the user's cannot be used."""


class ModelError(InputError):
    """The model is missing, corrupt or not what the adapter reads."""


class DataError(InputError):
    """The calibration or evaluation data cannot be used."""


class EvaluationFunctionError(InputError):
    """The user's ``eval_fn`` returned something that is no score."""


class CriterionError(InputError):
    """The accuracy target cannot be decided with this metric or this baseline."""


class ExperimentError(InputError):
    """The experiment file does not fit the schema."""


class StrategyError(InputError):
    """The strategy is unknown, or has no such option."""


class UsersCodeError(InputError):
    """The user's own code raised what ends a process, such as SystemExit."""


class WorkspaceError(InputError):
    """The workspace cannot be used."""


class MissingDependencyError(InputError):
    """An optional package is not installed; the message names the extra that brings it."""


class TrialError(AutotuneError):
    """One candidate failed. It is recorded with its reason and the run goes on.

    Attributes:
        compiled_s: Seconds that compiling it took before it failed; None where it came to none.
    """

    compiled_s: float | None = None


class ApplyError(TrialError):
    """The configuration could not be applied to the model."""


class OutputError(TrialError):
    """The candidate's outputs are not finite, or of another shape than the fp32 model's."""


class DeadlineReached(TrialError):
    """The time given to the run ended inside this trial."""
