from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Seven samples of shape (4, 5, 3), their labels, and arrays of other kinds."""
    random = np.random.default_rng(0)
    path = tmp_path / "data.npz"
    np.savez_compressed(
        path,
        images=random.integers(0, 256, (7, 4, 5, 3), dtype=np.uint8),
        labels=np.arange(7),
        few=np.arange(6),
        none=np.zeros((0, 4), dtype=np.float32),
        single=np.float32(1),
        fortran=np.asfortranarray(np.ones((7, 3))),
        objects=np.array([{}, []], dtype=object),
    )
    return path
