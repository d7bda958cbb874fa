"""`segcli predict`: names, sizes, what is refused, what is left out."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import Image
from tiny_run import SPACE, blocks, make_run, one_thread, write_image  # noqa: F401
from typer import Typer
from typer.testing import CliRunner

from segcli.commands.predict import predict
from segcli.data.images import read_image
from segcli.errors import DataError
from segcli.inference.predictor import Predictor
from segcli.recipes.predict import find_jobs, predict_files


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working folder, with pictures in `in/` and no run."""
    monkeypatch.chdir(tmp_path)
    write_image(tmp_path / "in" / "b.png", blocks(1, 41, 67))
    write_image(tmp_path / "in" / "deep" / "a.jpg", blocks(2, 64, 48))
    (tmp_path / "in" / "notes.txt").write_text("no picture")
    return tmp_path


@pytest.fixture
def world(folder):
    make_run(folder / "runs" / "demo", folder)
    return folder


def names(inputs, out):
    return sorted(job.name for job in find_jobs(inputs, out))


def test_masks_and_overlays_at_the_pictures_own_size(world):
    result = predict_files(["in"], device="cpu")
    assert (result.predicted, result.failed) == (2, ())
    predictor = Predictor.from_checkpoint(world / "runs" / "demo" / "best", device="cpu")
    for source, name in (("b.png", "b.png"), ("deep/a.jpg", "deep/a.png")):
        image = read_image(world / "in" / source)
        with Image.open(world / "predictions" / "masks" / name) as mask:
            assert mask.mode == "P"
            assert (np.asarray(mask) == predictor.predict(image)).all()
            assert mask.getpalette()[:3] == list(SPACE.classes[0].color)
        overlay = read_image(world / "predictions" / "overlays" / name)
        assert overlay.shape == image.shape and (overlay != image).any()


def test_running_twice_gives_the_same_bytes_and_no_masks_of_masks(world):
    predict_files(["."], device="cpu")
    files = {p: p.read_bytes() for p in (world / "predictions").rglob("*.png")}
    predict_files(["."], device="cpu")
    assert {p: p.read_bytes() for p in (world / "predictions").rglob("*.png")} == files
    assert len(files) == 4


def test_what_inputs_may_be(folder):
    out = folder / "out"
    assert names(["in"], out) == ["b", "deep/a"]
    assert names(["in/b.png"], out) == ["b"]
    assert names(["in/*"], out) == ["a", "b"]
    assert names(["in/**/*.jpg"], out) == ["a"]
    assert names(["in/**"], out) == ["a", "b"]
    assert names(["in/b.png", "./in/../in/b.png", "in/b.*"], out) == ["b"], "once each"
    write_image(folder / "in" / "[1].png", blocks(0))
    assert names(["in/[1].png"], out) == ["[1]"], "a name that looks like a glob"


@pytest.mark.parametrize("wrong", ["nothing.png", "in/*.bmp", "empty"])
def test_inputs_that_are_not_there(folder, wrong):
    (folder / "empty").mkdir()
    with pytest.raises(DataError, match=r"no (such file|images)"):
        find_jobs(["in/b.png", wrong], folder / "out")


def test_two_pictures_of_one_name_are_refused(folder):
    write_image(folder / "in" / "b.jpg", blocks(3))
    with pytest.raises(DataError, match=r"b\.png.*two --out folders"):
        find_jobs(["in"], folder / "out")
    with pytest.raises(DataError, match="written as"):
        find_jobs(["in/b.png", "in/b.jpg"], folder / "out")


def test_an_input_is_never_overwritten(folder):
    picture = write_image(folder / "out" / "masks" / "x.png", blocks(1))
    with pytest.raises(DataError, match="overwritten"):
        find_jobs([str(picture)], folder / "out")


def test_a_photo_that_lies_on_its_side_is_turned(world):
    image = Image.fromarray(blocks(5, 40, 80))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(world / "in" / "side.jpg", exif=exif)
    predict_files(["in/side.jpg"], device="cpu")
    with Image.open(world / "predictions" / "masks" / "side.png") as mask:
        assert mask.size == (40, 80)


def test_grey_alpha_and_one_pixel_pictures(world):
    cv2_grey = blocks(1)[:, :, 0]
    (world / "in" / "grey.png").write_bytes(cv2.imencode(".png", cv2_grey)[1].tobytes())
    rgba = np.dstack([blocks(1), cv2_grey])
    (world / "in" / "alpha.png").write_bytes(cv2.imencode(".png", rgba)[1].tobytes())
    write_image(world / "in" / "dot.png", blocks(1)[:1, :1])
    assert predict_files(["in"], device="cpu").predicted == 5
    with Image.open(world / "predictions" / "masks" / "dot.png") as mask:
        assert mask.size == (1, 1)


def application() -> Typer:
    app = Typer()
    app.command()(predict)
    return app


def test_an_unreadable_picture_is_left_out_and_told(world):
    whole = (world / "in" / "b.png").read_bytes()
    (world / "in" / "cut.png").write_bytes(whole[: len(whole) // 2])
    run = CliRunner().invoke(application(), ["in", "--device", "cpu"])
    assert "cut.png" in run.stdout and "truncated" in run.stdout
    assert isinstance(run.exception, DataError) and "1 of 3" in str(run.exception)
    assert (world / "predictions" / "masks" / "b.png").exists()
    assert not (world / "predictions" / "masks" / "cut.png").exists()


def test_no_overlay_and_another_folder(world):
    arguments = ["in", "--no-overlay", "--out", "x", "--checkpoint", "runs/demo"]
    run = CliRunner().invoke(application(), [*arguments, "--device", "cpu"])
    assert run.exit_code == 0, run.output
    assert "predicted 2 images" in run.stdout
    assert (world / "x" / "masks" / "deep" / "a.png").exists()
    assert not (world / "x" / "overlays").exists()
