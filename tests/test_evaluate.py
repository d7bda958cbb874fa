"""`segcli eval` and the validation of training, on a few tiny pictures."""

from __future__ import annotations

import json
import math
import os

import numpy as np
import pytest
from PIL import Image
from tiny_run import SPACE, RedDecides, make_prepared, make_run, one_thread  # noqa: F401
from typer import Typer
from typer.testing import CliRunner

from segcli.commands.evaluate import evaluate
from segcli.data.images import read_image, read_label
from segcli.errors import CheckpointError, DataError, LabelSpaceError
from segcli.inference.predictor import Predictor
from segcli.labels import LabelClass, LabelSpace
from segcli.parallel import map_ahead
from segcli.recipes.evaluate import evaluate_model, evenly
from segcli.recipes.evaluate_run import evaluate_run
from segcli.runs import find_checkpoint, run_folder, run_to_resume


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_a_model_that_knows_the_truth_scores_one(world, batch_size):
    seen = []
    result = evaluate_model(
        Predictor(RedDecides(), SPACE),
        world.split("val"),
        SPACE,
        batch_size=batch_size,
        on_prediction=lambda item, prediction: seen.append((item.sample.id, prediction.shape)),
    )
    assert result.scores.miou == 1.0 and result.images == 5
    assert seen == [(s.id, s.size) for s in world.split("val")]
    assert result.matrix.sum() == sum(sum(s.pixels[:-1]) for s in world.split("val"))


def test_scores_equal_single_predictions_counted_by_hand(world):
    folder = find_checkpoint()
    result, out = evaluate_run(pictures=2, device="cpu")
    predictor = Predictor.from_checkpoint(folder, device="cpu")
    hits, union = np.zeros(4), np.zeros(4)
    for sample in world.split("val"):
        truth = read_label(sample.label, num_classes=4)
        said = predictor.predict(read_image(sample.image))
        for k in range(4):
            t, p = truth == k, (said == k) & (truth != 255)
            hits[k] += (t & p).sum()
            union[k] += (t | p).sum()
    assert result["miou"] == pytest.approx(np.mean((hits / union)[union > 0]))
    assert out.resolve() == world.folder.parent / "runs" / "demo" / "eval" / "val"
    stored = json.loads((out / "scores.json").read_text())
    assert stored == json.loads(json.dumps(result))
    assert stored["step"] == 7 and stored["images"] == 5
    assert sorted(p.name for p in (out / "pictures").iterdir()) == ["s0.png", "s2.png"]
    for name in ("confusion.png", "pictures/s0.png"):
        with Image.open(out / name) as picture:
            picture.verify()


def test_limit_pictures_and_last(world, tmp_path):
    make_run(tmp_path / "runs" / "demo", world.folder, name="last")
    result, out = evaluate_run(
        tmp_path / "runs" / "demo" / "last", limit=2, pictures=0, device="cpu"
    )
    assert result["images"] == 2
    assert out.name == "val-last-2" and not (out / "pictures").exists()


def test_evenly():
    assert evenly(list(range(10)), 3) == [0, 3, 6]
    assert evenly(list(range(2)), 3) == [0, 1]
    assert evenly(list(range(10)), None) == list(range(10))
    assert evenly(list(range(10)), 0) == []


def test_an_empty_split_is_named(world):
    with pytest.raises(DataError, match="no samples in split 'test'"):
        evaluate_run(splits=["test"], device="cpu")


def test_data_that_moved_away(world, tmp_path):
    world.folder.rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="--prepared"):
        evaluate_run(device="cpu")
    result, _ = evaluate_run(prepared=tmp_path / "elsewhere", device="cpu", pictures=0)
    assert result["images"] == 5


def test_another_label_space_is_refused(world, tmp_path):
    renamed = (*SPACE.classes[:3], LabelClass("clouds", (1, 2, 3), (3,), "sky"))
    other = make_run(tmp_path / "o", world.folder, space=LabelSpace("other", "indices", renamed))
    with pytest.raises(LabelSpaceError, match="class 3 is 'clouds' in 'other' and 'sky'"):
        evaluate_run(other, device="cpu")


def test_a_label_of_another_size_than_its_image(world):
    sample = world.split("val")[0]
    sample.image.write_bytes(world.split("val")[1].image.read_bytes())
    with pytest.raises(DataError, match=r"label is 56x40, its image 64x48"):
        evaluate_run(device="cpu")


def test_all_ignored_labels_give_null(world, tmp_path):
    from segcli.png import encode_indices

    for sample in world.split("val"):
        nothing = np.full(sample.size, 255, np.uint8)
        sample.label.write_bytes(encode_indices(nothing, SPACE.palette()))
    result = evaluate_model(Predictor(RedDecides(), SPACE), world.split("val"))
    assert math.isnan(result.scores.miou)
    assert result.to_dict()["miou"] is None


def application() -> Typer:
    app = Typer()
    app.command()(evaluate)
    return app


def test_json_on_stdout_is_all_there_is(world):
    run = CliRunner().invoke(application(), ["--json", "--pictures", "0", "--device", "cpu"])
    assert run.exit_code == 0, run.stderr
    assert json.loads(run.stdout)["splits"] == ["val"]
    assert "mIoU" in run.stderr


def test_the_table_names_every_class(world):
    run = CliRunner().invoke(application(), ["runs/demo", "--pictures", "0", "--device", "cpu"])
    assert run.exit_code == 0
    for word in (*SPACE.class_names, "flat", "mIoU", "pixel accuracy", "eval/val"):
        assert word in run.stdout


def test_finding_checkpoints(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="segcli train"):
        find_checkpoint()
    old = make_run(tmp_path / "runs" / "z-old", tmp_path)
    new = make_run(tmp_path / "runs" / "a-new", tmp_path, name="last")
    (tmp_path / "runs" / "zz-empty").mkdir()
    os.utime(old / "checkpoint.json", (1, 1))
    assert find_checkpoint().resolve() == new
    assert find_checkpoint(tmp_path / "runs" / "z-old") == old
    assert find_checkpoint(old) == old
    assert find_checkpoint(old / "model.safetensors") == old
    assert find_checkpoint(tmp_path / "runs").resolve() == new
    assert run_folder(old) == old.parent
    alone = old.rename(tmp_path / "alone")
    assert find_checkpoint(alone) == alone and run_folder(alone) == alone
    new.rename(new.with_name("last.previous"))
    assert find_checkpoint(tmp_path / "runs" / "a-new").name == "last"
    for stamp in ("20260102-030405", "20250102-030405", "20260102-030405-2"):
        make_run(tmp_path / "runs" / f"fpn-{stamp}", tmp_path)
    (tmp_path / "runs" / "fpn-20270102-030405").mkdir()
    # The second of two that began in one second.
    newest = tmp_path / "runs" / "fpn-20260102-030405-2" / "best"
    assert find_checkpoint(tmp_path / "runs" / "fpn") == newest
    assert find_checkpoint(tmp_path / "runs" / "fpn" / "best") == newest
    (newest.parent / "config.yaml").write_text("{}")
    for name in ("fpn", "fpn/best", newest.parent.name, f"{newest.parent.name}/last.previous"):
        assert run_to_resume(tmp_path / "runs" / name) == newest.parent
    for wrong, why in (("fp", "no such run"), ("zz-empty", r"no config\.yaml")):
        with pytest.raises(CheckpointError, match=why):
            run_to_resume(tmp_path / "runs" / wrong)
    for wrong in ("nowhere", "runs/zz-empty", "file.txt", "runs/fp", "runs/fpn/last", "a/b/c"):
        (tmp_path / "file.txt").write_text("x")
        with pytest.raises(CheckpointError):
            find_checkpoint(tmp_path / wrong)


def test_map_ahead_keeps_order_bounds_and_errors():
    begun = []

    def items():
        for i in range(100):
            begun.append(i)
            yield i

    results = map_ahead(lambda i: i * i, items(), threads=2, ahead=3)
    assert next(results) == 0
    assert len(begun) <= 4, "no more than a few ahead"
    assert list(results) == [i * i for i in range(1, 100)]
    failing = map_ahead(lambda i: 1 // (2 - i), range(5), threads=2)
    assert next(failing) == 0 and next(failing) == 1
    with pytest.raises(ZeroDivisionError):
        next(failing)
