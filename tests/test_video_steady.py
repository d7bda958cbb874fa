"""Smoothing, reuse and the flicker score, on a drive whose motion and truth are known."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from tiny_run import one_thread  # noqa: F401

from segcli.data.city.render import optical_flow
from segcli.data.city.write import render_drive_frame
from segcli.data.rasterize import paint_ids, parse_annotation, train_id_lut
from segcli.inference.video_motion import CutDetector, Flicker, Motion, moved_labels, resized
from segcli.inference.video_smooth import DEFAULT_STRENGTH, Reuse, Smoother
from segcli.labels import load_label_space
from segcli.metrics.confusion import ConfusionMatrix

SIZE, FRAMES, SEED = (128, 256), 12, 5


@dataclass
class Drive:
    """Frames, truth, where each pixel goes, and what a network with doubts would say."""

    images: list[np.ndarray]
    truth: list[np.ndarray]
    flows: list[np.ndarray]
    doubtful: list[torch.Tensor]


@pytest.fixture(scope="module")
def drive() -> Drive:
    frames = [render_drive_frame(SEED, 0, i, FRAMES, SIZE) for i in range(FRAMES)]
    lut = train_id_lut()
    truth = [
        paint_ids(parse_annotation(json.dumps(f.polygons()).encode(), Path("drive")), lut)
        for f in frames
    ]
    flows = [optical_flow(a, b.camera) for a, b in pairwise(frames)]
    generator = np.random.default_rng(0)
    doubtful = [_doubt(t, generator) for t in truth]
    return Drive([f.image for f in frames], truth, flows, doubtful)


def _doubt(truth: np.ndarray, generator: np.random.Generator) -> torch.Tensor:
    """Softmax (19, h/4, w/4): the truth, with clouds of doubt that come anew in every frame."""
    height, width = truth.shape[0] // 4, truth.shape[1] // 4
    hot = np.stack([(truth == k).astype(np.float32) for k in range(19)])
    small = np.stack([cv2.resize(m, (width, height), interpolation=cv2.INTER_AREA) for m in hot])
    noise = generator.normal(size=small.shape).astype(np.float32)
    clouds = np.stack([cv2.GaussianBlur(m, (0, 0), 1.5) for m in noise])
    return torch.from_numpy(3 * small + 1.1 * clouds / clouds.std()).softmax(0)


def flicker(drive: Drive, labels: list[np.ndarray]) -> float:
    """Along the exact motion, where the truth goes along with it."""
    changed = seen = 0
    v, u = np.mgrid[: SIZE[0], : SIZE[1]]
    for i, flow in enumerate(drive.flows):
        x, y = np.rint(u + flow[..., 0]).astype(int), np.rint(v + flow[..., 1]).astype(int)
        kept = (x >= 0) & (x < SIZE[1]) & (y >= 0) & (y < SIZE[0]) & (drive.truth[i] != 255)
        x, y = x.clip(0, SIZE[1] - 1), y.clip(0, SIZE[0] - 1)
        kept &= drive.truth[i + 1][y, x] == drive.truth[i]
        changed += int((kept & (labels[i + 1][y, x] != labels[i])).sum())
        seen += int(kept.sum())
    return changed / seen


def miou(drive: Drive, labels: list[np.ndarray]) -> float:
    counts = ConfusionMatrix(load_label_space("cityscapes-19").num_classes)
    for truth, label in zip(drive.truth, labels, strict=True):
        counts.update(truth, label)
    matrix = counts.matrix.astype(float)
    union = matrix.sum(0) + matrix.sum(1) - np.diag(matrix)
    return float((np.diag(matrix)[union > 0] / union[union > 0]).mean())


def smoothed(drive: Drive, strength: float) -> tuple[Smoother, list[np.ndarray]]:
    smoother = Smoother(strength)
    return smoother, run(smoother, zip(drive.images, drive.doubtful, strict=True))


def run(smoother: Smoother, frames: Iterable[tuple[np.ndarray, torch.Tensor | None]]) -> list:
    """The class maps of one shot."""
    late = [smoother.push(image, p, i == 0) for i, (image, p) in enumerate(frames)]
    assert late[0] is None
    return [*late[1:], smoother.finish()]


def test_smoothing_takes_a_third_of_the_flicker_and_no_score(drive: Drive) -> None:
    _, raw = smoothed(drive, 0.0)
    smoother, steady = smoothed(drive, DEFAULT_STRENGTH)
    assert flicker(drive, steady) <= 0.7 * flicker(drive, raw)
    assert miou(drive, steady) >= miou(drive, raw)
    before, after = smoother.before.share, smoother.after.share
    assert before is not None and after is not None and after <= 0.7 * before


def test_no_strength_is_the_network_s_own_answer(drive: Drive) -> None:
    smoother, raw = smoothed(drive, 0.0)
    assert smoother.before.share == smoother.after.share
    for label, p in zip(raw, drive.doubtful, strict=True):
        logits = torch.nn.functional.interpolate(p.log()[None], size=SIZE, mode="bilinear")
        assert (label == logits[0].argmax(0).numpy()).mean() > 0.9999


def test_the_flow_is_that_of_the_camera(drive: Drive) -> None:
    motion = Motion()
    motion.step(drive.images[4])
    step = motion.step(drive.images[5])
    assert step is not None and step.flow.shape == (*SIZE, 2)
    # Ours leads back, the exact one forward: along a small step they are opposite.
    sure = step.trust > 0.5
    error = np.linalg.norm(step.flow + drive.flows[4], axis=-1)[sure]
    still = np.linalg.norm(drive.flows[4], axis=-1)[sure]
    assert np.median(error) < 0.5 * np.median(still)


def test_reuse_moves_the_classes_along(drive: Drive) -> None:
    reuse, stale = Reuse(), []
    moved = []
    for i, image in enumerate(drive.images):
        label = drive.truth[i] if i % 3 == 0 else None
        moved.append(reuse.update(image, label))
        stale.append(drive.truth[i // 3 * 3])
    between = [i for i in range(FRAMES) if i % 3]

    def wrong(labels: list[np.ndarray]) -> float:
        return float(np.mean([(labels[i] != drive.truth[i]).mean() for i in between]))

    assert wrong(moved) < 0.8 * wrong(stale)
    assert all((moved[i] == drive.truth[i]).all() for i in range(0, FRAMES, 3))


def test_a_cut_begins_anew(drive: Drive) -> None:
    cuts = CutDetector()
    other = np.full_like(drive.images[0], 255) - drive.images[0]
    shots = [*drive.images[:6], other, other, *drive.images[6:9]]
    assert [i for i, image in enumerate(shots) if cuts.is_cut(image)] == [0, 6, 8]
    smoother = Smoother(0.9)
    sure = torch.zeros(19, 32, 64)
    sure[3] = 1.0
    unsure = torch.full_like(sure, 1 / 19)
    unsure[7] += 0.01
    assert smoother.push(drive.images[0], sure, True) is None
    assert (smoother.push(drive.images[0], unsure, False) == 3).all()
    assert (smoother.push(other, unsure, True) == 3).all()
    assert (smoother.finish() == 7).all()
    smoother = Smoother(0.9)
    smoother.push(drive.images[0], sure, True)
    smoother.push(drive.images[0], unsure, True)
    smoother.finish()
    assert smoother.before.share is None, "a cut is no flicker"
    with pytest.raises(ValueError, match="first frame"):
        smoother.push(drive.images[0], sure, True)
        smoother.push(other, None, True)
        smoother.finish()
    with pytest.raises(ValueError, match="first frame"):
        run(Smoother(), [(drive.images[0], None)] * 2)
    with pytest.raises(ValueError, match="first frame"):
        Reuse().update(drive.images[0], None)


def test_what_is_uncovered_is_not_smoothed() -> None:
    generator = np.random.default_rng(0)
    ground = cv2.GaussianBlur(generator.integers(0, 255, (96, 128, 3)).astype(np.uint8), (0, 0), 2)
    ground = cv2.normalize(ground, None, 60, 120, cv2.NORM_MINMAX)
    before, after = ground.copy(), ground.copy()
    before[30:60, 40:70] = 255  # a thing that is gone in the next frame
    smoother = Smoother(0.95)
    thing = torch.zeros(2, 24, 32)
    thing[0] = 1
    thing[:, 8:15, 10:17] = torch.tensor([0.0, 1.0])[:, None, None]
    nothing = torch.zeros(2, 24, 32)
    nothing[0] = 1
    _, last, gone = run(smoother, [(before, thing), (before, thing), (after, nothing)])
    assert (last[40:50, 48:62] == 1).mean() > 0.95
    assert (gone[40:50, 48:62] == 0).mean() > 0.95
    # The other way round: nothing in the old picture looks like what appeared.
    frames = [(after, nothing), (after, nothing), (before, thing)]
    _, last, there = run(Smoother(0.95), frames)
    assert (last[40:50, 48:62] == 0).mean() > 0.95
    assert (there[40:50, 48:62] == 1).mean() > 0.95


def test_flicker_of_known_changes() -> None:
    score, motion = Flicker(), Motion()
    generator = np.random.default_rng(1)
    wide = cv2.GaussianBlur(generator.integers(0, 255, (80, 140, 3)).astype(np.uint8), (0, 0), 2)
    wide = cv2.normalize(wide, None, 0, 255, cv2.NORM_MINMAX)
    classes = np.kron(generator.integers(0, 4, (10, 18)), np.ones((8, 8))).astype(np.uint8)
    for i in range(4):  # the picture and its classes move two pixels a frame
        place = slice(2 * i, 2 * i + 120)
        score.update(np.ascontiguousarray(classes[:80, place]), motion.step(wide[:, place]))
    assert score.share is not None and score.share < 0.02
    score.update(np.full((80, 120), 9, np.uint8), motion.step(wide[:, 8:128]))
    assert score.share > 0.2


def test_labels_move_by_whole_pixels() -> None:
    label = np.arange(48, dtype=np.uint8).reshape(6, 8)
    flow = np.zeros((6, 8, 2), np.float32)
    flow[..., 0] = 2
    moved = moved_labels(label, flow)
    assert (moved[:, :6] == label[:, 2:]).all()
    assert (resized(flow, (12, 16)) == 4 * np.array([1, 0], np.float32)).all()
