"""Finding and reading a config: strict YAML, `--set` overrides, errors with a suggestion."""

from __future__ import annotations

import copy
import difflib
import json
import re
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from segcli import strict_yaml
from segcli.config import PRESETS, Config, DistillConfig, LossConfig
from segcli.errors import ConfigError

# What YAML calls these things, in place of Python's words for them.
_WORDS = {
    "tuple_type": "should be a list",
    "dict_type": "should be a mapping",
    "model_type": "should be a mapping",
    "too_short": "should have {min_length} or more items",
    "too_long": "should have {max_length} items at most",
    "missing": "an item is missing",
}


# Mappings whose names a user adds to: a name beside the default ones, not in their place.
_FREE: dict[tuple[str | int, ...], dict[Any, float]] = {
    ("train", "loss", "terms"): {**LossConfig().terms},
    ("distill", "losses"): {**DistillConfig().losses},
}


def shipped_folder() -> Path:
    """The folder of shipped configs: inside the wheel, or beside the package in a checkout."""
    inside = Path(__file__).parent / "configs"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "configs"


def shipped_names() -> list[str]:
    """File names of the shipped configs, sorted."""
    return sorted(p.name for p in shipped_folder().glob("*.yaml"))


def find_config(name: str | Path) -> Path:
    """The config file `name`: as given, else (a bare name) among the shipped ones.

    Raises:
        ConfigError: when there is none, with the nearest shipped name.
    """
    path = Path(name)
    if path.is_file():
        return path
    if path.is_dir():
        raise ConfigError("a config is a YAML file, this is a folder", file=path)
    names = [path.name] if path.suffix else [f"{path.name}.yaml", f"{path.name}.yml"]
    if path.parent == Path("."):
        for candidate in names:
            if (shipped_folder() / candidate).is_file():
                return shipped_folder() / candidate
    # All names end alike, which alone makes any two of them half the same.
    near = difflib.get_close_matches(names[0], shipped_names(), n=1, cutoff=0.75)
    hint = f"did you mean '{near[0]}'?" if near else f"shipped: {', '.join(shipped_names())}"
    raise ConfigError("no such config", file=path, hint=hint)


def load_config(name: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read the config `name` and apply `overrides` such as ``train.optimizer.lr=1e-3``.

    Raises:
        ConfigError: one line that names the file and the key, with the nearest known key.
    """
    path, value = read_config(name)
    return resolve_config(value, overrides, file=path)


def read_config(name: str | Path) -> tuple[Path, dict[str, Any]]:
    """The file that `name` means, and the mapping in it; its keys are not looked at.

    Raises:
        ConfigError: no such file, or it is not a YAML mapping.
    """
    path = find_config(name)
    try:
        value = strict_yaml.load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read ({error.strerror})", file=path) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"not valid YAML, {strict_yaml.reason(error)}", file=path) from None
    if value is None:
        value = {}
    if not isinstance(value, dict):
        raise ConfigError("a config holds 'data', 'model', 'train', 'eval'", file=path)
    return path, value


def resolve_config(
    value: dict[str, Any], overrides: Sequence[str] = (), *, file: Path | None = None
) -> Config:
    """Check a mapping to which `overrides` are applied, in place; errors as in `load_config`."""
    for override in overrides:
        _apply(value, override)
    return parse_config(value, file=file)


def parse_config(value: Any, *, file: Path | None = None) -> Config:
    """Check a mapping against the schema; see `load_config` for the errors."""
    try:
        return Config.model_validate(value)
    except ValidationError as error:
        problems = [p for p in error.errors(include_url=False) if not _follows(p)]
        text, hint = _explain(problems[0])
        if len(problems) > 1:
            text += f" and {len(problems) - 1} more"
        raise ConfigError(text, file=file, hint=hint) from None


def _follows(problem: Any) -> bool:
    """Whether pydantic takes a list for too short only because its items are wrong."""
    short = problem["type"] == "too_short"
    return bool(short and len(problem["input"]) >= problem["ctx"]["min_length"])


def _apply(value: dict[str, Any], override: str) -> None:
    """Set one key in place; list items go by number: ``train.stages.0.epochs=2``."""
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(f"'--set {override}' is not of the form a.b=value")
    try:
        new = strict_yaml.load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        raise ConfigError(f"'--set {override}': the value is not valid YAML") from None
    here: Any = value
    path: tuple[str | int, ...] = ()
    for part in parts[:-1]:
        if isinstance(here, list):
            here = here[_position(here, part, override)]
        else:
            if here.get(part) is None:
                default = _FREE.get((*path, part)) or _default_at((*path, part))
                # Of others than lists, whose items are counted, and free mappings: a section
                # that was spelt out would hide which of its keys the user has chosen.
                spelt = isinstance(default, list) or (*path, part) in _FREE
                here[part] = copy.copy(default) if spelt else {}
            here = here[part]
        path = (*path, part)
        if not isinstance(here, (dict, list)):
            raise ConfigError(f"'--set {override}': '{'.'.join(map(str, path))}' is one value")
    if isinstance(here, list):
        here[_position(here, parts[-1], override)] = new
    else:
        here[parts[-1]] = new
        if path == ("train", "augment") and parts[-1] == "preset":
            # A preset chosen anew brings its own values, also over those of a resolved config.
            for name in PRESETS.get(str(new), {}):
                here.pop(name, None)


def _position(items: list[Any], part: str, override: str) -> int:
    if not part.isdecimal() or int(part) >= len(items):
        raise ConfigError(f"'--set {override}': '{part}' is no position in a list of {len(items)}")
    return int(part)


def _default_at(path: tuple[str | int, ...]) -> Any:
    """What the schema has at a path that the YAML leaves out: needed below a default list."""
    here: Any = Config().to_dict()
    for part in path:
        if isinstance(here, list):
            here = here[int(part)] if str(part).isdecimal() and int(part) < len(here) else {}
        else:
            here = here.get(part, {}) if isinstance(here, dict) else {}
    return here if isinstance(here, (dict, list)) else {}


def _explain(problem: Any) -> tuple[str, str]:
    """(what is wrong, hint) for one pydantic error."""
    loc = tuple(problem["loc"])
    name = ".".join(str(part) for part in loc)
    if problem["type"] == "extra_forbidden":
        known = _fields_at(loc[:-1])
        near = difflib.get_close_matches(str(loc[-1]), known, n=1, cutoff=0.6)
        near = near or _elsewhere(str(loc[-1]))
        hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}"
        return f"unknown key '{name}'", hint
    if loc[-1:] == ("[key]",):
        return _explain_name(loc[:-1], str(problem.get("ctx", {}).get("expected", "")))
    if words := _WORDS.get(problem["type"]):
        message = words.format(**problem.get("ctx", {}))
    else:
        message = str(problem["msg"]).removeprefix("Value error, ").removeprefix("Input ")
    message = message[:1].lower() + message[1:]
    if not loc:
        return message, ""
    return f"'{name}': {message}, not {problem['input']!r}", ""


def _explain_name(loc: tuple[str | int, ...], expected: str) -> tuple[str, str]:
    """As `_explain`, of a key that is one of the names in `expected`, such as a loss."""
    known = re.findall(r"'([^']*)'", expected)
    near = difflib.get_close_matches(str(loc[-1]), known, n=1, cutoff=0.6)
    hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}"
    return f"unknown key '{'.'.join(map(str, loc))}'", hint


def _fields_at(loc: tuple[str | int, ...]) -> list[str]:
    model: type[BaseModel] = Config
    for part in loc:
        if isinstance(part, int):
            continue
        annotation: Any = model.model_fields[part].annotation
        inner = [a for a in typing.get_args(annotation) if a is not Ellipsis]
        candidates = [annotation, *inner]
        model = next(c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel))
    return list(model.model_fields)


def _elsewhere(key: str) -> list[str]:
    """The full name of a key that is spelt like `key` but lives in another section."""
    names: dict[str, str] = {}

    def visit(value: Any, path: tuple[str, ...]) -> None:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for part, inner in items:
            here = (*path, str(part))
            names.setdefault(here[-1], ".".join(here))
            if isinstance(inner, (dict, list)):
                visit(inner, here)

    visit(Config().to_dict(), ())
    return [names[n] for n in difflib.get_close_matches(key, names, n=1, cutoff=0.6)]


def json_schema() -> str:
    """The schema as JSON text, for editors; `configs/schema.json` holds it."""
    return json.dumps(Config.model_json_schema(), indent=1) + "\n"
