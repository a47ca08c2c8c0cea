"""Every test in this folder needs OpenVINO, which is an extra; the contract suite says so where it is missing."""

from __future__ import annotations

import importlib.util

collect_ignore_glob = ["test_*.py"] if importlib.util.find_spec("openvino") is None else []
