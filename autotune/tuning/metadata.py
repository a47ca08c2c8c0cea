"""Metadata of saved models: how each was made, on what, and what was measured of it."""

from __future__ import annotations

import json
from typing import Any

from autotune.adapter import Adapter, host_of
from autotune.config import QuantizationConfig
from autotune.criterion import Criterion
from autotune.trial import Measurement

CONFIG_KEY = "autotune:config"
"""Key of the config, in JSON."""


def metadata_of(
    adapter: Adapter[Any],
    config: QuantizationConfig,
    measurement: Measurement | None = None,
    criterion: Criterion | None = None,
) -> dict[str, str]:
    """Metadata of a saved model: how it was made, and where; what it was measured at, where it was."""
    host = host_of(adapter)
    measured = {} if measurement is None else {"autotune:measurement": json.dumps(measurement.to_json())}
    target = {} if criterion is None else {"autotune:criterion": str(criterion)}
    return {
        CONFIG_KEY: json.dumps(config.to_json()),
        **measured,
        **target,
        "autotune:host": json.dumps(host.to_json()),
        "autotune:version": host.packages.get("autotune-quantization", "uninstalled"),
    }
