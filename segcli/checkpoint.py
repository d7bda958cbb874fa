"""Self-describing checkpoints: written whole, verified when read, the previous one kept.

A checkpoint is a folder:

- ``model.safetensors``: the weights that are evaluated (averaged ones where averaging is on);
- ``checkpoint.json``: how to build the model, its label space, how to feed it, what it
  scored, and the SHA-256 of every file. No YAML is needed to read it;
- ``resume.pt``: optimiser, raw weights, averages, position (only in ``last``).

A new one is built beside the old, which then steps aside to ``NAME.previous``, so that at
every moment at least one of the two is whole.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segcli import files
from segcli.environment import library_versions
from segcli.errors import CheckpointError, OutputError
from segcli.exported import is_exported, read_description
from segcli.labels import LabelSpace

if TYPE_CHECKING:
    import torch

    from segcli.models.segmenter import Segmenter

FORMAT = 1
WEIGHTS, DESCRIPTION, RESUME = "model.safetensors", "checkpoint.json", "resume.pt"


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory.

    Attributes:
        path: the folder it was read from.
        model_config: keyword arguments of `models.build.build_model`, without weights.
        label_space: what the K channels mean.
        inference: ``precision``, ``channels_last``, ``size`` ([h, w] or null).
        training: the resolved training config.
        data: ``prepared`` folder, ``val`` splits, ``fingerprint`` of the training data.
        scores: what validation said of these weights.
        step: optimiser steps taken.
        versions: of the libraries at the time of writing.
        state_dict: the weights on the CPU, by name.
    """

    path: Path
    model_config: dict[str, Any]
    label_space: LabelSpace
    inference: dict[str, Any]
    training: dict[str, Any]
    data: dict[str, Any]
    scores: dict[str, Any]
    step: int
    versions: dict[str, str]
    state_dict: dict[str, torch.Tensor] = dataclasses.field(repr=False)


def previous_of(folder: Path) -> Path:
    """Where the checkpoint that `folder` replaced is kept."""
    return folder.with_name(f"{folder.name}.previous")


def has_checkpoint(folder: Path) -> bool:
    """Whether `folder`, or the one it replaced, holds a checkpoint; it is not verified."""
    return any((f / DESCRIPTION).is_file() for f in (folder, previous_of(folder)))


def save_checkpoint(
    folder: Path,
    state_dict: dict[str, torch.Tensor],
    description: dict[str, Any],
    *,
    resume: dict[str, Any] | None = None,
) -> None:
    """Write a checkpoint to `folder`, keeping the one it replaces as ``NAME.previous``.

    Args:
        folder: such as ``runs/NAME/best``.
        state_dict: weights by name, any device and memory format.
        description: the fields of `Checkpoint` but path, versions and state_dict, as JSON.
        resume: tensors, numbers and plain containers for ``resume.pt``.

    Raises:
        OutputError: nothing of the old checkpoint is lost then.
    """
    import torch
    from safetensors.torch import save_file

    files.make_folder(folder.parent)
    building = folder.with_name(f".{folder.name}.tmp-{os.getpid()}")
    for left in folder.parent.glob(f".{folder.name}.tmp-*"):
        shutil.rmtree(left, ignore_errors=True)  # of a process that was killed while saving
    files.make_folder(building)
    try:
        with files.atomic_path(building / WEIGHTS) as temporary:
            tensors = {k: v.detach().cpu().contiguous().clone() for k, v in state_dict.items()}
            save_file(tensors, str(temporary))
        if resume is not None:
            with files.atomic_path(building / RESUME) as temporary:
                torch.save(resume, temporary)
        digests = {p.name: files.sha256_file(p) for p in sorted(building.iterdir())}
        body = {"format": FORMAT, **description, "versions": library_versions(), "files": digests}
        files.write_json(building / DESCRIPTION, {**body, "sha256": _digest(body)})
        _swap_in(building, folder)
    except (OutputError, KeyboardInterrupt):
        raise
    except Exception as error:
        if str(error).startswith("DataLoader"):
            raise  # a loader worker died meanwhile, which torch says wherever one is
        # safetensors and torch wrap a full disk in errors of their own kinds.
        free = shutil.disk_usage(folder.parent).free / 2**20
        raise OutputError(
            f"cannot write checkpoint ({' '.join(str(error).split())[:200]})",
            file=folder,
            hint=f"{free:.0f} MiB free there; the previous checkpoint is untouched",
        ) from error
    finally:
        shutil.rmtree(building, ignore_errors=True)


def set_aside_if_damaged(folder: Path) -> None:
    """Rename a damaged checkpoint, so that the next save does not put it in the previous' place.

    Called when a run goes on from the previous one.
    """
    try:
        verify(folder)
    except CheckpointError:
        if folder.is_dir():
            damaged = folder.with_name(f"{folder.name}.damaged")
            shutil.rmtree(damaged, ignore_errors=True)
            os.replace(folder, damaged)


def _swap_in(building: Path, folder: Path) -> None:
    if folder.exists():
        previous = previous_of(folder)
        shutil.rmtree(previous, ignore_errors=True)
        os.replace(folder, previous)
    os.replace(building, folder)
    files.sync_folder(folder.parent)


def _digest(body: dict[str, Any]) -> str:
    return files.sha256_bytes(json.dumps(body, sort_keys=True, ensure_ascii=False).encode())


def load_checkpoint(path: str | Path, *, warn: Callable[[str], None] | None = None) -> Checkpoint:
    """Read and verify a checkpoint folder (or one of its files).

    Where it is damaged or gone and ``NAME.previous`` is whole, that one is taken and `warn`
    is told so. Of an exported file what it says of itself is returned, without weights.

    Raises:
        CheckpointError: when there is no whole checkpoint, saying what is wrong.
    """
    if is_exported(path):
        file = Path(path)
        return _from_description(file, file, read_description(file), {})
    folder, description = verify_or_previous(Path(path), warn)
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(folder / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"cannot read weights ({error})", file=folder / WEIGHTS) from None
    return _from_description(folder, folder / DESCRIPTION, description, tensors)


def _from_description(
    path: Path, file: Path, description: dict[str, Any], tensors: dict[str, torch.Tensor]
) -> Checkpoint:
    try:
        return Checkpoint(
            path=path,
            label_space=LabelSpace.from_dict(description["label_space"], file=file),
            state_dict=tensors,
            **{
                name: description[name]
                for name in ("model_config", "inference", "training", "data", "scores", "step")
            },
            versions=description["versions"],
        )
    except KeyError as error:
        raise CheckpointError(f"checkpoint without {error}", file=file) from None


def load_resume(path: str | Path, *, warn: Callable[[str], None] | None = None) -> dict[str, Any]:
    """The contents of ``resume.pt`` of a verified checkpoint, on the CPU.

    Raises:
        CheckpointError: when there is none, or it is damaged.
    """
    import torch

    folder, description = verify_or_previous(Path(path), warn)
    if RESUME not in description["files"]:
        raise CheckpointError(
            "holds weights only, training cannot go on from it", file=folder, hint="use 'last'"
        )
    state = torch.load(folder / RESUME, map_location="cpu", weights_only=True)
    if not isinstance(state, dict):
        raise CheckpointError("not a resume file", file=folder / RESUME)
    return state


def verify_or_previous(
    path: Path, warn: Callable[[str], None] | None = None
) -> tuple[Path, dict[str, Any]]:
    """(folder, description) of `path`, or of its previous one when `path` is damaged.

    Raises:
        CheckpointError: when neither is whole.
    """
    folder = path.parent if path.is_file() else path
    try:
        return folder, verify(folder)
    except CheckpointError as error:
        previous = previous_of(folder)
        if not previous.is_dir():
            raise
        description = verify(previous)
        if warn is not None:
            warn(f"{error}; using the previous checkpoint {previous}")
        return previous, description


def verify(folder: Path) -> dict[str, Any]:
    """Check every SHA-256 of a checkpoint folder and return its description.

    Raises:
        CheckpointError: naming the file that is missing or damaged.
    """
    if not folder.is_dir():
        raise CheckpointError("no such checkpoint", file=folder)
    if not (folder / DESCRIPTION).is_file():
        raise CheckpointError("no checkpoint in this folder", file=folder)
    description = files.read_json(folder / DESCRIPTION, kind=CheckpointError)
    if not isinstance(description, dict) or not isinstance(description.get("files"), dict):
        raise CheckpointError("not a checkpoint description", file=folder / DESCRIPTION)
    body = {k: v for k, v in description.items() if k != "sha256"}
    if _digest(body) != description.get("sha256"):
        raise CheckpointError("damaged, its SHA-256 differs", file=folder / DESCRIPTION)
    if description.get("format") != FORMAT:
        raise CheckpointError(
            f"checkpoint format {description.get('format')}, this version reads {FORMAT}",
            file=folder,
            hint="update segcli",
        )
    for name, digest in description["files"].items():
        file = folder / Path(name).name
        if not file.is_file():
            raise CheckpointError("file of the checkpoint is missing", file=file)
        if files.sha256_file(file) != digest:
            raise CheckpointError("damaged, its SHA-256 differs", file=file)
    return description


def build_from_checkpoint(checkpoint: Checkpoint) -> Segmenter:
    """The model of a checkpoint with its weights, in eval mode on the CPU.

    Raises:
        CheckpointError: when the weights do not fit the model described beside them, or it is
            an exported file, which has none to build from.
    """
    from segcli.models.build import build_model

    if is_exported(checkpoint.path):
        raise CheckpointError(
            "an exported network cannot be built again",
            file=checkpoint.path,
            hint="give the checkpoint it was made of",
        )
    model = build_model(**checkpoint.model_config)
    try:
        model.load_state_dict(checkpoint.state_dict)
    except RuntimeError as error:
        text = " ".join(str(error).split())[:200]
        raise CheckpointError(f"weights do not fit ({text})", file=checkpoint.path) from None
    return model.eval()
