"""Exported networks: what an ONNX or OpenVINO file says of itself.

Everything that a checkpoint says beside its weights travels inside the file, as JSON under the
name ``segcli``: in ``metadata_props`` of ONNX, in ``rt_info`` of OpenVINO. A file alone is
enough. The folder that `segcli export` writes also has an ``export.json`` with the SHA-256 of
the files beside it, which are then verified before they are used.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

from segcli import files
from segcli.errors import CheckpointError, SegcliError

FORMAT = 1
ONNX, OPENVINO = ".onnx", ".xml"
NAME, REPORT = "model", "export.json"
# The least that a file needs to be used in place of a checkpoint.
NEEDED = ("format", "label_space", "inference", "precision", "multiple", "size")
_KEY = "segcli"


class ExtraMissingError(SegcliError):
    """A library of the extra `export` is not installed."""


def import_extra(name: str) -> Any:
    """The module `name`, which comes with the extra `export`.

    Raises:
        ExtraMissingError: it is not installed, or does not load here.
    """
    # OpenVINO sends its maker a message at import; without this module it cannot, and says
    # nothing about it. NNCF does the same.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        return importlib.import_module(name)
    except ImportError as error:
        what = f"{name.split('.')[0]} is needed for exported networks"
        if not isinstance(error, ModuleNotFoundError):
            what += f", and does not load ({' '.join(str(error).split())[:120]})"
        raise ExtraMissingError(what, hint="pip install 'segcli[export]'") from None


def is_exported(path: str | Path) -> bool:
    """Whether `path` is a file that an export could be; it is not opened."""
    path = Path(path)
    return path.suffix.lower() in (ONNX, OPENVINO) and path.is_file()


def exported_in(folder: Path) -> Path | None:
    """The exported file in a folder that `segcli export` wrote, or None."""
    found = (folder / f"{NAME}{suffix}" for suffix in (ONNX, OPENVINO))
    return next((file for file in found if file.is_file()), None)


def write_metadata(model: Any, description: dict[str, Any]) -> None:
    """Put `description`, JSON types, into an `onnx.ModelProto` or an `openvino.Model`."""
    text = json.dumps(description, allow_nan=False)
    if hasattr(model, "set_rt_info"):
        model.set_rt_info(text, [_KEY])
        return
    kept = [entry for entry in model.metadata_props if entry.key != _KEY]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    model.metadata_props.add(key=_KEY, value=text)


def read_description(path: str | Path) -> dict[str, Any]:
    """What the exported file at `path` says of itself, verified as far as it can be.

    Raises:
        CheckpointError: not a file of `segcli export`, a newer one, or a damaged one.
        ExtraMissingError: the library that reads it is not installed.
    """
    path = Path(path)
    _verify(path)
    text = (_onnx_text if path.suffix.lower() == ONNX else _openvino_text)(path)
    if text is None:
        raise CheckpointError("not written by segcli export", file=path)
    try:
        description = json.loads(text)
    except (ValueError, RecursionError):
        description = None
    if not isinstance(description, dict):
        raise CheckpointError("its description is damaged", file=path)
    if description.get("format") != FORMAT:
        raise CheckpointError(
            f"export format {description.get('format')}, this version reads {FORMAT}",
            file=path,
            hint="update segcli",
        )
    if missing := [key for key in NEEDED if key not in description]:
        raise CheckpointError(f"its description lacks {', '.join(missing)}", file=path)
    return description


def _verify(path: Path) -> None:
    """Hold the files beside ``export.json`` against the SHA-256 in it, where there is one."""
    report = path.parent / REPORT
    if not report.is_file():
        return
    listed = files.read_json(report, kind=CheckpointError)
    digests = listed.get("files") if isinstance(listed, dict) else None
    if not isinstance(digests, dict) or path.name not in digests:
        return
    for name, digest in digests.items():
        file = path.parent / Path(name).name
        if not file.is_file():
            raise CheckpointError("file of the export is missing", file=file)
        if files.sha256_file(file) != digest:
            raise CheckpointError("damaged, its SHA-256 differs", file=file, hint="export again")


def _onnx_text(path: Path) -> str | None:
    onnx = import_extra("onnx")
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf has errors of its own kinds
        raise unreadable(path, error) from None
    return next((str(e.value) for e in model.metadata_props if e.key == _KEY), None)


def _openvino_text(path: Path) -> str | None:
    model = read_openvino(path)
    return str(model.get_rt_info([_KEY]).value) if model.has_rt_info([_KEY]) else None


def read_openvino(path: Path) -> Any:
    """The `openvino.Model` of an ONNX file or of an .xml with its .bin.

    Raises:
        CheckpointError: it cannot be read.
    """
    openvino = import_extra("openvino")
    try:
        if path.suffix.lower() == OPENVINO:
            with open(path, "rb") as handle:
                # Other files would be tried as all that OpenVINO knows, with a page of words.
                if b"<net " not in handle.read(2**10):
                    raise CheckpointError("not an OpenVINO network", file=path)
        return openvino.Core().read_model(path)
    except (RuntimeError, OSError) as error:
        raise unreadable(path, error) from None


def unreadable(path: Path, error: Exception) -> CheckpointError:
    """One line for what a library says of a file that it cannot use."""
    # The last line is the reason; those before name places in the library's source.
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return CheckpointError(f"cannot read network ({lines[-1].strip()[:160]})", file=path)
