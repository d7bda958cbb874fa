"""Transforms of the user's choice: albumentations by name, checked before training starts.

A name or an argument that does not exist is an error here; albumentations itself only warns
and goes on without it.
"""

from __future__ import annotations

import difflib
import inspect
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from segcli.errors import ConfigError

# Classes of albumentations that are no transforms themselves.
_BASES = {"BasicTransform", "DualTransform", "ImageOnlyTransform", "Transform3D"}


def pixel_transforms(extra: Sequence[Mapping[str, Any]]) -> Any:
    """The albumentations pipeline of entries such as ``{name: GaussNoise, p: 0.2}``, in order.

    Each entry is tried once on a small picture, so that what fails, fails here.

    Raises:
        ConfigError: an unknown name or argument, a value out of range, a transform that
            moves pixels or that does not give an RGB picture back.
    """
    import albumentations as A

    return A.Compose([_build(dict(entry)) for entry in extra])


def _build(entry: dict[str, Any]) -> Any:
    name = entry.pop("name", None)
    if not isinstance(name, str):
        raise ConfigError(
            f"train.augment.extra: an entry without a name: {entry}",
            hint="such as {name: GaussNoise, p: 0.2}",
        )
    kind = _find(name)
    known = list(inspect.signature(kind).parameters)
    for argument in entry:
        if argument not in known:
            near = difflib.get_close_matches(argument, known, n=1)
            raise ConfigError(
                f"train.augment.extra: {name} has no argument '{argument}'",
                hint=f"did you mean '{near[0]}'?" if near else f"has {', '.join(known)}",
            )
    with warnings.catch_warnings():
        # What albumentations warns of here are arguments that it drops or overrides.
        warnings.simplefilter("error", UserWarning)
        try:
            transform = kind(**entry)
            _try(kind(**{**entry, "p": 1.0}))
        except Exception as error:
            raise ConfigError(f"train.augment.extra: {name} {_first(error)}") from None
    return transform


def _find(name: str) -> Any:
    """The class of that name, if it is one of pixels."""
    import albumentations as A

    kinds = {n: k for n, k in vars(A).items() if inspect.isclass(k)}
    pixels = {
        n: k for n, k in kinds.items() if issubclass(k, A.ImageOnlyTransform) and n not in _BASES
    }
    if name in pixels:
        return pixels[name]
    if name in kinds and issubclass(kinds[name], A.BasicTransform) and name not in _BASES:
        raise ConfigError(
            f"train.augment.extra: {name} is not a transform of pixels alone",
            hint="it would part the image from its label; "
            "scale, crop and flip are keys of train.augment",
        )
    near = difflib.get_close_matches(name, pixels, n=1)
    lower = [n for n in pixels if n.lower() == name.lower()]
    raise ConfigError(
        f"train.augment.extra: no transform '{name}' in albumentations",
        hint=f"did you mean '{(lower or near)[0]}'?"
        if lower or near
        else "its names are CamelCase",
    )


def _try(transform: Any) -> None:
    """Run `transform` once; what comes back has to be a picture like the one given."""
    import albumentations as A

    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    pipeline = A.Compose([transform])
    pipeline.set_random_seed(0)
    result = np.asarray(pipeline(image=picture)["image"])
    if result.dtype != np.uint8 or result.shape != picture.shape:
        raise ValueError(
            f"gives {result.dtype} {result.shape} where the network wants uint8 {picture.shape}"
        )


def _first(error: Exception) -> str:
    """The first problem, without the library's own frame around it."""
    problems = getattr(error, "errors", None)
    if callable(problems):
        first = problems()[0]
        where = ".".join(str(part) for part in first.get("loc", ()))
        return f"{where}: {first.get('msg', '')}".strip(": ")
    lines = str(error).splitlines()
    if len(lines) >= 3 and "validation error" in lines[0]:
        return f"{lines[1].strip()}: {lines[2].split('[type=')[0].strip()}"
    return " ".join(str(error).split())[:200] or type(error).__name__
