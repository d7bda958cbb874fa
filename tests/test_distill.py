"""Distillation on the tiny city: losses, teacher, extra pictures, cockpit, resuming."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY
from tiny_distill import (
    CPU,
    EVERYTHING,
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
from tiny_run import SPACE, make_run, write_image
from video_zoo import clip

from segcli import checkpoint
from segcli.config_file import load_config
from segcli.data.dataset import StageBatches
from segcli.data.manifest import load_manifest
from segcli.data.mixing import UNLABELLED, Extra, MixedBatches, MixedDataset
from segcli.data.transforms import TrainTransform
from segcli.errors import CheckpointError, ConfigError, DataError, LabelSpaceError
from segcli.inference.network import TorchBackend
from segcli.recipes.distill_cockpit import Cockpit
from segcli.recipes.distill_config import student_config
from segcli.recipes.distill_data import find_extra, prepare_frames
from segcli.recipes.distill_teacher import (
    Teacher,
    check_sizes,
    describe_teacher,
    digest,
    load_teacher,
)
from segcli.recipes.prepare import prepare_labels
from segcli.recipes.train import train
from segcli.recipes.training_guard import Interrupted
from segcli.reporting.events import NullReporter

__all__ = ["one_thread", "teacher"]


def test_without_weights_it_is_plain_training_bit_for_bit(
    tiny_prepared: Path, tmp_path: Path, teacher: Path
) -> None:
    rich = ("model.dropout=0.2", "train.optimizer.clip_norm=1")
    settings = load_config("fpn.yaml", [*TINY, *rich, f"data.prepared={tiny_prepared}"])
    train(settings, folder=tmp_path / "plain", device=CPU, reporter=NullReporter())
    unused = ("distill.unlabelled=[val]", "distill.coarse=[train_extra]", "distill.coarse_weight=0")
    run(tiny_prepared, tmp_path / "taught", teacher, NOTHING, *unused, *rich)
    plain, taught = state(tmp_path / "plain"), state(tmp_path / "taught")
    assert same(plain["model"], taught["model"])
    assert same(plain["average"], taught["average"])
    run(tiny_prepared, tmp_path / "other", teacher, *rich)
    assert not same(plain["model"], state(tmp_path / "other")["model"])


def test_the_teacher_stays_what_it_is_and_out_of_the_student(
    tiny_prepared: Path, tmp_path: Path, teacher: Path
) -> None:
    taught = load_teacher(teacher)
    files = {p: p.read_bytes() for p in (teacher / "best").iterdir()}
    before = {k: v.clone() for k, v in taught.model.state_dict().items()}
    run(tiny_prepared, tmp_path / "run", taught, *EVERYTHING)
    assert all(torch.equal(v, before[k]) for k, v in taught.model.state_dict().items())
    assert any("running_mean" in name for name in before)
    assert digest(taught.model) == taught.digest
    assert not any(module.training for module in taught.model.modules())
    assert all(p.grad is None for p in taught.model.parameters())
    assert all(path.read_bytes() == data for path, data in files.items())
    alone = tmp_path / "alone"
    settings = load_config("fpn.yaml", [*TINY, f"data.prepared={tiny_prepared}"])
    train(settings, folder=alone, device=CPU, reporter=NullReporter())
    student = checkpoint.load_checkpoint(tmp_path / "run" / "last")
    assert student.state_dict.keys() == checkpoint.load_checkpoint(alone / "last").state_dict.keys()


@pytest.mark.parametrize("compiled", ["off", pytest.param("on", marks=pytest.mark.slow)])
def test_the_cockpit_shows_every_loss_its_share_and_the_discriminator(
    tiny_prepared: Path, tmp_path: Path, teacher: Path, compiled: str
) -> None:
    heard = Listener()
    settings = (*EVERYTHING, f"train.compile={compiled}")
    run(tiny_prepared, tmp_path / "run", teacher, *settings, reporter=heard)
    terms = ("pixel", "channel", "pairwise", "feature", "holistic")
    for name in (*(f"distill/{t}" for t in terms), "distill/agreement", "coarse/agreement"):
        assert np.isfinite(heard.scalars[name]).all(), name
    assert {"discriminator/loss", "discriminator/accuracy"} <= heard.scalars.keys()
    shares = [heard.scalars[f"share/{t}"] for t in ("supervised", "coarse", *terms)]
    for row in zip(*(s[:2] for s in shares), strict=True):
        assert sum(row) == pytest.approx(1)
    # Steps 0, 2 and 4 are measured; of 6 the last two have fine pictures alone.
    assert len(heard.scalars["share/pixel"]) == 3
    assert len(heard.scalars["coarse/cross_entropy"]) == 4
    assert len(heard.scalars["distill/pixel"]) == 6
    assert any(line.startswith("losses (share") and "agrees" in line for line in heard.lines)
    assert any(line.startswith("discriminator: teacher") for line in heard.lines)


def test_total_is_the_sum_of_what_is_shown(
    tiny_prepared: Path, tmp_path: Path, teacher: Path
) -> None:
    heard = Listener()
    plain = ("train.loss.auxiliary=0", "distill.coarse=[train_extra]", "distill.fine_only=0")
    run(tiny_prepared, tmp_path / "run", teacher, *plain, reporter=heard)
    s = heard.scalars
    expected = (
        np.array(s["loss/segmentation"])
        + np.array(s["distill/pixel"])
        + 3 * np.array(s["distill/channel"])
        + 0.5 * np.array(s["coarse/cross_entropy"])
    )
    np.testing.assert_allclose(s["loss/total"], expected, rtol=1e-5)


def test_parts_of_a_batch_add_up_to_the_batch(
    tiny_prepared: Path, tmp_path: Path, teacher: Path
) -> None:
    """Coarse and unlabelled pictures are never dealt out evenly, nor is what is valid of them."""
    fixed = (
        "train.freeze_batchnorm=all",
        "train.loss={auxiliary: 0, class_weights: none}",
        "train.optimizer={name: sgd, lr: 0.1}",
        "distill.losses={pixel: 1, channel: 3, pairwise: 10}",
        "distill.coarse=[train_extra]",
        "distill.unlabelled=[val]",
        "distill.overrule=1",
        "distill.fine_only=0",
        "distill.measure_every=0",
    )
    heard = {}

    def trained(accumulate: int) -> dict[str, torch.Tensor]:
        folder = tmp_path / str(accumulate)
        heard[accumulate] = Listener()
        stage = f"{{size: [32, 64], epochs: 1, batch_size: 4, accumulate: {accumulate}}}"
        overrides = (*fixed, f"train.stages=[{stage}]")
        run(tiny_prepared, folder, teacher, *overrides, reporter=heard[accumulate])
        return state(folder)["model"]

    whole, parts = trained(1), trained(4)
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-4, atol=1e-6)
    for name, values in heard[1].scalars.items():
        if name.startswith(("distill/", "coarse/", "loss/")):
            np.testing.assert_allclose(heard[4].scalars[name], values, rtol=1e-3, err_msg=name)


def test_an_adapter_learns_at_the_rate_of_its_own_optimiser(
    tiny_prepared: Path, tmp_path: Path, teacher: Path
) -> None:
    """What SGD takes for a rate would be a leap for Adam."""
    feature = ("distill.losses={feature: 1}", "train.optimizer={name: sgd, lr: 0.2, warmup: 0}")
    run(tiny_prepared, tmp_path / "run", teacher, *feature)
    groups = state(tmp_path / "run")["teaching"]["optimizer"]["param_groups"]
    (rate,) = [group["lr"] for group in groups if group["name"] == "adapter"]
    assert 0 < rate < 1e-3


def test_a_loss_that_dominates_is_named_once() -> None:
    heard = Listener()
    cockpit = Cockpit(heard)
    for step in range(5):
        cockpit.note_shares({"supervised": 0.05, "channel": 0.95}, step)
    assert len(heard.warnings) == 1
    assert "'channel' dominates" in heard.warnings[0]
    assert "distill.losses.channel" in heard.warnings[0]
    for step in range(9):
        cockpit.note_shares({"supervised": 0.95 - 0.3 * (step % 2), "pixel": 0.05}, step)
    assert len(heard.warnings) == 1


def test_a_step_that_was_skipped_is_not_in_the_means(
    tiny_prepared: Path, tmp_path: Path, teacher: Path
) -> None:
    class Broken(Teacher):
        """Has no answer to the third batch."""

        def __call__(self, images: Any) -> Any:
            asked.append(0)
            answer = super().__call__(images)
            return answer._replace(logits=answer.logits * (np.nan if len(asked) == 3 else 1.0))

    asked: list[int] = []
    heard = Listener()
    taught = Broken(**vars(load_teacher(teacher)))
    one = "train.stages=[{size: [32, 64], epochs: 1, batch_size: 2}]"
    none = "distill.measure_every=0"
    run(tiny_prepared, tmp_path / "run", taught, one, none, reporter=heard)
    assert any("skipped" in text for text in heard.warnings)
    (line,) = [text for text in heard.lines if text.startswith("losses (share")]
    assert "nan" not in line


# --- data ------------------------------------------------------------------------------------


def test_batches_are_half_fine_half_extra_and_fine_ones_keep_their_order() -> None:
    place = {"epochs": 4, "first_epoch": 3, "seed": 5, "start": 0}
    plain = StageBatches(10, 4, **place)
    mixed = MixedBatches(10, 4, extra=7, drawn=12, until=5, **place)
    seen: list[int] = []
    for number in range(len(plain)):
        tickets = mixed.batch(number)
        assert tickets[:4] == plain.batch(number)
        assert len(tickets) == (8 if number < 5 else 4)
        seen += [index - 10 for _, index in tickets[4:]]
    # 12 were drawn before: places 12 and 13 end an epoch of 7, then whole epochs follow.
    assert sorted(seen[2:9]) == sorted(seen[9:16]) == list(range(7))
    two = [
        MixedBatches(10, 4, extra=7, drawn=12, until=5, rank=r, world=2, **place) for r in (0, 1)
    ]
    for number in (0, 4, 6):
        one = mixed.batch(number)
        halves = [part.batch(number) for part in two]
        cut = len(halves[0]) // 2 if number < 5 else len(halves[0])
        assert [t for h in halves for t in h[:cut]] == one[:4]
        assert [t for h in halves for t in h[cut:]] == one[4:]


def test_targets_tell_what_is_unlabelled_from_padding(tiny_prepared: Path) -> None:
    manifest = load_manifest(tiny_prepared)
    fine, coarse, blank = (manifest.split(n)[:1] for n in ("train", "train_extra", "val"))
    # Half the size in a crop of the full one: at least half of every side is padding.
    transform = TrainTransform((64, 128), scale=(0.5, 0.5), flip=0, color=0)
    dataset = MixedDataset(fine, Extra((*coarse, *blank), 1), transform, seed=0, num_classes=19)
    for index, values in ((0, "fine"), (1, "coarse"), (2, "unlabelled")):
        _, target = dataset.view((0, index))
        found = set(target.unique().tolist())
        assert 255 in found
        assert (UNLABELLED in found) == (values != "fine")
        assert bool(found & set(range(19))) == (values != "unlabelled")
        assert int((target != 255).sum()) <= 64 * 128 // 4
    plain = MixedDataset(fine, Extra(), transform, seed=0, num_classes=19, void=True)
    void = plain.view((0, 0))[1]
    expected = dataset.view((0, 0))[1]
    assert torch.equal(void.masked_fill(void == UNLABELLED, 255), expected)


def test_unlabelled_pictures_are_cut_from_their_packed_copies(
    tiny_city: Path, tmp_path: Path
) -> None:
    quiet: dict[str, Any] = {"reporter": NullReporter(), "workers": 1}
    prepare_labels(tiny_city, out=tmp_path, pack="raw", pack_splits=("val",), **quiet)
    packed = load_manifest(tmp_path).split("val")[:1]
    files = tuple(dataclasses.replace(s, packed=None) for s in packed)
    transform = TrainTransform((32, 64))
    views = [
        MixedDataset((), Extra(extra), transform, seed=0, num_classes=19).view((0, 0))
        for extra in (packed, files)
    ]
    assert packed[0].packed is not None
    for ours, theirs in zip(*views, strict=True):
        assert torch.equal(ours, theirs)
    packed[0].packed.write_bytes(b"")
    with pytest.raises(DataError, match="packed copy"):
        MixedDataset((), Extra(packed), transform, seed=0, num_classes=19).view((0, 0))


def test_extra_pictures_come_from_splits_folders_and_files(
    tiny_prepared: Path, tmp_path: Path
) -> None:
    manifest = load_manifest(tiny_prepared)
    write_image(tmp_path / "more" / "a" / "1.png", np.zeros((40, 60, 3), np.uint8))
    write_image(tmp_path / "more" / "2.jpg", np.zeros((40, 60, 3), np.uint8))
    names = f"[train_extra, demoVideo, {tmp_path / 'more'}, {tmp_path / 'more' / '2.jpg'}]"
    settings = config(tiny_prepared, "distill.coarse=[train_coarse]", f"distill.unlabelled={names}")
    assert settings.distill is not None
    extra = find_extra(settings.distill, manifest)
    coarse = len(manifest.split("train_coarse"))
    assert (extra.coarse, len(extra)) == (coarse, coarse + 3 + 3 + 2 + 1)
    assert len(find_extra(settings.distill, manifest, coarse_only=True)) == coarse
    # What file managers leave is no picture, and folders may be elsewhere.
    (tmp_path / "more" / "._2.jpg").write_bytes(b"nothing")
    (tmp_path / "more" / "linked").symlink_to(tmp_path / "far")
    write_image(tmp_path / "far" / "3.png", np.zeros((40, 60, 3), np.uint8))
    assert len(find_extra(settings.distill, manifest)) == len(extra) + 1
    broken = settings.distill.model_copy(update={"unlabelled": ("nowhere",)})
    with pytest.raises(DataError, match="neither a split nor a file or folder"):
        find_extra(broken, manifest)


def test_frames_of_a_video_are_pictures_written_once(tiny_prepared: Path, tmp_path: Path) -> None:
    prepared = tmp_path / "prepared"
    shutil.copytree(tiny_prepared, prepared)
    manifest = dataclasses.replace(load_manifest(tiny_prepared), folder=prepared)
    video = clip(tmp_path / "tour.mp4", seconds=1, rate=10)
    settings = config(
        tiny_prepared, f"distill.unlabelled=[{video}]", "distill.frame_step=4"
    ).distill
    assert settings is not None
    prepare_frames(settings, manifest, NullReporter())
    extra = find_extra(settings, manifest)
    assert [s.image.name for s in extra.samples] == [f"frame_{n:07d}.png" for n in (0, 4, 8)]
    assert {s.size for s in extra.samples} == {(48, 64)}
    folder = extra.samples[0].image.parent
    first = {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.iterdir()}
    prepare_frames(settings, manifest, NullReporter())
    assert {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.iterdir()} == first
    (folder / "frame_0000004.png").unlink()
    prepare_frames(settings, manifest, NullReporter())
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == {
        k: v for k, (_, v) in first.items()
    }
    video.write_bytes(video.read_bytes()[:-600])
    with pytest.raises(DataError):
        prepare_frames(settings, manifest, NullReporter())


def test_an_exported_teacher_wants_a_config_for_its_student(tmp_path: Path, teacher: Path) -> None:
    described = describe_teacher(teacher)
    file = tmp_path / "model.onnx"
    file.write_bytes(b"")
    exported = dataclasses.replace(described, path=file, training={})
    with pytest.raises(ConfigError, match=r"an exported teacher.*name a config"):
        student_config(None, exported, [])
    assert student_config("demo_distill.yaml", exported, [])[0].distill is not None


def test_an_exported_teacher_says_what_its_network_says(
    tiny_prepared: Path, tmp_path: Path, teacher: Path
) -> None:
    """A back end stands in for an exported file: it gives logits and has no features."""
    network = load_teacher(teacher)
    assert isinstance(network.model, torch.nn.Module)
    backend = TorchBackend(network.model)
    exported = dataclasses.replace(network, model=backend)
    images = torch.randint(0, 256, (2, 3, 40, 70), dtype=torch.uint8)
    one, other = network(images), exported(images)
    assert one.padded_size == other.padded_size
    torch.testing.assert_close(one.logits, other.logits)
    heard = Listener()
    settings = config(tiny_prepared)
    check_sizes(settings, exported)
    backend.size = (40, 70)
    with pytest.raises(ConfigError, match=r"pictures of 40x70 alone.*without --size"):
        check_sizes(settings, exported)
    backend.size = None
    losses = "distill.losses={pixel: 1, pairwise: 1, feature: 1}"
    run(tiny_prepared, tmp_path / "run", exported, losses, reporter=heard)
    assert np.isfinite(heard.scalars["distill/feature"]).all()
    plain = Listener()
    pixel = "distill.losses={pixel: 1}"
    run(tiny_prepared, tmp_path / "a", exported, pixel, reporter=heard)
    run(tiny_prepared, tmp_path / "b", network, pixel, reporter=plain)
    ours, theirs = heard.scalars["distill/pixel"][-6:], plain.scalars["distill/pixel"]
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-4)
    # From step to step the last digits of both drift apart.
    np.testing.assert_allclose(ours, theirs, rtol=1e-2)


def test_coarse_labels_are_dropped_where_a_sure_teacher_says_otherwise(
    tiny_prepared: Path, tmp_path: Path, teacher: Path
) -> None:
    class Sure(Teacher):
        def __call__(self, images: Any) -> Any:
            answer = super().__call__(images)
            logits = torch.zeros_like(answer.logits)
            logits[:, 0] = 50.0
            return answer._replace(logits=logits)

    def heard(kind: type[Teacher], *overrides: str) -> dict[str, list[float]]:
        listener = Listener()
        taught = kind(**vars(load_teacher(teacher)))
        settings = (NOTHING, "distill.coarse=[train_extra]", *overrides)
        run(tiny_prepared, tmp_path / str(len(overrides)), taught, *settings, reporter=listener)
        return listener.scalars

    found = heard(Sure)
    disagreement = 1 - np.array(found["coarse/agreement"])
    assert disagreement.max() > 0.1
    np.testing.assert_allclose(found["coarse/overruled"], disagreement, atol=1e-6)
    # Nothing is ever as sure as this.
    timid = heard(Teacher, "distill.overrule=1")
    assert max(timid["coarse/overruled"]) == 0


def test_what_does_not_go_together_is_refused(
    tiny_prepared: Path, tmp_path: Path, teacher: Path
) -> None:
    with pytest.raises(ConfigError, match="no soft targets"):
        run(tiny_prepared, tmp_path / "run", teacher, *EVERYTHING, "data.soft_targets=true")
    other = make_run(tmp_path / "other", tiny_prepared, space=SPACE)
    with pytest.raises(LabelSpaceError, match="teacher and data have different classes"):
        whole(tiny_prepared, tmp_path / "run", other)
    with pytest.raises(CheckpointError, match="no such run"):
        whole(tiny_prepared, tmp_path / "run", tmp_path / "nowhere")
    broken = make_run(tmp_path / "broken", tiny_prepared)
    description = json.loads((broken / "checkpoint.json").read_text())
    description["model_config"]["width"] = 16
    body = {k: v for k, v in description.items() if k != "sha256"}
    description["sha256"] = checkpoint._digest(body)
    (broken / "checkpoint.json").write_text(json.dumps(description))
    with pytest.raises(CheckpointError, match="weights do not fit"):
        load_teacher(broken)
    assert not (tmp_path / "run" / "config.yaml").exists()


# --- resuming --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def undisturbed(
    tiny_prepared: Path, teacher: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    run(tiny_prepared, folder, teacher, *EVERYTHING)
    return folder


@pytest.mark.parametrize("step, workers", [(1, 0), (3, 1), (4, 0), (5, 0)])
def test_a_stopped_run_goes_on_to_the_same_bits_discriminator_included(
    tiny_prepared: Path, tmp_path: Path, teacher: Path, undisturbed: Path, step: int, workers: int
) -> None:
    folder, worker = tmp_path / "run", f"data.workers={workers}"
    with pytest.raises(Interrupted, match=f"at step {step} of 6") as caught:
        run(tiny_prepared, folder, teacher, *EVERYTHING, worker, reporter=Listener(step))
    assert "segcli distill --resume" in str(caught.value)
    run(tiny_prepared, folder, teacher, *EVERYTHING, worker, resume=True)
    one, other = state(folder), state(undisturbed)
    for part in ("model", "average", "optimizer", "teaching"):
        assert same(one[part], other[part]), part
    assert any("discriminator" in name for name in one["teaching"]["loss"])


def test_another_teacher_or_none_does_not_go_on(
    tiny_prepared: Path, tmp_path: Path, teacher: Path, undisturbed: Path
) -> None:
    other = load_teacher(teacher)
    with torch.no_grad():
        next(other.model.parameters()).add_(1)
    changed = Teacher(other.path, other.model, other.checkpoint, digest(other.model))
    with pytest.raises(CheckpointError, match="another teacher"):
        run(tiny_prepared, undisturbed, changed, *EVERYTHING, resume=True)
    plain = config(tiny_prepared, *EVERYTHING)
    with pytest.raises(CheckpointError, match="was trained with a teacher"):
        train(
            plain,
            folder=undisturbed,
            device=CPU,
            reporter=NullReporter(),
            resume=undisturbed / "last",
        )


def test_it_comes_nearer_to_its_teacher(tiny_prepared: Path, tmp_path: Path, teacher: Path) -> None:
    heard = Listener()
    settings = (
        "train.stages=[{size: [32, 64], epochs: 12, batch_size: 12}]",
        "train.augment={preset: none}",
        "train.optimizer={lr: 5.0e-3, encoder_lr_factor: 1, schedule: constant}",
        "train.validate_every=12",
        "distill.losses={pixel: 100}",
        "distill.void=true",
        "distill.measure_every=0",
    )
    run(tiny_prepared, tmp_path / "run", teacher, *settings, reporter=heard)
    distance = heard.scalars["distill/pixel"]
    assert distance[-1] < 0.5 * distance[0]
