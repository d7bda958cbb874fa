"""The student's experiment, completed by what the teacher's checkpoint says of its own."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segcli.checkpoint import Checkpoint
from segcli.config import Config, DistillConfig, ModelConfig
from segcli.config_file import read_config, resolve_config
from segcli.data.layouts import DEMO_VIDEO, unlabelled_folder
from segcli.data.manifest import FILE_NAME, load_manifest
from segcli.errors import ConfigError
from segcli.exported import is_exported
from segcli.models.build import TIMM_PREFIX
from segcli.recipes.distill_data import pictures_below

DEFAULT = "distill.yaml"
IMAGENET = "imagenet"
AS_TEACHER = ", as its teacher did"
# Far from trained, a student gains more from the pixel-wise term alone (docs/distillation.md).
FROM_SCRATCH = {"pixel": 3.0}
# What treats the encoder as one that has learned already.
LEARNT_ALREADY = {
    "optimizer.encoder_lr_factor": 1.0,
    "freeze_encoder": 0,
    "freeze_batchnorm": "none",
}


def student_config(
    name: str | None, teacher: Checkpoint, overrides: Sequence[str] = ()
) -> tuple[Config, list[str]]:
    """The config `name`, with the teacher's data where its own is not there.

    Without a name the student is that of `distill.yaml`, with a decoder no wider than its
    teacher's, and it trains as its teacher has trained: on the same data, with the same stages,
    augmentation and optimiser. From random weights it learns by `FROM_SCRATCH`, and where its
    teacher's were not random its encoder learns as fast as its decoder. Where the data
    have drives without labels, it sees those too, mixed with other views of the labelled pictures.

    Returns:
        The config, whose `distill.teacher` is set, and what was decided, in lines to show.

    Raises:
        ConfigError: as `load_config` does.
    """
    path, value = read_config(name or DEFAULT)
    said, why = [], ""
    if name is None and is_exported(teacher.path):
        raise ConfigError(
            "an exported teacher does not say how it was trained",
            file=teacher.path,
            hint="name a config for its student: segcli distill CONFIG --teacher FILE",
        )
    if name is None and teacher.training:
        said.append(f"the student of {DEFAULT}, trained as its teacher was: {teacher.path}")
        why = _as_the_teacher(value, teacher)
    # An encoder of timm has no parts that could be frozen as its teacher's are.
    config = resolve_config(_thaw(copy.deepcopy(value)), overrides, file=path)
    if name is None and config.model.encoder.startswith(TIMM_PREFIX):
        _thaw(value)
    prepared = str(teacher.data.get("prepared", ""))
    if not _is_prepared(config.data.prepared) and _is_prepared(prepared):
        value.setdefault("data", {})["prepared"] = prepared
        if name is None:
            value["data"]["label_space"] = None
        said.append(f"data of the teacher's checkpoint: {prepared}")
    if value.get("distill") is None:
        value["distill"] = {}
    if name is None and config.model.weights is None:
        value["distill"]["losses"] = dict(FROM_SCRATCH)
        if not why.startswith(AS_TEACHER):
            _learn_all(value)
    config = resolve_config(value, overrides, file=path)
    if config.distill is None:
        raise ConfigError("distill is null", hint="segcli train trains without a teacher")
    if name is None and config.model.weights is None:
        said.append(_told_of_random_weights(config.distill, why))
    decided: dict[str, Any] = {"teacher": str(teacher.path.resolve())}
    if name is None and (more := _drives(config)):
        decided["unlabelled"] = tuple(more)
        views = f", and other views of {', '.join(more[1:])}" if more[1:] else ""
        said.append(
            f"beside its batches as many pictures without their labels: of {more[0]}{views} "
            "(--set 'distill.unlabelled=[]' leaves them out)"
        )
    distill = config.distill.model_copy(update=decided)
    return config.model_copy(update={"distill": distill}), said


def _told_of_random_weights(settings: DistillConfig, why: str) -> str:
    term = settings.losses == FROM_SCRATCH
    return (
        f"the student starts from random weights{why}"
        f"{', and learns by the pixel-wise term alone' if term else ''} "
        f"(--set model.weights=FILE, or {IMAGENET}, which is downloaded)"
    )


def control_config(config: Config) -> Config:
    """The same student's without a teacher: coarse labels stay, unlabelled pictures go."""
    settings = config.distill or DistillConfig()
    value = config.to_dict()
    del value["distill"]
    if settings.coarse and settings.coarse_weight > 0:
        own = settings.model_dump(mode="json")
        value["distill"] = {**own, "teacher": None, "losses": {}, "unlabelled": []}
    return resolve_config(value)


def _as_the_teacher(value: dict[str, Any], teacher: Checkpoint) -> str:
    """Put the teacher's data, training and evaluation in the place of a config's.

    Returns:
        Why the student starts from random weights, where it does.
    """
    trained = copy.deepcopy(teacher.training)
    for section in ("data", "train", "eval"):
        if section in trained:
            value[section] = trained[section]
    # A relative path means another folder from elsewhere; what the checkpoint says does not.
    prepared = str(teacher.data.get("prepared", ""))
    if _is_prepared(prepared):
        value["data"] = {**value.get("data", {}), "prepared": prepared}
    sources = teacher.data.get("label_sources", {})
    for part in ("train", "val"):
        if names := value.get("data", {}).get(part):
            value["data"][part] = [sources.get(name, name) for name in names]
    model, theirs = value.setdefault("model", {}), trained.get("model", {})
    weights, same = theirs.get("weights"), theirs.get("encoder") == model.get("encoder")
    why = AS_TEACHER if weights is None else ""
    if weights is not None and weights != IMAGENET and not same:
        why = f", for its teacher's {weights} are another encoder's"
        weights = None
    model["weights"] = weights
    for key in ("width", "head_width", *(["width_mult"] if same else [])):
        own = model.get(key, ModelConfig.model_fields[key].default)
        model[key] = min(own, theirs.get(key, own))
    return why


def _learn_all(value: dict[str, Any]) -> None:
    """Undo what spares weights that have learned already, for random ones have not."""
    train = value.setdefault("train", {})
    for key, usual in LEARNT_ALREADY.items():
        *sections, name = key.split(".")
        place = train
        for section in sections:
            place = place.setdefault(section, {})
        place[name] = usual
    _thaw(value)


def _thaw(value: dict[str, Any]) -> dict[str, Any]:
    """`value`, where all of the encoder now learns in every stage."""
    for stage in (value.get("train") or {}).get("stages") or ():
        if isinstance(stage, dict):
            stage.pop("freeze_stride", None)
    return value


def _drives(config: Config) -> list[str]:
    """The data's pictures without labels, and the splits trained on, of which drives show little.

    Nothing where there are no such pictures, or where somebody has named or ruled out some.
    """
    settings = config.distill or DistillConfig()
    if "unlabelled" in settings.model_fields_set or not _is_prepared(config.data.prepared):
        return []
    if config.data.soft_targets:
        return []  # extra pictures have none
    manifest = load_manifest(config.data.prepared)
    folder = unlabelled_folder(manifest.source, DEMO_VIDEO)
    if folder is None or not pictures_below(folder):
        return []
    return [DEMO_VIDEO, *(name for name in config.data.train if name in manifest.splits)]


def _is_prepared(folder: str) -> bool:
    return bool(folder) and (Path(folder) / FILE_NAME).is_file()
