"""Every experiment file among the examples fits the schema, and its data section does what its comments say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from autotune.experiment import load_experiment

EXAMPLES = Path(__file__).parents[2] / "examples"
FILES = sorted(EXAMPLES.rglob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_it_fits_the_schema_and_asks_for_one_percent(path: Path) -> None:
    experiment = load_experiment(path)
    assert experiment.tuning.accuracy_criterion.relative == 0.01
    assert experiment.model.path is not None
    assert experiment.model.path.parent == path.parent


def test_there_is_one_for_the_quickstart_and_one_for_imagenet() -> None:
    assert [path.name for path in FILES] == ["resnet50.yaml", "quickstart.yaml"]


def test_imagenet_pictures_become_what_resnet50_reads(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for name, height, width in (("n01440764", 300, 400), ("n01443537", 500, 333)):
        folder = tmp_path / "calibration" / name
        folder.mkdir(parents=True)
        Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(folder / "picture.jpeg")
    (tmp_path / "val").mkdir()
    (tmp_path / "calibration" / "n01443537" / "picture.jpeg").rename(tmp_path / "val" / "ILSVRC2012_val_00000001.JPEG")
    (tmp_path / "val.txt").write_text("ILSVRC2012_val_00000001.JPEG 65\n")
    copy = tmp_path / "resnet50.yaml"
    copy.write_text((EXAMPLES / "imagenet" / "resnet50.yaml").read_text())

    experiment = load_experiment(copy)
    assert experiment.evaluation.accuracy.dataset is not None
    for dataset, label in ((experiment.calibration.dataset, 0), (experiment.evaluation.accuracy.dataset, 65)):
        ((images, labels),) = list(dataset.open(tmp_path))
        assert images.shape == (1, 3, 224, 224)
        assert images.dtype == np.float32
        assert abs(float(images.mean())) < 0.5  # normalised noise around mid grey
        assert labels.tolist() == [label]
