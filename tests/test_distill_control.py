"""The teacher is looked at, the student is held to its control, and what makes that fair."""

from __future__ import annotations

import copy
import dataclasses
import shutil
from pathlib import Path

import pytest
from conftest import TINY
from tiny_distill import (
    CPU,
    NOTHING,
    Listener,
    config,
    one_thread,
    run,
    same,
    state,
    teacher,
    whole,
)

from segcli import checkpoint
from segcli.commands.train import Folders
from segcli.config_file import load_config
from segcli.data.manifest import load_manifest
from segcli.distributed import World
from segcli.errors import CheckpointError, ConfigError
from segcli.optim.precision import Precision
from segcli.recipes.distill import CONTROL, Asked, WeakTeacherError, distill
from segcli.recipes.distill_config import control_config, student_config
from segcli.recipes.distill_control import Job
from segcli.recipes.distill_teacher import describe_teacher, load_teacher
from segcli.recipes.evaluate import evaluate_model
from segcli.recipes.train import train
from segcli.recipes.training_guard import Interrupted
from segcli.reporting.events import NullReporter

__all__ = ["one_thread", "teacher"]


def test_a_teacher_that_is_no_better_is_refused_unless_insisted_on(
    tiny_prepared: Path, tmp_path: Path, teacher: Path
) -> None:
    with pytest.raises(WeakTeacherError, match="no better than the student's own"):
        whole(tiny_prepared, tmp_path / "run", teacher, baseline=teacher)
    heard = Listener()
    one = "train.stages=[{size: [32, 64], epochs: 1, batch_size: 12}]"
    folder = tmp_path / "insisted"
    whole(tiny_prepared, folder, teacher, one, baseline=teacher, insist=True, reporter=heard)
    assert any("no better" in text for text in heard.warnings)
    assert any(line.startswith("teacher: val mIoU") for line in heard.lines)


def test_a_control_is_the_student_alone_and_known_the_next_time(
    tiny_prepared: Path, tmp_path: Path, teacher: Path
) -> None:
    heard = Listener()
    options = {"control": True, "insist": True}
    settings = ("distill.coarse=[train_extra]", "distill.unlabelled=[val]")
    first = tmp_path / "runs" / "first"
    result = whole(tiny_prepared, first, teacher, *settings, reporter=heard, **options)
    assert any(line.startswith("teacher and coarse labels agree on") for line in heard.lines)
    assert result.gain is not None
    control = checkpoint.load_checkpoint(first / CONTROL / "last")
    student = checkpoint.load_checkpoint(first / "last")
    assert result.gain.control[0] == pytest.approx(control.scores["miou"])
    assert result.gain.student[0] == pytest.approx(student.scores["miou"])
    assert control.step == student.step
    assert control.training["distill"]["losses"] == {}
    second = tmp_path / "runs" / "second"
    again = whole(tiny_prepared, second, teacher, *settings, reporter=heard, **options)
    assert not (second / CONTROL).exists()
    assert again.gain == result.gain
    # Another student is another matter.
    options["control"] = False
    whole(tiny_prepared, tmp_path / "runs" / "third", teacher, "train.seed=3", **options)
    assert sum(line.startswith("the student alone is known") for line in heard.lines) == 1


def test_a_control_without_coarse_labels_is_plain_training(
    tiny_prepared: Path, tmp_path: Path, teacher: Path
) -> None:
    settings = config(tiny_prepared, "distill.unlabelled=[val]", "distill.coarse_weight=0")
    assert control_config(settings).distill is None
    folder = tmp_path / "run"
    whole(tiny_prepared, folder, teacher, control=True, insist=True)
    plain = load_config("fpn.yaml", [*TINY, f"data.prepared={tiny_prepared}"])
    train(plain, folder=tmp_path / "plain", device=CPU, reporter=NullReporter())
    assert same(state(folder / CONTROL)["model"], state(tmp_path / "plain")["model"])


# --- which config ----------------------------------------------------------------------------


def test_without_a_config_the_student_trains_as_its_teacher_did(
    tiny_prepared: Path, teacher: Path, in_tmp: Path
) -> None:
    trained = describe_teacher(teacher)
    found, said = student_config(None, trained)
    assert found.data.prepared == str(tiny_prepared)
    assert found.model.encoder == "mobilenet_v2"
    assert found.model.weights is None
    assert found.train.stages[0].size == (32, 64)
    assert (found.model.width, found.model.head_width) == (24, 24), "no wider than the teacher's"
    assert found.distill is not None
    assert found.distill.teacher == str((teacher / "best").resolve())
    assert found.distill.unlabelled == ("demoVideo", "train")
    assert len(said) == 3 and "random" in said[1] and "distill.unlabelled=[]" in said[2]
    assert found.distill.losses == {"pixel": 3}, "from random weights"
    without, said = student_config(None, trained, ["distill.unlabelled=[]"])
    assert without.distill is not None
    assert without.distill.unlabelled == () and len(said) == 2
    named, said = student_config("demo_distill.yaml", trained, ["train.seed=4"])
    assert named.data.prepared == str(tiny_prepared)
    assert named.train.stages[0].size == (128, 256)
    assert named.train.seed == 4
    assert said == [f"data of the teacher's checkpoint: {tiny_prepared}"]


def test_overrides_never_lose_the_teacher(teacher: Path, in_tmp: Path) -> None:
    trained, own = describe_teacher(teacher), str((teacher / "best").resolve())
    for override in ("distill={losses: {pixel: 3}}", "distill.teacher=null"):
        found, said = student_config(None, trained, [override])
        assert found.distill is not None and found.distill.teacher == own
        assert found.distill.unlabelled == ("demoVideo", "train") and "demoVideo" in said[-1]
    with pytest.raises(ConfigError, match="distill is null"):
        student_config(None, trained, ["distill=null"])


def test_what_stops_early_has_no_control(
    tiny_prepared: Path, tmp_path: Path, teacher: Path
) -> None:
    with pytest.raises(ConfigError, match="patience"):
        whole(tiny_prepared, tmp_path, teacher, "train.patience=1", control=True, insist=True)


# --- what a fair comparison needs ------------------------------------------------------------


def test_student_and_control_compute_alike(
    tiny_prepared: Path, tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = iter([Precision("bf16", True), Precision("fp32", False)])
    monkeypatch.setattr(
        "segcli.recipes.training_setup.choose_precision", lambda *a, **k: (next(measured), {})
    )
    free = ("train.precision=auto", "train.channels_last=null")
    whole(tiny_prepared, tmp_path / "run", teacher, *free, control=True, insist=True)
    student = checkpoint.load_checkpoint(tmp_path / "run" / "last").inference
    control = checkpoint.load_checkpoint(tmp_path / "run" / CONTROL / "last").inference
    assert control["precision"] == "bf16"
    assert student == control


def test_validation_pictures_among_the_extra_ones_are_named(
    tiny_prepared: Path, tmp_path: Path, teacher: Path
) -> None:
    heard = Listener()
    both = ("distill.coarse=[val]", "distill.unlabelled=[val]", "distill.fine_only=0.5")
    whole(tiny_prepared, tmp_path / "run", teacher, *both, NOTHING, reporter=heard)
    for kind in ("coarse", "unlabelled"):
        assert any(f"distill.{kind} holds" in text for text in heard.warnings)
    quiet = Listener()
    whole(
        tiny_prepared, tmp_path / "other", teacher, "distill.coarse=[train_extra]", reporter=quiet
    )
    assert not any("validated on" in text for text in quiet.warnings)


def test_validation_pictures_that_student_or_teacher_were_trained_on_are_counted(
    tiny_prepared: Path, tmp_path: Path, teacher: Path
) -> None:
    leaky, both = tmp_path / "leaky", "data.train=[train, val]"
    train(config(tiny_prepared, both), folder=leaky, device=CPU, reporter=NullReporter())
    # Another prepared folder that joins in makes other data, of the same pictures.
    other = tmp_path / "pseudo"
    shutil.copytree(tiny_prepared, other)
    heard = Listener()
    settings = (both, f"distill.coarse=[{other}]")
    whole(tiny_prepared, tmp_path / "run", leaky, *settings, reporter=heard)
    count = len(load_manifest(tiny_prepared).split("val"))
    for what in ("data.train holds", "the teacher was trained on"):
        assert any(text.startswith(f"{what} {count} of the") for text in heard.warnings), what


def test_a_student_from_random_weights_learns_all_over(teacher: Path, in_tmp: Path) -> None:
    """What spares the weights that its teacher began with would keep it from learning."""
    trained = describe_teacher(teacher)
    spares = {"freeze_encoder": 5, "freeze_batchnorm": "all", "optimizer": {"lr": 2e-3}}
    training = copy.deepcopy(dict(trained.training))
    training["train"] |= spares
    training["train"]["stages"][-1]["freeze_stride"] = 4
    training["model"]["weights"] = "resnet18.pth"
    found, said = student_config(None, dataclasses.replace(trained, training=training))
    assert found.model.weights is None and any("another encoder's" in line for line in said)
    assert found.train.freeze_encoder == 0 and found.train.freeze_batchnorm == "none"
    assert found.train.stages[-1].freeze_stride == 0
    assert found.train.optimizer.encoder_lr_factor == 1 and found.train.optimizer.lr == 2e-3
    # Of an encoder of timm no part can be frozen, whatever the teacher's was.
    other = dataclasses.replace(trained, training=training)
    found, _ = student_config(None, other, ["model={encoder: 'timm:resnet10t', weights: imagenet}"])
    assert found.train.stages[-1].freeze_stride == 0
    # A teacher that was random itself has shown what it takes; so has one of the same encoder.
    training["model"]["weights"] = None
    found, _ = student_config(None, dataclasses.replace(trained, training=training))
    assert found.train.freeze_encoder == 5 and found.train.stages[-1].freeze_stride == 4
    training["model"] |= {"weights": "mobilenet.pth", "encoder": "mobilenet_v2"}
    found, _ = student_config(None, dataclasses.replace(trained, training=training))
    assert found.train.freeze_encoder == 5 and found.model.weights == "mobilenet.pth"


def test_folders_that_joined_the_teachers_data_are_found_from_elsewhere(
    tiny_prepared: Path, tmp_path: Path, teacher: Path, in_tmp: Path
) -> None:
    trained = describe_teacher(teacher)
    training = copy.deepcopy(dict(trained.training))
    training["data"]["train"] = ["train", "pseudo"]
    data = {**trained.data, "label_sources": {"train": "train", "pseudo": str(tiny_prepared)}}
    found, _ = student_config(None, dataclasses.replace(trained, training=training, data=data))
    assert found.data.train == ("train", str(tiny_prepared))


def test_a_teacher_is_scored_on_pictures_of_the_students_size(
    tiny_prepared: Path, tmp_path: Path, teacher: Path
) -> None:
    heard = Listener()
    whole(tiny_prepared, tmp_path / "run", teacher, "eval.size=[16, 32]", reporter=heard)
    (line,) = (text for text in heard.lines if text.startswith("teacher: val mIoU"))
    at_size = float(line.split("of the student's size ")[1].split()[0])
    predictor = load_teacher(teacher).predictor(CPU, own_size=False, size=(16, 32))
    manifest = load_manifest(tiny_prepared)
    found = evaluate_model(predictor, manifest.split("val"), manifest.label_space)
    assert at_size == pytest.approx(found.scores.miou, abs=1e-4)


def test_what_does_not_go_together_is_said_before_the_control_is_trained(
    tiny_prepared: Path, tmp_path: Path, teacher: Path
) -> None:
    heard = Listener()
    soft = ("data.soft_targets=true", "distill.unlabelled=[val]")
    with pytest.raises(ConfigError, match="soft targets"):
        whole(tiny_prepared, tmp_path / "run", teacher, *soft, control=True, reporter=heard)
    assert not (tmp_path / "run" / CONTROL).exists()
    assert not any(line.startswith("teacher:") for line in heard.lines)


def test_a_run_that_goes_on_remembers_what_was_asked(
    tiny_prepared: Path, tmp_path: Path, teacher: Path
) -> None:
    first, second = tmp_path / "runs" / "first", tmp_path / "runs" / "second"
    whole(tiny_prepared, first, teacher, control=True, insist=True)
    with pytest.raises(Interrupted):
        whole(tiny_prepared, second, teacher, control=True, insist=True, reporter=Listener(2))
    assert not (second / CONTROL).exists()
    result = whole(tiny_prepared, second, teacher, resume=second / "last", goes_on=True)
    assert result.gain is not None
    assert (second / "gain.json").is_file()


def test_a_run_that_begins_anew_is_asked_anew(
    tiny_prepared: Path, tmp_path: Path, teacher: Path
) -> None:
    folder = tmp_path / "run"
    job = Job(
        config(tiny_prepared), folder, CPU, World(), load_manifest(tiny_prepared), NullReporter()
    )
    (folder / CONTROL).mkdir(parents=True)
    asked = Asked(control=True, baseline=teacher)
    assert asked.kept(job, goes_on=False) == asked
    assert Asked().kept(job, goes_on=True).control
    assert Asked().kept(job, goes_on=False) == Asked()
    assert Asked().kept(job, goes_on=True) == Asked(), "what was given up comes back"


def test_a_baseline_given_to_a_run_that_goes_on_is_compared_with(
    tiny_prepared: Path, tmp_path: Path, teacher: Path
) -> None:
    folder = tmp_path / "run"
    with pytest.raises(Interrupted):
        whole(tiny_prepared, folder, teacher, reporter=Listener(2))
    options = {"resume": folder / "last", "goes_on": True}
    with pytest.raises(WeakTeacherError, match="no better than the student's own"):
        whole(tiny_prepared, folder, teacher, baseline=teacher, **options)
    # What the run remembers it has been told of: it just goes on.
    heard = Listener()
    whole(tiny_prepared, folder, teacher, reporter=heard, **options)
    assert not any(line.startswith("teacher:") for line in heard.lines)
    assert (folder / "last" / "checkpoint.json").is_file()


def test_a_run_does_not_go_on_with_other_extra_pictures(
    tiny_prepared: Path, tmp_path: Path, teacher: Path
) -> None:
    folder = tmp_path / "run"
    with pytest.raises(Interrupted):
        run(tiny_prepared, folder, teacher, "distill.coarse=[train_extra]", reporter=Listener(2))
    with pytest.raises(CheckpointError, match="other extra pictures"):
        run(tiny_prepared, folder, teacher, "distill.unlabelled=[val]", resume=True)


def test_torchrun_goes_on_with_a_run_whose_control_was_being_trained(
    tiny_prepared: Path, tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segcli.distributed.launcher", lambda: "job-7")
    folder = tmp_path / "runs" / "run"

    class Stopping(Listener):
        def done(self) -> None:
            """A control's reporter is done with when it is."""

    settings = config(tiny_prepared)
    with pytest.raises(Interrupted):
        distill(
            settings,
            folder=folder,
            device=CPU,
            reporter=NullReporter(),
            reporter_for=lambda place: Stopping(2),
            teacher=teacher,
            asked=Asked(control=True, insist=True),
        )
    assert Folders(None, None, tmp_path / "runs", "run").place(settings) == (folder, True)
    assert Folders(None, folder, tmp_path / "runs", "run").place(settings) == (folder, True)


def test_a_default_that_does_not_fit_the_teacher_is_not_taken(
    tiny_prepared: Path, teacher: Path
) -> None:
    trained = describe_teacher(teacher)
    soft = {**trained.training, "data": {**trained.training["data"], "soft_targets": True}}
    found, _ = student_config(None, dataclasses.replace(trained, training=soft))
    assert found.distill is not None and found.distill.unlabelled == ()
    model = {**trained.training["model"], "weights": "resnet18.pth"}
    local = {**trained.training, "model": model}
    found, said = student_config(None, dataclasses.replace(trained, training=local))
    assert found.model.weights is None
    assert any("random weights" in line for line in said)
    half = {**model, "encoder": "mobilenet_v2", "width_mult": 0.5, "weights": None}
    small = {**trained.training, "model": half}
    found, _ = student_config(None, dataclasses.replace(trained, training=small))
    assert found.model.width_mult == 0.5, "no wider than the teacher's"
