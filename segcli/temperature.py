"""The temperature of a checkpoint: by what its logits are divided to be as sure as it is right.

`segcli eval` fits it and leaves it beside the weights, in ``calibration.json``, which goes
when the checkpoint is replaced. The SHA-256 of the weights stands in it: a file that belongs
to other weights counts for nothing.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from segcli import files
from segcli.checkpoint import DESCRIPTION, WEIGHTS
from segcli.errors import CheckpointError, SegcliError

FILE_NAME = "calibration.json"


def store_temperature(checkpoint: Path, temperature: float, about: dict[str, Any]) -> Path:
    """Write the temperature of the checkpoint folder's weights; `about` says how it was fitted.

    Raises:
        CheckpointError: no checkpoint there.
        OutputError: the folder cannot be written to.
    """
    value = {"temperature": temperature, "weights": _weights(checkpoint), **about}
    files.write_json(checkpoint / FILE_NAME, value)
    return checkpoint / FILE_NAME


def stored_temperature(checkpoint: Path) -> float | None:
    """The temperature of the checkpoint folder's weights, None where there is none for them."""
    try:
        value = files.read_json(checkpoint / FILE_NAME, kind=CheckpointError)
        temperature = float(value["temperature"])
        if value["weights"] != _weights(checkpoint):
            return None
    except (SegcliError, KeyError, TypeError, ValueError):
        return None
    return temperature if math.isfinite(temperature) and temperature > 0 else None


def _weights(checkpoint: Path) -> str:
    description = files.read_json(checkpoint / DESCRIPTION, kind=CheckpointError)
    return str(description["files"][WEIGHTS])
