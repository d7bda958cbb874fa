"""The audit names what is wrong with a view, and only that."""

from __future__ import annotations

import json
from dataclasses import dataclass

import cv2
import numpy as np
import pytest
import torch
from tiny_run import SPACE, one_thread, write_image  # noqa: F401
from torch import nn

from segcli.data.manifest import Sample
from segcli.errors import DataError
from segcli.inference.alignment import Alignment, Brightness
from segcli.inference.predictor import Predictor
from segcli.inference.tta import PLAIN, TTA, View
from segcli.png import encode_indices
from segcli.recipes.tta_audit import tta_audit, view_sets
from segcli.reporting.events import NullReporter


class Padded(nn.Module):
    """Red decides, at a stride of 4, on pictures padded to multiples of 32 like a `Segmenter`'s.

    Args:
        blind: class 1 is not seen where the picture is smaller than this.
    """

    def __init__(self, blind: int = 0) -> None:
        super().__init__()
        self.blind = blind

    def logits_at_stride(self, images):
        height, width = images.shape[2:]
        x = nn.functional.pad(images[:, :1].float(), (0, -width % 32, 0, -height % 32))
        x = nn.functional.avg_pool2d(x, 4)
        centres = torch.tensor([32.0, 96.0, 160.0, 224.0]).view(1, -1, 1, 1)
        logits = (2 * x - centres) * centres / 1000
        if width < self.blind:
            logits[:, 1] -= 1000
        return type("Output", (), {"logits": logits})


@dataclass(frozen=True)
class Shifted(View):
    """The classic: one pixel lost on the way back."""

    name = "shifted"

    def invert(self, result):
        return super().invert(result).roll(1, -1)


@dataclass(frozen=True)
class FlippedWithPadding(View):
    """Padded first, flipped then: the picture no longer begins where its map does."""

    name = "padding flipped"

    def apply(self, image, rule):
        width = image.shape[1]
        padded = cv2.copyMakeBorder(image, 0, 0, 0, -width % 32, cv2.BORDER_CONSTANT)
        return np.ascontiguousarray(padded[:, ::-1][:, :width])


@dataclass(frozen=True)
class NotFlippedBack(View):
    """Flipped, and left so."""

    name = "not flipped back"

    def invert(self, result):
        return result


@dataclass(frozen=True)
class Down(View):
    """Half a coarse pixel down, as corners aligned in place of centres would do."""

    name = "down"

    def apply(self, image, rule):
        return np.roll(super().apply(image, rule), 2, 0)


class Planted(TTA):
    """The usual views and one that is wrong."""

    def __init__(self, extra, **keys):
        super().__init__(**keys)
        object.__setattr__(self, "extra", extra)

    def views(self):
        return (*super().views(), self.extra)


def street(seed: int, height: int = 118, width: int = 150) -> np.ndarray:
    """uint8 (H, W, 3): soft blobs whose red spans all classes, and a gradient for a sky."""
    generator = np.random.default_rng(seed)
    noise = generator.standard_normal((height, width)).astype(np.float32)
    red = cv2.GaussianBlur(noise, (0, 0), 9)
    red = (red / red.std() * 70 + 128 + np.linspace(60, -60, width)).clip(0, 255)
    return np.repeat(red[:, :, None], 3, 2).astype(np.uint8)


@pytest.fixture(scope="module")
def samples(tmp_path_factory) -> list[Sample]:
    folder, result = tmp_path_factory.mktemp("audit"), []
    for index in range(3):
        image = street(index)
        truth = image[:, :, 0] // 64
        label = folder / f"{index}-label.png"
        label.write_bytes(encode_indices(truth, SPACE.palette()))
        result.append(
            Sample(
                id=str(index),
                image=write_image(folder / f"{index}.png", image),
                label=label,
                one_hot=None,
                size=truth.shape,
                sha256="",
                pixels=(0, 0, 0, 0, 0),
            )
        )
    return result


def audit(samples, tta, model=None):
    value = tta_audit(Predictor(model or Padded(), SPACE), samples, tta)
    json.dumps(value, allow_nan=False)
    return value, {view["name"]: view for view in value["views"]}


def test_honest_views_pass(samples):
    value, views = audit(samples, TTA(scales=(0.75, 1.0, 1.5)))
    assert all(view["aligned"] for view in views.values())
    assert list(views) == ["1x", "0.75x", "0.75x flipped", "1x flipped", "1.5x", "1.5x flipped"]
    assert value["plain"]["miou"] == views["1x"]["miou"] > 0.8
    assert value["images"] == 3 and "misaligned" not in value["verdict"]
    assert [c["name"] for c in value["classes"]] == list(SPACE.class_names)
    for c in value["classes"]:
        assert c["change"] == pytest.approx(c["merged"] - c["plain"])


@pytest.mark.parametrize(
    ("planted", "shift", "words"),
    [
        (Shifted(), (1, 0), "to the right"),
        (Shifted(1.0, True), (1, 0), "to the right"),
        (FlippedWithPadding(1.0, True), (-10, 0), "to the left"),
        (Down(), (0, 2), "down"),
    ],
)
def test_planted_shifts_are_named(samples, planted, shift, words):
    """The width of 150 is padded by 10."""
    value, views = audit(samples, Planted(planted, scales=(1.0,)))
    bad = views.pop(planted.name)
    assert not bad["aligned"] and not bad["keep"]
    assert bad["verdict"].startswith("misaligned") and words in bad["verdict"]
    assert bad["shift"] == pytest.approx(shift, abs=0.3)
    assert all(view["aligned"] for view in views.values())
    assert f"misaligned: {planted.name}" in value["verdict"]
    assert planted.name not in value["recommended"]["views"]
    assert "aligned" in [s["name"] for s in value["sets"]] or any(
        s["name"] == f"without {planted.name}" for s in value["sets"]
    )


def test_a_shift_is_named_among_scales(samples):
    _, views = audit(samples, Planted(Shifted(1.25), scales=(0.75, 1.0)))
    assert [name for name, view in views.items() if not view["aligned"]] == ["shifted"]


def test_a_view_that_is_not_flipped_back_is_called_mirrored(samples):
    _, views = audit(samples, Planted(NotFlippedBack(1.0, True), flip=False, scales=(1.0,)))
    assert "mirrored" in views["not flipped back"]["verdict"]
    assert not views["not flipped back"]["aligned"]


def test_a_view_of_which_the_network_knows_too_little_is_not_called_misaligned(samples):
    """Small pictures lose a class: a matter of knowledge, not of position."""
    value, views = audit(samples, TTA(flip=False, scales=(0.5, 1.0)), Padded(blind=100))
    assert views["0.5x"]["aligned"] and not views["0.5x"]["keep"]
    assert views["0.5x"]["change"] < -0.1
    assert value["recommended"]["views"] == ["1x"]


def test_merged_is_what_the_predictor_says(samples):
    from segcli.recipes.evaluate import evaluate_model

    tta = TTA(scales=(0.75, 1.0))
    value, _ = audit(samples, tta)
    predictor = Predictor(Padded(), SPACE, tta=tta)
    merged = evaluate_model(predictor, samples, batch_size=1).scores.miou
    assert value["merged"]["miou"] == pytest.approx(merged, abs=1e-4)
    plain = evaluate_model(predictor.with_tta(None), samples, batch_size=1).scores.miou
    assert value["plain"]["miou"] == plain


def test_tables_and_a_warning_are_reported(samples):
    class Listener(NullReporter):
        def __init__(self):
            self.titles, self.warnings = [], []

        def table(self, title, columns, rows):
            assert all(len(row) == len(columns) for row in rows)
            self.titles.append(title)

        def warning(self, text):
            self.warnings.append(text)

    listener = Listener()
    tta_audit(Predictor(Padded(), SPACE), samples, Planted(Shifted(), scales=(1.0,)), listener)
    assert listener.titles[0] == "TTA, 3 images" and len(listener.warnings) == 1


def test_no_images_is_an_error():
    with pytest.raises(DataError, match="no images"):
        tta_audit(Predictor(Padded(), SPACE), [])


def test_sets_of_views_begin_with_all_and_none_comes_twice():
    views = TTA(scales=(0.5, 1.0)).views()
    sets = view_sets(views, [views[0]])
    assert next(iter(sets)) == "all" and sets["all"] == views
    assert sets["aligned"] == views[1:]
    assert len(set(sets.values())) == len(sets) and all(sets.values())


@pytest.mark.parametrize("right", [-7, -1, 0, 1, 30])
@pytest.mark.parametrize("down", [-2, 0, 3])
def test_shifts_between_maps_are_found(right, down):
    large = (street(0, 300, 300)[:, :, 0] // 64).astype(np.uint8)
    alignment = Alignment()
    alignment.update(large[80:180, 80:200], large[80 - down : 180 - down, 80 - right : 200 - right])
    fit = alignment.fit()
    assert fit.shift == pytest.approx((right, down), abs=0.05)


def test_maps_without_borders_lie_anywhere_and_are_not_blamed():
    alignment = Alignment()
    alignment.update(np.zeros((20, 30), np.uint8), np.zeros((20, 30), np.uint8))
    assert alignment.fit().shift == (0, 0) and alignment.fit().agreement == 1
    with pytest.raises(ValueError, match="no maps"):
        Alignment().fit()
    with pytest.raises(ValueError, match="maps of"):
        alignment.update(np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.uint8))


@pytest.mark.parametrize("view", [*TTA(scales=(0.6, 1.0, 1.4)).views()])
@pytest.mark.parametrize("size", [(97, 131), (96, 128), (63, 150)])
def test_every_view_puts_things_in_their_place(view, size):
    """At odd and padded sizes alike, to a few tenths of a pixel."""
    seer = Predictor(Brightness(32), SPACE)
    alignment = Alignment()
    for seed in range(3):
        image = street(seed, *size)
        alignment.update(*(_seen(seer, image, v) for v in (PLAIN, view)))
    assert max(map(abs, alignment.fit().shift)) < 0.3


def _seen(predictor, image, view):
    from segcli.inference.upsample import upsample

    coarse, frame = predictor.coarse([image], None, view)
    return view.invert(upsample(coarse, frame)[0]).argmax(0).numpy().astype(np.uint8)
