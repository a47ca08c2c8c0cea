"""The command ``autotune``."""

from autotune.cli.app import main

__all__ = ["main"]
