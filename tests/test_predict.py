"""`segcli predict`: names, sizes, what is refused, left out, skipped, and survives a kill."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from tiny_run import SPACE, blocks, make_run, one_thread, write_image  # noqa: F401
from typer import Typer
from typer.testing import CliRunner

from segcli.commands.predict import predict
from segcli.data.images import read_image
from segcli.data.manifest import load_manifest
from segcli.errors import DataError, OutputError, UsageError
from segcli.inference.predictor import Predictor
from segcli.inference.tta import TTA
from segcli.recipes.check_data import check_prepared
from segcli.recipes.predict import predict_files
from segcli.recipes.predict_inputs import find_jobs
from segcli.recipes.predict_output import Wanted
from segcli.reporting.events import NullReporter
from segcli.temperature import store_temperature


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


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_running_twice_gives_the_same_bytes_and_no_masks_of_masks(world):
    predict_files(["."], device="cpu")
    files = contents(world / "predictions")
    assert predict_files(["."], device="cpu", redo=True).predicted == 2
    assert contents(world / "predictions") == files
    assert len(files) == 5


def test_what_is_there_is_skipped_and_what_is_not_is_made(world):
    first = predict_files(["in"], device="cpu")
    assert (first.predicted, first.skipped) == (2, 0)
    files = contents(world / "predictions")
    again = predict_files(["in"], device="cpu")
    assert (again.predicted, again.skipped) == (0, 2)
    assert again.summary == first.summary and contents(world / "predictions") == files
    (world / "predictions" / "overlays" / "b.png").unlink()
    mask = world / "predictions" / "masks" / "deep" / "a.png"
    mask.write_bytes(mask.read_bytes()[:-20])
    assert predict_files(["in"], device="cpu").predicted == 2
    assert contents(world / "predictions") == files


def test_another_picture_network_or_option_is_predicted_again(world):
    predict_files(["in"], device="cpu")

    def predicted(**options):
        return predict_files(["in"], device="cpu", **options).predicted

    assert predicted(wanted=Wanted(opacity=0.3)) == 2
    assert predicted(wanted=Wanted(opacity=0.3), tta=TTA(scales=(1.0,))) == 2
    assert predicted(tile=(64, 64)) == 2 and predicted(tile=(64, 64)) == 0
    write_image(world / "in" / "b.png", blocks(9, 41, 67))
    assert predicted(tile=(64, 64)) == 1
    make_run(world / "runs" / "demo", world, step=8)
    assert predicted(tile=(64, 64)) == 2


def test_another_temperature_is_predicted_again_where_it_counts(world):
    run, unsure = world / "runs" / "demo" / "best", Wanted(reject_below=0.9)
    for wanted, again in ((Wanted(), 0), (unsure, 2)):
        predict_files(["in"], device="cpu", wanted=wanted, redo=True)
        store_temperature(run, 1.5 if again else 2.5, {})
        assert predict_files(["in"], device="cpu", wanted=wanted).predicted == again


def test_confidence_rejection_and_shares(world):
    sure = Predictor.from_checkpoint(world / "runs/demo/best", device="cpu").confident
    label, confidence = (a[0] for a in sure([read_image(world / "in" / "b.png")]))
    limit = float(np.median(confidence))
    wanted = Wanted(confidence=True, reject_below=limit)
    summary = predict_files(["in/b.png"], device="cpu", wanted=wanted).summary
    with Image.open(world / "predictions" / "masks" / "b.png") as picture:
        mask, palette = np.asarray(picture), np.array(picture.getpalette()).reshape(-1, 3)
    assert (mask == np.where(confidence < limit, 255, label)).all()
    assert not (palette[255] == palette[:4]).all(1).any(), "a colour of its own"
    stored = cv2.imread(str(world / "predictions" / "confidence" / "b.png"), cv2.IMREAD_UNCHANGED)
    assert stored.dtype == np.uint8 and np.abs(stored / 255 - confidence).max() < 0.51 / 255
    entry = summary["images"][0]
    assert entry["unsure"] == pytest.approx((mask == 255).mean(), abs=1e-6) and entry["unsure"] > 0
    assert sum(entry["classes"].values()) + entry["unsure"] == pytest.approx(1, abs=1e-5)
    for k, name in enumerate(SPACE.class_names):
        assert entry["classes"].get(name, 0) == pytest.approx((mask == k).mean(), abs=1e-6)
    assert entry["confidence"] == pytest.approx(confidence.mean(), abs=1e-5)
    assert summary["unsure_index"] == 255 and entry["size"] == [41, 67]
    assert json.loads((world / "predictions" / "predictions.json").read_text()) == summary
    overlay = read_image(world / "predictions" / "overlays" / "b.png")
    plain = read_image(world / "in" / "b.png")
    assert (overlay[mask == 255] != plain[mask == 255]).any(1).mean() > 0.9


def test_pseudo_labels_are_a_data_set_that_training_reads(world):
    command = ["in", "--pseudo-labels", "--device", "cpu", "--out", "pseudo"]
    result = CliRunner().invoke(application(), [*command, "--reject-below", "0.3"])
    assert result.exit_code == 0, result.output
    assert "data.train=[train, pseudo]" in result.stdout
    own = load_manifest("pseudo")
    found = check_prepared(Path("pseudo"), NullReporter())
    assert [f for f in found if f.severity == "error"] == []
    for sample in own.split("train"):
        mask = np.asarray(Image.open(sample.label))
        assert sample.image.with_suffix("") == world / "in" / sample.id
        assert mask.shape == sample.size
        assert sample.pixels == (*np.bincount(mask.ravel(), minlength=4)[:4], (mask == 255).sum())
        assert (world / "pseudo" / "confidence" / f"{sample.id}.png").is_file()
    joined = load_manifest("pseudo", {"train": "train", "pseudo": "pseudo"})
    assert joined.split("pseudo") == own.split("train")
    with pytest.raises(DataError, match="no samples in split 'gone'"):
        load_manifest("pseudo", {"gone": "gone"}).split("gone")
    text = Path("pseudo/manifest.json").read_text()
    Path("other").mkdir()
    Path("other/manifest.json").write_text(text.replace(SPACE.class_names[0], "elsewhere"))
    with pytest.raises(DataError, match="other classes"):
        load_manifest("pseudo", {"other": "other"})


def test_a_list_on_stdin_is_mirrored_below_its_common_folder(folder):
    def listed(text):
        jobs = find_jobs(["-"], folder / "out", io.BytesIO(text))
        return sorted((job.name, str(job.image)) for job in jobs)

    both = [("b", "in/b.png"), ("deep/a", "in/deep/a.jpg")]
    assert listed(b"in/b.png\nin/deep/a.jpg\n") == both
    assert listed(b"in/b.png\r\n\r\nin/deep/a.jpg") == both
    assert listed(b"in/b.png\0in/deep/a.jpg\0") == both
    assert listed(b"in/deep/a.jpg\n") == [("a", "in/deep/a.jpg")]
    odd = b"in/new\nline.png\0in/\xff.png\0"
    assert [name for name, _ in listed(odd)] == ["new\nline", "\udcff"]
    with pytest.raises(DataError, match="no images"):
        listed(b"\n")
    with pytest.raises(UsageError, match="stdin"):
        find_jobs(["-"], folder / "out")


def test_a_missing_file_of_a_list_is_left_out(world):
    text = io.BytesIO(b"in/b.png\nin/gone.png\n")
    result = predict_files(["-"], device="cpu", stdin=text)
    assert result.predicted == 1 and "gone.png" in str(result.failed[0])
    assert result.summary["failed"][0]["image"] == "in/gone.png"


def test_names_that_are_no_text(world):
    name = os.fsencode(world / "in") + b"/\xff\n.png"
    Path(os.fsdecode(name)).write_bytes((world / "in" / "b.png").read_bytes())
    result = predict_files(["in"], device="cpu")
    assert result.predicted == 3
    assert result.summary["images"][-1]["mask"] == "masks/\\udcff\n.png"


def test_links_in_the_output_folder_lead_nowhere(world, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    kept = elsewhere / "kept.png"
    kept.write_bytes(b"mine")
    masks = world / "predictions" / "masks"
    masks.mkdir(parents=True)
    (masks / "b.png").symlink_to(kept)
    predict_files(["in/b.png"], device="cpu")
    assert kept.read_bytes() == b"mine" and not (masks / "b.png").is_symlink()
    (masks / "deep").symlink_to(elsewhere)
    with pytest.raises(OutputError, match="a link leads out of the output folder"):
        predict_files(["in"], device="cpu")
    assert sorted(elsewhere.iterdir()) == [kept]


def test_pictures_of_one_size_go_together_and_equal_single_ones(world):
    for number in range(5):
        write_image(world / "in" / "same" / f"{number}.png", blocks(number))
    one = predict_files(["in/same"], device="cpu", out=Path("one"))
    four = predict_files(["in/same"], device="cpu", out=Path("four"), batch_size=4)
    assert [e["classes"] for e in four.summary["images"]] == [
        e["classes"] for e in one.summary["images"]
    ]
    assert four.summary["classes"] == one.summary["classes"]


def test_kills_and_a_full_disk_leave_the_same_files_or_none(world):
    for number in range(4):
        write_image(world / "in" / "more" / f"{number}.png", blocks(number, 40, 64))
    script = Path(__file__).parent / "predict_kill.py"
    run = subprocess.run(
        [sys.executable, str(script), str(world)], capture_output=True, text=True, timeout=900
    )
    assert run.returncode == 0 and run.stdout == "", run.stdout + run.stderr
    whole = contents(world / "whole")
    assert len(whole) == 3 * 6 + 1 and contents(world / "killed") == whole


@pytest.mark.slow
def test_two_processes_do_what_one_does(world):
    for number in range(7):
        write_image(world / "in" / "more" / f"{number}.png", blocks(number, 40, 64))
    (world / "in" / "broken.png").write_bytes(b"no picture")
    words = ["-m", "segcli", "predict", "in", "--device", "cpu", "--batch-size", "2", "--out"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def start(*command, out):
        return subprocess.run(
            [sys.executable, *command, *words, out],
            env=environment,
            capture_output=True,
            text=True,
            timeout=900,
        )

    alone = start(out="one")
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    shared = start(*launcher, out="two")
    assert alone.returncode == 1 and "1 of 10 images" in alone.stderr
    assert shared.returncode == 1 and "1 of 10 images" in shared.stderr
    assert shared.stdout.count("predicted 9 images") == 1
    assert contents(world / "two") == contents(world / "one")


def test_what_inputs_may_be(folder):
    out = folder / "out"
    assert names(["in"], out) == ["b", "deep/a"]
    assert names(["in/b.png"], out) == ["b"]
    assert names(["in/*"], out) == ["b", "deep/a"]
    assert names(["in/**/*.jpg"], out) == ["deep/a"]
    assert names(["in/**"], out) == ["b", "deep/a"]
    assert names(["in/de*/*"], out) == ["deep/a"]
    assert names(["*/deep"], out) == ["in/deep/a"]
    assert names(["in/b.png", "./in/../in/b.png", "in/b.*"], out) == ["b"], "once each"
    (folder / "in" / "c.png").symlink_to("b.png")
    assert names(["in/*.png"], out) == ["b", "c"], "each name has its result"
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


def test_json_on_stdout_and_options_that_cannot_be_meant(world):
    arguments = ["in", "--device", "cpu", "--json", "--tta", "--scales", "1", "--tile", "64x96"]
    run = CliRunner().invoke(application(), arguments)
    assert run.exit_code == 0, run.stderr
    printed = json.loads(run.stdout)
    assert printed["views"] == ["1x", "1x flipped"] and printed["tile"] == [64, 96]
    assert [entry["mask"] for entry in printed["images"]] == ["masks/b.png", "masks/deep/a.png"]
    for wrong in (["--tile", "big"], ["--tile", "32x512"], ["--tta", "--scales", "x"]):
        run = CliRunner().invoke(application(), ["in", *wrong])
        assert isinstance(run.exception, UsageError), wrong
    again = CliRunner().invoke(application(), [*arguments[:3], "--no-overlay"])
    assert "predicted 2" in again.stdout
    again = CliRunner().invoke(application(), [*arguments[:3], "--no-overlay"])
    assert "2 were there already" in again.stdout
