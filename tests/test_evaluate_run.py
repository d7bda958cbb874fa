"""`segcli eval` of a run: what stands in scores.json, and what it leaves with the checkpoint."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest
from tiny_run import make_prepared, make_run, one_thread  # noqa: F401
from typer import Typer
from typer.testing import CliRunner

from segcli.checkpoint import load_checkpoint
from segcli.commands.evaluate import evaluate
from segcli.data.images import read_image, read_label
from segcli.data.manifest import load_manifest, write_manifest
from segcli.errors import UsageError
from segcli.inference.predictor import Predictor
from segcli.inference.tta import TTA
from segcli.metrics.calibration import BINS
from segcli.recipes.evaluate import predict_samples
from segcli.recipes.evaluate_run import evaluate_run
from segcli.recipes.evaluate_setup import Extras
from segcli.temperature import stored_temperature

QUICK = Extras(report=False)


def test_the_images_add_up_to_the_whole(world):
    result, folder = evaluate_run(device="cpu", pictures=0, extras=QUICK)
    rows = json.loads((folder / "images.json").read_text())
    assert [(r["id"], r["split"]) for r in rows] == [(s.id, "val") for s in world.split("val")]
    whole = np.zeros((4, 4), int)
    for row in rows:
        own = np.zeros((4, 4), int)
        for truth, said, count in row["counts"]:
            own[truth, said] = count
        whole += own
        assert row["pixel_accuracy"] == pytest.approx(own.trace() / own.sum())
        assert row["image"].endswith(f"{row['id'][1:]}.png")
    assert whole.tolist() == result["confusion_matrix"]
    frequency = whole.sum(1) / whole.sum()
    iou = [result["classes"][name]["iou"] for name in ("ground", "kerb", "house", "sky")]
    assert result["frequency_weighted_iou"] == pytest.approx(
        sum(f * i for f, i in zip(frequency, iou, strict=True) if f)
    )
    assert result["boundary"]["by_distance"][0]["pixels"] > 0
    assert result["instance"] is None and result["critical"] is None, "nobody lives here"
    assert result["objects"]["kind"] == "components" and result["objects"]["objects"] > 10
    assert result["tta"] is None and result["stress"] is None


@pytest.mark.parametrize("tta", [None, TTA(scales=(1.0, 1.5))])
def test_sureness_is_that_of_the_probabilities(world, tta):
    predictor = Predictor.from_checkpoint("runs/demo/best", device="cpu", tta=tta)
    samples = world.split("val")[:3]
    places = np.array([0, 5, 70, 71, 1000, 1999])
    for one in predict_samples(predictor, samples, places=lambda truth, index: places):
        p = predictor.probabilities([one.item.image])[0].numpy()
        assert (one.prediction == p.argmax(0)).mean() > 0.999
        assert np.allclose(one.sureness.confidence, p.max(0), atol=1e-5)
        logits = one.sureness.logits
        soft = np.exp(logits - logits.max(1, keepdims=True))
        soft /= soft.sum(1, keepdims=True)
        assert np.allclose(soft, p.reshape(4, -1).T[places], atol=1e-5)


def test_reliability_counts_every_labelled_pixel(world):
    result, _ = evaluate_run(device="cpu", pictures=0, extras=QUICK)
    assert result["calibration"]["pixels"] == result["pixels"]
    assert len(result["calibration"]["bins"]) == BINS
    predictor = Predictor.from_checkpoint("runs/demo/best", device="cpu")
    gap = np.zeros(BINS)
    for sample in world.split("val"):
        truth = read_label(sample.label)
        p = predictor.probabilities([read_image(sample.image)])[0].numpy()
        known, sure = truth != 255, p.max(0)
        place = np.minimum((sure * BINS).astype(int), BINS - 1)[known]
        hit = (p.argmax(0) == truth)[known]
        gap += np.bincount(place, sure[known], BINS) - np.bincount(place, hit, BINS)
    assert result["calibration"]["ece"] == pytest.approx(
        np.abs(gap).sum() / result["pixels"], abs=1e-3
    )


def test_the_temperature_stays_with_the_weights(world, tmp_path):
    checkpoint = tmp_path / "runs" / "demo" / "best"
    result, _ = evaluate_run(device="cpu", pictures=0, extras=QUICK)
    assert result["calibration"]["temperature"] > 0
    # Training saw the split that is evaluated only where the run says so.
    assert stored_temperature(checkpoint) == result["calibration"]["temperature"]
    load_checkpoint(checkpoint)  # still whole
    predictor = Predictor.from_checkpoint(checkpoint, device="cpu")
    image = read_image(world.split("val")[0].image)
    cooled = (predictor.logits([image]) / predictor.temperature).softmax(1).amax(1).numpy()
    assert predictor.temperature == stored_temperature(checkpoint)
    assert np.allclose(predictor.confident([image])[1], cooled, atol=1e-6)
    make_run(tmp_path / "other", world.folder)
    shutil.copy(checkpoint / "calibration.json", tmp_path / "other" / "best")
    assert stored_temperature(tmp_path / "other" / "best") == stored_temperature(checkpoint)
    description = tmp_path / "other" / "best" / "checkpoint.json"
    text = description.read_text()
    weights = json.loads(text)["files"]["model.safetensors"]
    description.write_text(text.replace(weights, "0" * 64))
    assert stored_temperature(tmp_path / "other" / "best") is None, "of other weights"
    for spoiled in ("{}", "[1]", '{"temperature": -1, "weights": "x"}', "no json"):
        (checkpoint / "calibration.json").write_text(spoiled)
        assert stored_temperature(checkpoint) is None


@pytest.mark.parametrize(
    "how", [{"limit": 3}, {"splits": ["train"]}, {"extras": Extras(report=False, tta=TTA())}]
)
def test_no_temperature_is_kept_from_part_of_the_data_or_from_training_data(world, how):
    result, _ = evaluate_run(device="cpu", pictures=0, **{"extras": QUICK, **how})
    assert result["calibration"]["temperature"] is not None
    assert stored_temperature(world.folder.parent / "runs" / "demo" / "best") is None


def test_other_data_never_take_the_place_of_the_runs_own(world, tmp_path):
    own_data = {"fingerprint": world.fingerprint()}
    checkpoint = make_run(tmp_path / "runs" / "demo", world.folder, data=own_data)
    own, folder = evaluate_run(device="cpu", pictures=3, extras=QUICK)
    temperature = stored_temperature(checkpoint)
    moved = shutil.copytree(world.folder, tmp_path / "moved")
    _, same = evaluate_run(prepared=moved, device="cpu", pictures=1, extras=QUICK)
    assert same == folder, "the same data elsewhere"
    assert len(list((folder / "pictures").iterdir())) == 1, "no panels of the evaluation before"
    manifest = load_manifest(moved)
    write_manifest(dataclasses.replace(manifest, splits={"val": manifest.split("val")[:2]}))
    found, place = evaluate_run(prepared=moved, device="cpu", pictures=0, extras=QUICK)
    assert found["images"] == 2 and place == folder.with_name("val-moved")
    assert json.loads((folder / "scores.json").read_text())["images"] == own["images"]
    assert stored_temperature(checkpoint) == temperature


def test_another_precision_never_takes_the_place_of_the_runs_own(world, tmp_path):
    checkpoint = make_run(tmp_path / "runs" / "demo", world.folder)
    own, folder = evaluate_run(device="cpu", pictures=0, extras=QUICK)
    kept = (checkpoint / "calibration.json").read_bytes()
    assert own["precision"] == "fp32" and folder.name == "val"
    _, same = evaluate_run(device="cpu", pictures=0, precision="fp32", extras=QUICK)
    assert same == folder
    found, place = evaluate_run(device="cpu", pictures=0, precision="bf16", extras=QUICK)
    assert found["precision"] == "bf16" and place == folder.with_name("val-bf16")
    assert (checkpoint / "calibration.json").read_bytes() == kept
    assert json.loads((folder / "scores.json").read_text())["precision"] == "fp32"


def test_a_checkpoint_that_cannot_be_written_to_is_no_error(world, monkeypatch):
    from segcli.errors import OutputError
    from segcli.recipes import evaluate_run as recipe

    def refuse(*_):
        raise OutputError("cannot write", file="there")

    monkeypatch.setattr(recipe, "store_temperature", refuse)
    result, _ = evaluate_run(device="cpu", pictures=0, extras=QUICK)
    assert result["calibration"]["temperature"] is not None


def test_tta_and_stress_stand_in_the_scores(world):
    extras = Extras(report=False, tta=TTA(scales=(1.0,)), stress=True, boundary=False)
    result, folder = evaluate_run(device="cpu", pictures=0, limit=2, extras=extras)
    assert folder.name == "val-2-tta" and result["views"] == ["1x", "1x flipped"]
    assert result["boundary"] is None
    assert result["tta"]["images"] == 2
    assert set(result["stress"]["kinds"]) == {
        "rain", "snow", "fog", "night", "blur", "noise", "drops",
    }  # fmt: skip
    assert json.loads((folder / "scores.json").read_text()) == json.loads(json.dumps(result))


def test_official_scores_need_cityscapes(world, tmp_path):
    with pytest.raises(UsageError, match="no official scores"):
        evaluate_run(device="cpu", extras=Extras(official_json=True))
    with pytest.raises(UsageError, match="'tiny' cannot be submitted"):
        evaluate_run(device="cpu", extras=Extras(submission=tmp_path / "server"))


def run_command(*words: str):
    app = Typer()
    app.command()(evaluate)
    return CliRunner().invoke(app, [*words, "--device", "cpu", "--pictures", "0"])


def test_the_command_writes_a_report_unless_told_not_to(world, tmp_path):
    run = run_command("--no-calibration", "--limit", "2")
    assert run.exit_code == 0, run.output
    assert (tmp_path / "runs/demo/eval/val-2/report/index.html").is_file()
    assert "boundary F-score" in run.output
    run = run_command("--no-report", "--no-boundary", "--out", "plain", "--json", "--limit", "2")
    assert run.exit_code == 0 and not (tmp_path / "plain" / "report").exists()
    assert json.loads(run.stdout)["boundary"] is None


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--tta", "--scales", "big"], "takes numbers, not 'big'"),
        (["--tta", "--scales", "1,1"], "not scales of TTA"),
        (["--scales", "1,2"], "what --tta averages"),
        (["--no-flip"], "what --tta averages"),
        (["--predictions", ".", "--tta"], "scored as it is"),
        (["--predictions", ".", "--pictures", "2"], "scored as it is"),
        (["runs/demo", "--predictions", "."], "scored as it is"),
    ],
)
def test_what_cannot_be_meant_is_refused(world, words, says):
    run = run_command(*words)
    assert isinstance(run.exception, UsageError) and says in str(run.exception)
