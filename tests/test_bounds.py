from __future__ import annotations

import math
import re

import pytest

from autotune.bounds import require_least
from autotune.errors import InputError, StrategyError


def test_the_first_option_that_is_too_small_is_named() -> None:
    require_least(1, InputError, threads=1, batch_size=7, samples=None)
    with pytest.raises(StrategyError, match=re.escape("`batch_size >= 1` must hold, but got 0")):
        require_least(1, StrategyError, threads=2, batch_size=0, warmup=-1)


def test_what_is_no_number_is_too_small() -> None:
    with pytest.raises(InputError, match="`share >= 0` must hold"):
        require_least(0, InputError, share=math.nan)
