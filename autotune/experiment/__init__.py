"""Experiment files: what `autotune run` reads."""

from autotune.experiment.json_schema import SCHEMA_FILE, json_schema
from autotune.experiment.loading import load_experiment, load_experiments
from autotune.experiment.schema import Experiment

__all__ = ["SCHEMA_FILE", "Experiment", "json_schema", "load_experiment", "load_experiments"]
