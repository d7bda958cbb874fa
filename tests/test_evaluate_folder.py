"""`segcli eval --predictions`: folders of PNGs, and submissions for the test server."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from tiny_run import make_prepared, make_run, one_thread  # noqa: F401

from segcli import png
from segcli.data.cityscapes_truth import find_truths, read_truth
from segcli.data.images import read_label
from segcli.data.manifest import load_manifest
from segcli.errors import DataError, UsageError
from segcli.labels import load_label_space
from segcli.metrics.official import OfficialScores, label_id_lut
from segcli.recipes.evaluate_folder import evaluate_folder
from segcli.recipes.evaluate_run import evaluate_run
from segcli.recipes.evaluate_setup import Extras
from segcli.recipes.evaluate_submission import Submission

NINETEEN = load_label_space("cityscapes-19")


def spoiled(ids: np.ndarray, seed: int) -> np.ndarray:
    """Label ids of evaluated classes, some of them wrong."""
    to_class, to_id = NINETEEN.lut(), label_id_lut(NINETEEN)
    classes = np.where(to_class[ids] == 255, 0, to_class[ids])
    noise = np.random.default_rng(seed).random(ids.shape) < 0.2
    return to_id[np.where(noise, (classes + 7) % 19, classes)]


@pytest.fixture(scope="module")
def predictions(tiny_city: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Label ids, in folders of their city, as a test server would get them."""
    folder = tmp_path_factory.mktemp("predictions")
    for index, truth in enumerate(find_truths(tiny_city, "val")):
        path = folder / "results" / truth.id.split("_")[0] / f"{truth.id}_whatever.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png.encode(spoiled(read_truth(truth)[0], index)))
    (folder / "results" / "readme_of_this.png").write_bytes(b"no picture")
    return folder / "results"


def by_hand(tiny_city: Path, predictions: Path) -> OfficialScores:
    whole = OfficialScores()
    for truth in find_truths(tiny_city / "gtFine", "val"):
        ids, instances = read_truth(truth)
        whole.update(ids, instances, read_label(next(predictions.rglob(f"{truth.id}*.png"))))
    return whole


def test_a_folder_of_label_ids(tiny_city, predictions, tmp_path):
    result, folder = evaluate_folder(
        predictions, truth=tiny_city, out=tmp_path / "out", official_json=True, boundary=True
    )
    expected = by_hand(tiny_city, predictions).to_official()
    official = json.loads((folder / "official.json").read_text())
    assert set(official) == set(expected) and official["confMatrix"] == expected["confMatrix"]
    for part in ("classScores", "classInstScores", "categoryScores", "categoryInstScores"):
        # Images are added up in another order.
        assert official[part] == pytest.approx(expected[part], abs=1e-12)
    assert result["ids"] == "label" and result["images"] == 4 and result["unscored"] == 0
    assert result["miou"] == expected["averageScoreClasses"]
    assert result["category_miou"] == expected["averageScoreCategories"]
    assert result["instance"]["iiou"] == official["averageScoreInstClasses"]
    assert result["instance"]["category_iiou"] == official["averageScoreInstCategories"]
    assert result["instance"]["instances"] == result["objects"]["objects"] > 5
    assert result["classes"]["road"]["iou"] == expected["classScores"]["road"]
    assert result["boundary"]["iou"] is not None
    rows = json.loads((folder / "images.json").read_text())
    matrix = np.zeros((19, 19), int)
    for row in rows:
        for truth, said, count in row["counts"]:
            matrix[truth, said] += count
    assert matrix.tolist() == result["confusion_matrix"]
    assert (folder / "confusion.png").is_file()


def test_train_ids_are_told_apart_and_score_the_same(tiny_city, predictions, tmp_path):
    to_class = NINETEEN.lut()
    for path in predictions.rglob("*whatever.png"):
        target = tmp_path / "said" / "masks" / f"{path.stem}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(png.encode_indices(to_class[read_label(path)], NINETEEN.palette()))
        # What `segcli predict` also leaves there is not taken for a second prediction.
        (tmp_path / "said" / "overlays").mkdir(exist_ok=True)
        (tmp_path / "said" / "overlays" / target.name).write_bytes(b"")
    labels, _ = evaluate_folder(predictions, truth=tiny_city, out=tmp_path / "a")
    trained, _ = evaluate_folder(tmp_path / "said", truth=tiny_city, out=tmp_path / "b")
    assert trained["ids"] == "train"
    for name in ("miou", "instance", "category_miou", "confusion_matrix", "objects", "critical"):
        assert trained[name] == labels[name]
    with pytest.raises(DataError, match=r"is no train id, which go from 0 to 18.*--ids label"):
        evaluate_folder(predictions, truth=tiny_city, ids="train", out=tmp_path / "c")


def test_the_prepared_set_leads_to_its_cityscapes_tree(
    tiny_city, tiny_prepared, predictions, tmp_path
):
    one, _ = evaluate_folder(predictions, prepared=tiny_prepared, out=tmp_path / "a", limit=2)
    two, _ = evaluate_folder(predictions, truth=tiny_city, out=tmp_path / "b", limit=2)
    assert one == two and one["images"] == 2


def test_pngs_of_the_data_set_are_preferred_to_its_polygons(tiny_city, predictions, tmp_path):
    root = tmp_path / "city"
    for truth in find_truths(tiny_city, "val"):
        ids, instances = read_truth(truth)
        place = root / "gtFine" / "val" / "x"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{truth.id}_gtFine_labelIds.png").write_bytes(png.encode(ids))
        (place / f"{truth.id}_gtFine_instanceIds.png").write_bytes(png.encode(instances))
    assert all(t.labels.suffix == ".png" for t in find_truths(root, "val"))
    one, _ = evaluate_folder(predictions, truth=root, out=tmp_path / "a")
    two, _ = evaluate_folder(predictions, truth=tiny_city, out=tmp_path / "b")
    assert one["instance"] == two["instance"] and one["miou"] == two["miou"]
    for path in root.rglob("*instanceIds.png"):
        path.unlink()
    bare, _ = evaluate_folder(predictions, truth=root, out=tmp_path / "c")
    assert bare["instance"] is None and bare["miou"] == two["miou"]


def test_ignored_labels_that_are_predicted_count_as_wrong(tiny_city, predictions, tmp_path):
    folder = tmp_path / "said"
    folder.mkdir()
    for path in predictions.rglob("*whatever.png"):
        said = read_label(path)
        said[:, :20] = 29  # caravan
        (folder / path.name).write_bytes(png.encode(said))
    result, _ = evaluate_folder(folder, truth=tiny_city, out=tmp_path / "out")
    expected = by_hand(tiny_city, folder).to_official()
    assert result["miou"] == expected["averageScoreClasses"]
    average = expected["averageScoreInstCategories"]
    assert result["instance"]["category_iiou"] == pytest.approx(average, abs=1e-12)
    assert 0 < result["unscored"] <= 4 * 64 * 20


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda p: p.unlink(), "no prediction of 1 of 4 images, such as"),
        (lambda p: (p.parent / f"{p.stem}2.png").write_bytes(p.read_bytes()), "two predictions"),
        (lambda p: p.write_bytes(p.read_bytes()[:-30]), "truncated PNG"),
        (lambda p: p.write_bytes(png.encode(read_label(p)[:8])), r"prediction is \(8, 128\)"),
        (
            lambda p: p.write_bytes(png.encode(np.full((64, 128), 255, np.uint8))),
            "value 255 is no label id, which go from 0 to 33",
        ),
        (
            lambda p: p.write_bytes(cv2.imencode(".png", np.zeros((64, 128, 3), np.uint8))[1]),
            "RGB",
        ),
    ],
)
def test_what_cannot_be_scored_is_named(tiny_city, predictions, tmp_path, spoil, says):
    folder = tmp_path / "said"
    folder.mkdir()
    for path in predictions.rglob("*whatever.png"):
        (folder / path.name).write_bytes(path.read_bytes())
    spoil(sorted(folder.iterdir())[0])
    with pytest.raises(DataError, match=says):
        evaluate_folder(folder, truth=tiny_city, out=tmp_path / "out", ids="label")
    assert not (tmp_path / "out" / "scores.json").exists()


def test_what_cannot_be_meant(tiny_city, predictions, tmp_path):
    with pytest.raises(UsageError, match="--truth CITYSCAPES or --prepared"):
        evaluate_folder(predictions)
    with pytest.raises(DataError, match="no such folder"):
        evaluate_folder(tmp_path / "nothing", truth=tiny_city)
    with pytest.raises(DataError, match="no split 'valid' in Cityscapes"):
        evaluate_folder(predictions, truth=tiny_city, splits=["valid"])
    with pytest.raises(DataError, match="the folder above gtFine"):
        evaluate_folder(predictions, truth=tmp_path)


def test_a_prepared_set_of_another_kind(tmp_path):
    manifest = make_prepared(tmp_path)
    for sample in manifest.split("val"):
        said = np.minimum(read_label(sample.label), 3)
        path = tmp_path / "said" / f"{sample.id}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(png.encode(said))
    result, folder = evaluate_folder(tmp_path / "said", prepared=manifest.folder)
    assert result["miou"] == 1.0 and result["instance"] is None
    assert folder == tmp_path / "said-eval"
    assert len(json.loads((folder / "images.json").read_text())) == 5


def test_the_command_needs_no_torch(tiny_city, predictions, tmp_path):
    code = (
        "import sys\nfrom segcli.commands.app import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit as end:\n    assert not end.code\n"
        "assert 'torch' not in sys.modules"
    )
    words = ["--predictions", str(predictions), "--truth", str(tiny_city), "--json"]
    run = subprocess.run(
        [sys.executable, "-c", code, "eval", *words, "--out", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["images"] == 4


def test_a_submission_scores_as_the_run_did(tiny_prepared, tmp_path):
    run = tmp_path / "run"
    make_run(run, tiny_prepared, space=NINETEEN)
    extras = Extras(report=False, submission=tmp_path / "server", official_json=True)
    result, folder = evaluate_run(run, device="cpu", pictures=0, extras=extras)
    assert len(result["instance"]["classes"]) == 8 and result["objects"]["kind"] == "instances"
    official = json.loads((folder / "official.json").read_text())
    assert official["averageScoreClasses"] == pytest.approx(result["miou"], abs=1e-12)
    assert official["averageScoreInstClasses"] == result["instance"]["iiou"]
    source = load_manifest(tiny_prepared).source
    files = sorted((tmp_path / "server").iterdir())
    assert len(files) == 4
    for path in files:
        ids = read_label(path)
        assert ids.shape == (1024, 2048), "the size of the originals, not of these stamps"
        # The stamps are 1/16 of the size; resizing to the nearest is undone by picking.
        small = np.ascontiguousarray(ids[8::16, 8::16])
        (tmp_path / "back").mkdir(exist_ok=True)
        (tmp_path / "back" / path.name).write_bytes(png.encode(small))
    again, _ = evaluate_folder(tmp_path / "back", truth=source, ids="label", out=tmp_path / "o")
    assert again["confusion_matrix"] == result["confusion_matrix"]
    assert again["instance"] == result["instance"]


def test_what_cannot_be_submitted(tmp_path):
    with pytest.raises(UsageError, match="'camvid-11' cannot be submitted"):
        Submission(tmp_path, load_label_space("camvid-11"))
    with pytest.raises(UsageError, match="'cityscapes-categories' cannot be submitted"):
        Submission(tmp_path, load_label_space("cityscapes-categories"))
    with pytest.raises(DataError, match="city_sequence_frame"):
        Submission(tmp_path, NINETEEN).write("../x", np.zeros((4, 4), np.uint8))
