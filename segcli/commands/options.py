"""Options that several commands share, so that they read the same everywhere."""

from __future__ import annotations

from typing import Annotated

import typer

Device = Annotated[
    str | None, typer.Option(help="cpu, cuda or cuda:N; CUDA is taken where there is one.")
]
Precision = Annotated[
    str | None, typer.Option(help="fp32, bf16 or fp16; default: as validated in training.")
]
