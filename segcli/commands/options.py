"""Options that several commands share, so that they read the same everywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from segcli.errors import UsageError

if TYPE_CHECKING:
    from segcli.inference.tta import TTA

Device = Annotated[
    str | None, typer.Option(help="cpu, cuda or cuda:N; CUDA is taken where there is one.")
]
Precision = Annotated[
    str | None, typer.Option(help="fp32, bf16 or fp16; default: as validated in training.")
]


def views(tta: bool, scales: str | None, flip: bool) -> TTA | None:
    """What `--tta` averages, of ``--scales 0.75,1,1.25`` and ``--flip``; None without it."""
    from segcli.inference.tta import TTA

    if not tta:
        if scales is not None or not flip:
            raise UsageError("--scales and --no-flip say what --tta averages", hint="add --tta")
        return None
    if scales is None:
        return TTA(flip=flip)
    try:
        return TTA(flip=flip, scales=tuple(float(s) for s in scales.split(",")))
    except ValueError:
        raise UsageError(f"--scales takes numbers, not '{scales}'", hint="0.75,1,1.25") from None
