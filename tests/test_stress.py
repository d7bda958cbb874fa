"""Stress renderings: pure, graded, never blinding; and the benchmark that scores with them."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
from tiny_run import SPACE, RedDecides, make_prepared, make_run, one_thread  # noqa: F401

from segcli.data.stress import SEVERITIES, STRESSES, street_depth
from segcli.inference.predictor import Predictor


def street(height: int = 180, width: int = 240) -> np.ndarray:
    """Sky above, grey ground below, houses as textured blocks."""
    rng = np.random.default_rng(3)
    coarse = rng.integers(50, 190, (-(-height // 12), -(-width // 12), 3))
    picture = np.kron(coarse, np.ones((12, 12, 1)))[:height, :width]
    picture[: height // 4] = (170, 195, 225)
    picture[-height // 4 :, width // 4 : -width // 4] = (85, 85, 88)
    return (picture + rng.normal(0, 5, picture.shape)).clip(0, 255).astype(np.uint8)


def test_the_seven() -> None:
    assert set(STRESSES) == {"rain", "snow", "fog", "night", "blur", "noise", "drops"}
    assert SEVERITIES == (1, 2, 3)


@pytest.mark.parametrize("kind", STRESSES)
def test_a_rendering_depends_on_its_generator_alone(kind: str) -> None:
    image = street()
    before = image.copy()
    views = [STRESSES[kind](image, 2, np.random.default_rng(s)) for s in (0, 1)]
    again = [STRESSES[kind](image, 2, np.random.default_rng(s)) for s in (0, 1)]
    assert (image == before).all()
    for a, b in zip(views, again, strict=True):
        assert a.dtype == np.uint8
        assert a.shape == image.shape
        assert a.flags.c_contiguous
        assert (a == b).all()
    assert (views[0] != views[1]).any()


@pytest.mark.parametrize("kind", STRESSES)
def test_severity_grows_and_the_scene_stays_visible(kind: str) -> None:
    image = street()
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(float)
    change, seen = [], []
    for severity in SEVERITIES:
        views = [STRESSES[kind](image, severity, np.random.default_rng(s)) for s in range(5)]
        change.append(np.mean([np.abs(v.astype(int) - image).mean() for v in views]))
        lights = [cv2.cvtColor(v, cv2.COLOR_RGB2GRAY).astype(float).ravel() for v in views]
        seen.append(np.mean([np.corrcoef(grey.ravel(), v)[0, 1] for v in lights]))
    assert 0.5 < change[0] < change[1] < change[2]
    assert min(seen) > 0.5


@pytest.mark.parametrize("shape", [(32, 64), (33, 47), (64, 20), (200, 40)])
@pytest.mark.parametrize("kind", STRESSES)
def test_any_size_will_do(kind: str, shape: tuple[int, int]) -> None:
    image = street(*shape)
    for severity in SEVERITIES:
        assert STRESSES[kind](image, severity, np.random.default_rng(0)).shape == image.shape


@pytest.mark.parametrize("kind", STRESSES)
@pytest.mark.parametrize("severity", [0, 4])
def test_other_severities_are_refused(kind: str, severity: int) -> None:
    with pytest.raises(ValueError, match="severity"):
        STRESSES[kind](street(), severity, np.random.default_rng(0))


def test_fog_takes_the_far_and_leaves_the_near() -> None:
    image = np.zeros((180, 240, 3), np.uint8)
    image[::2] = 255
    foggy = STRESSES["fog"](image, 2, np.random.default_rng(1)).astype(float)
    contrast = np.abs(np.diff(foggy.mean(2), axis=0))
    assert contrast[-20:].mean() > 2 * contrast[70:85, 110:130].mean()


def test_the_depth_of_a_street_grows_towards_one_point() -> None:
    depth = street_depth((90, 160), np.random.default_rng(0))
    y, x = np.unravel_index(depth.argmax(), depth.shape)
    assert depth.dtype == np.float32
    assert depth[-1].mean() < 1.3
    assert depth.max() == pytest.approx(8, rel=0.01)
    assert 25 < y < 55
    assert 55 < x < 105


def test_noise_keeps_the_mean_and_blur_the_light() -> None:
    image = np.full((120, 160, 3), 120, np.uint8)
    noisy = STRESSES["noise"](image, 1, np.random.default_rng(0))
    assert noisy.mean() == pytest.approx(120, abs=1)
    # Shot and read noise as stated, for green: sqrt(0.47 / 220 + 0.015²) times 0.8.
    assert noisy[..., 1].std() == pytest.approx(255 * 0.8 * 0.0486, rel=0.05)
    assert (STRESSES["blur"](image, 3, np.random.default_rng(0)) == 120).all()


def benchmark() -> ModuleType:
    path = Path(__file__).parent.parent / "benchmarks" / "weather.py"
    spec = importlib.util.spec_from_file_location("benchmark_weather", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_benchmark_scores_a_model_whose_answers_are_known(tmp_path: Path) -> None:
    tool = benchmark()
    manifest = make_prepared(tmp_path, count=3)
    predictor = Predictor(RedDecides(), SPACE)
    result = tool.measure(predictor, manifest.split("val"), ["fog", "noise"])
    assert result["clean"] == 1.0
    assert list(result) == ["clean", "fog", "noise", "mean"]
    values = [result[k][s] for k in ("fog", "noise") for s in ("1", "2", "3")]
    assert result["mean"] == pytest.approx(np.mean(values))
    assert result["fog"]["3"] < result["fog"]["1"] < 1
    assert result == tool.measure(predictor, manifest.split("val"), ["fog", "noise"])


def test_the_benchmark_from_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tool = benchmark()
    manifest = make_prepared(tmp_path, count=2)
    checkpoint = make_run(tmp_path / "run", manifest.folder)
    out = tmp_path / "scores.json"
    arguments = [str(checkpoint), "--prepared", str(manifest.folder), "--limit", "1"]
    assert tool.main([*arguments, "--kinds", "rain", "--json", str(out)]) == 0
    report = json.loads(out.read_text(encoding="utf-8"))
    assert report["images"] == 1
    assert set(report["runs"][str(checkpoint)]) == {"clean", "rain", "mean"}
    assert "rain 3" in capsys.readouterr().out
    assert tool.main([str(tmp_path / "none"), "--prepared", str(manifest.folder)]) == 1
    assert "error:" in capsys.readouterr().err
