"""A config before it is trained: data, model, weights, memory and disk, all at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torchvision

from segcli import findings as codes
from segcli import resources
from segcli.config import Config, DistillConfig
from segcli.config_file import load_config
from segcli.data.extra import pixel_transforms
from segcli.data.manifest import Manifest, load_manifest
from segcli.data.set_faults import manifest_findings
from segcli.distributed import World
from segcli.environment import resolve_device
from segcli.errors import ConfigError, DataError, LabelSpaceError, SegcliError, UsageError
from segcli.findings import ERROR, OK, WARNING, Finding, of_error
from segcli.labels import load_label_space
from segcli.models.build import TIMM_PREFIX, build_encoder
from segcli.recipes.distill_data import by_key, find_extra, shared
from segcli.recipes.distill_frames import is_video
from segcli.recipes.distill_step import check_distillation
from segcli.recipes.training import build_from_config, loader_workers, score_names
from segcli.reporting.events import Reporter
from segcli.runs import RUNS


def check_config(
    path: Path, reporter: Reporter, *, overrides: Sequence[str], device: str | None
) -> list[Finding]:
    """All that would stop a training with this config, or make it worth less.

    Nothing is fetched, and no picture is decoded: `check` on the prepared folder does that.
    """
    try:
        config = load_config(path, overrides)
    except ConfigError as error:
        return [of_error(codes.CONFIG, error)]
    sizes = ", ".join(f"{_by(s.size)} × {s.batch_size}" for s in config.train.stages)
    model = f"{config.model.decoder} on {config.model.encoder}, stages {sizes}"
    found = [Finding(codes.CONFIG, OK, f"the config loads: {model}", path)]
    found += _device(device)
    try:
        manifest = load_manifest(config.data.prepared, config.label_sources)
    except DataError as error:
        hint = "segcli prepare-labels ROOT, or --set data.prepared=FOLDER"
        found.append(of_error(codes.DATA_FOLDER, error, hint))
        manifest = None
    if manifest is not None:
        reporter.message(f"looking at the headers of the files that {manifest.folder} names")
        found += _data(config, manifest)
    classes = _num_classes(config, manifest)
    found += _weights(config)
    found += _model_and_disk(config, classes)
    found += _shared_memory(config, classes)
    return found


def _device(name: str | None) -> list[Finding]:
    try:
        device = resolve_device(name)
    except UsageError as error:
        return [of_error(codes.DEVICE, error)]
    if device.type == "cpu":
        return [Finding(codes.DEVICE, OK, f"trains on the CPU, threads: {torch.get_num_threads()}")]
    return [Finding(codes.DEVICE, OK, f"trains on {torch.cuda.get_device_name(device)}")]


# --- data ------------------------------------------------------------------------------------


def _data(config: Config, manifest: Manifest) -> list[Finding]:
    data, space = config.data, manifest.label_space
    found = []
    if data.label_space is not None and data.label_space != space.name:
        what = f"the config expects label space '{data.label_space}', the data is '{space.name}'"
        hint = "prepare again with that label space, or point data.prepared elsewhere"
        found.append(Finding(codes.LABEL_SPACE, ERROR, what, manifest.folder, hint))
    both = sorted(set(data.train) & set(data.val))
    if both:
        what = f"'{', '.join(both)}' is trained and validated on"
        hint = "the score will say how well it is remembered, not how well it is learnt"
        found.append(Finding(codes.SHARED_SPLIT, WARNING, what, None, hint))
    uses = {"train": data.train, "val": data.val}
    names = {"+".join(members): members for members in uses.values()}
    faults = manifest_findings(manifest, names)
    found += [f._replace(code=codes.SPLITS) if f.code == codes.EMPTY_SPLIT else f for f in faults]
    found += _words(config, manifest)
    samples = [s for name in data.train for s in manifest.splits.get(name, ())]
    if data.soft_targets and any(s.one_hot is None for s in samples):
        what = "data.soft_targets wants one-hot channels, the data has none"
        hint = "run segcli prepare-labels --one-hot, or set data.soft_targets=false"
        found.append(Finding(codes.SOFT_TARGETS, ERROR, what, manifest.folder, hint))
    if samples:
        found += _stages(config, [s.size for s in samples])
    counts = ", ".join(f"{use} {_count(manifest, uses[use])}" for use in uses)
    what = f"the data is there: {counts}, {space.num_classes} classes of {space.name}"
    return [Finding(codes.DATA_FOLDER, OK, what, manifest.folder), *found]


def _words(config: Config, manifest: Manifest) -> list[Finding]:
    """Names of scores, transforms and extra pictures that there are not."""
    found = []
    if config.train.best_by not in score_names(manifest.label_space):
        what = f"train.best_by: no score is called '{config.train.best_by}'"
        hint = "such as val/miou, or val_iou/ and a class"
        found.append(Finding(codes.CONFIG, ERROR, what, None, hint))
    try:
        pixel_transforms(config.train.augment.extra)
    except ConfigError as error:
        found.append(of_error(codes.CONFIG, error))
    return found if config.distill is None else found + _extra(config.distill, config, manifest)


def _extra(distill: DistillConfig, config: Config, manifest: Manifest) -> list[Finding]:
    """Extra pictures that are not there, are validated on, or cannot join the others."""
    found = []
    hint = f"splits: {', '.join(manifest.splits)}"
    for name in distill.coarse:
        if name not in manifest.splits:
            what = f"distill.coarse: '{name}' is neither a split nor a prepared folder"
            found.append(Finding(codes.CONFIG, ERROR, what, manifest.folder, hint))
    for name in distill.unlabelled:
        if not manifest.has_pictures(name):
            what = f"distill.unlabelled: '{name}' is neither a split nor a file or folder"
            found.append(Finding(codes.CONFIG, ERROR, what, manifest.folder, hint))
    if found:
        return found
    # Frames of a video are written by the training.
    known = [n for n in distill.unlabelled if n in manifest.splits or not is_video(Path(n))]
    try:
        extra = find_extra(distill.model_copy(update={"unlabelled": tuple(known)}), manifest)
        check_distillation(config, manifest.label_space, extra, World())
    except SegcliError as error:
        return [of_error(codes.CONFIG, error)]
    val = [s for name in config.data.val for s in manifest.splits.get(name, ())]
    hint = "the score will say how well they are remembered, not how well others are learnt"
    said = shared(by_key(extra), val)
    return [Finding(codes.SHARED_SPLIT, WARNING, what, None, hint) for what in said]


def _stages(config: Config, sizes: Sequence[tuple[int, int]]) -> list[Finding]:
    """Crops that no view of the images fills, and batches that an epoch does not fill."""
    found = []
    for index, stage in enumerate(config.train.stages):
        largest = stage.resize * config.train.augment.scale[1]
        height, width = (round(max(s[axis] for s in sizes) * largest) for axis in (0, 1))
        if stage.size[0] > height or stage.size[1] > width:
            what = (
                f"stage {index + 1} crops {_by(stage.size)}, but its views of the images are "
                f"{_by((height, width))} at most: the rest is padding"
            )
            hint = f"a smaller train.stages.{index}.size, or a larger resize or augment.scale"
            found.append(Finding(codes.CROP_SIZE, WARNING, what, None, hint))
        if stage.batch_size > len(sizes):
            what = (
                f"stage {index + 1} has batches of {stage.batch_size}, there are {len(sizes)} "
                "images: each batch repeats some views of them"
            )
            hint = f"train.stages.{index}.batch_size={len(sizes)} or less"
            found.append(Finding(codes.BATCH_SIZE, WARNING, what, None, hint))
    return found


def _count(manifest: Manifest, names: Sequence[str]) -> int:
    return sum(len(manifest.splits.get(name, ())) for name in names)


def _num_classes(config: Config, manifest: Manifest | None) -> int:
    if manifest is not None:
        return manifest.label_space.num_classes
    try:
        return load_label_space(str(config.data.label_space)).num_classes
    except LabelSpaceError:
        return load_label_space("cityscapes-19").num_classes


# --- model, memory, disk ---------------------------------------------------------------------


def _weights(config: Config) -> list[Finding]:
    m = config.model
    if m.weights is None:
        if not (stride := config.train.stages[0].freeze_stride):
            return []
        what = f"layers up to a stride of {stride} keep their random weights in stage 1"
        return [Finding(codes.WEIGHTS, WARNING, what, None, "train.stages.0.freeze_stride=0")]
    if m.weights == "imagenet" and not _cached(m.encoder):
        if m.width_mult != 1.0:
            what = f"no ImageNet weights for {m.encoder} at width {m.width_mult}"
            return [Finding(codes.WEIGHTS, ERROR, what, None, "set model.weights to null")]
        what = f"ImageNet weights of {m.encoder} are not in the cache, training will fetch them"
        hint = "offline: --set model.weights=FILE with torchvision's keys, or null for none"
        return [Finding(codes.DOWNLOAD, WARNING, what, None, hint)]
    try:
        build_encoder(m.encoder, weights=m.weights, width_mult=m.width_mult)
    except SegcliError as error:
        hint = "give `imagenet`, a file for this encoder, or null"
        return [of_error(codes.WEIGHTS, error, hint)]
    file = None if m.weights == "imagenet" else Path(m.weights)
    return [Finding(codes.WEIGHTS, OK, f"the weights fit {m.encoder}", file)]


def _cached(encoder: str) -> bool:
    """Whether torchvision's ImageNet weights of an encoder lie in its cache."""
    if encoder.startswith(TIMM_PREFIX):
        return False
    try:
        url = torchvision.models.get_model_weights(encoder).DEFAULT.url
    except (ValueError, AttributeError):
        return True  # no such network, which building it will say
    return Path(torch.hub.get_dir(), "checkpoints", Path(url).name).is_file()


def _model_and_disk(config: Config, classes: int) -> list[Finding]:
    """Build the model without memory for its weights, and count what checkpoints take."""
    try:
        with torch.device("meta"):
            model = build_from_config(config, classes, pretrained=False)
    except SegcliError as error:
        return [of_error(codes.MODEL, error)]
    state = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    parameters = sum(p.numel() for p in model.parameters())
    found = [Finding(codes.MODEL, OK, f"the model has {parameters / 1e6:.2f} million parameters")]
    need = resources.checkpoint_bytes(state, parameters, config.train.optimizer.name)
    free = resources.free_disk(RUNS)
    if free is None:
        return found
    what = f"checkpoints take up to {resources.amount(need)}, {resources.amount(free)} is free"
    severity = ERROR if need > free else WARNING if need > free / 2 else OK
    hint = "" if severity == OK else "make room, or choose another folder with --runs"
    return [*found, Finding(codes.DISK, severity, what, RUNS, hint)]


def _shared_memory(config: Config, classes: int) -> list[Finding]:
    workers = loader_workers(config, World())
    channels = classes if config.data.soft_targets else 1
    need = 0
    for stage in config.train.stages:
        factor = stage.resize if config.train.loss_at == "label" else 1.0
        target = round(stage.size[0] / factor), round(stage.size[1] / factor)
        extra = config.distill is not None and (config.distill.coarse or config.distill.unlabelled)
        pictures = stage.batch_size * (2 if extra else 1)
        waiting = resources.loader_bytes(
            stage.size, pictures, workers, channels=channels, target_size=target
        )
        need = max(need, waiting)
    shortage = resources.shared_memory_shortage(need, workers)
    if shortage is None:
        what = f"batches of {workers} loader processes take up to {resources.amount(need)}"
        return [Finding(codes.SHARED_MEMORY, OK, what)]
    what, hint, certain = shortage
    return [Finding(codes.SHARED_MEMORY, ERROR if certain else WARNING, what, None, hint)]


def _by(size: tuple[int, int]) -> str:
    return f"{size[1]}×{size[0]}"
