"""What torchrun tells us, read from the environment: no torch needed to ask."""

from __future__ import annotations

import os


def rank() -> int:
    """This process's number among all, 0 when started alone."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """How many processes work on this run, 1 when started alone."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this process writes the files and talks to the user."""
    return rank() == 0
