"""Label spaces in YAML, users' own and shipped: pick, merge and rename, or list mask values."""

from __future__ import annotations

import colorsys
import difflib
from pathlib import Path
from typing import Any

import yaml

from segcli import strict_yaml
from segcli.errors import LabelSpaceError
from segcli.labels import SHIPPED, Color, LabelClass, LabelSpace, load_label_space

_TOP_KEYS = ("name", "base", "classes")
_CLASS_KEYS = ("name", "from", "ids", "color", "category")


def find_label_file(name: str | Path) -> Path:
    """The YAML file `name`: as given, else (a bare name) among those shipped with the configs.

    Raises:
        LabelSpaceError: for a name that is neither a file's nor a label space's.
    """
    path = Path(name)
    is_file_name = path.suffix.lower() in (".yaml", ".yml")
    if path.parent == Path(".") and not (is_file_name and path.is_file()):
        shipped = _shipped_folder() / (path.name if is_file_name else f"{path.name}.yaml")
        if shipped.is_file():
            return shipped
    if is_file_name:
        return path
    known = sorted({*SHIPPED, *(p.stem for p in _shipped_folder().glob("*.yaml"))})
    near = difflib.get_close_matches(str(name), known, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(known)}"
    raise LabelSpaceError(f"unknown label space '{name}'", hint=f"{hint} or a .yaml file")


def _shipped_folder() -> Path:
    from segcli.config_file import shipped_folder

    return shipped_folder() / "label_spaces"


def parse_label_space(path: Path) -> LabelSpace:
    """Read a label space file; see `segcli.labels.load_label_space` for its form.

    Raises:
        LabelSpaceError: one line that names the file and the entry at fault.
    """
    value = _read(path)
    _known_keys(value, _TOP_KEYS, path, "label space file")
    entries = value.get("classes")
    if not isinstance(entries, list) or not entries:
        raise LabelSpaceError("label space without a list of 'classes'", file=path)
    name = path.stem if value.get("name") is None else _word(value["name"], "name", path)
    base_name = value.get("base")
    if base_name is None:
        classes = tuple(_listed_class(e, i, path) for i, e in enumerate(entries))
        return LabelSpace(name, "indices", classes)
    if str(base_name) not in SHIPPED:
        near = difflib.get_close_matches(str(base_name), SHIPPED, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(SHIPPED)}"
        raise LabelSpaceError(f"unknown base '{base_name}'", file=path, hint=hint)
    base = load_label_space(str(base_name))
    classes = tuple(_derived_class(e, base, path) for e in entries)
    return LabelSpace(name, base.source, classes)


def _read(path: Path) -> dict[str, Any]:
    try:
        value = strict_yaml.load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise LabelSpaceError("no such label space file", file=path) from None
    except OSError as error:
        raise LabelSpaceError(f"cannot read ({error.strerror})", file=path) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise LabelSpaceError(f"not valid YAML, {strict_yaml.reason(error)}", file=path) from None
    if not isinstance(value, dict):
        raise LabelSpaceError("a label space file holds 'name', 'base', 'classes'", file=path)
    return value


def _known_keys(value: dict[Any, Any], known: tuple[str, ...], path: Path, where: str) -> None:
    for key in value:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}"
            raise LabelSpaceError(f"unknown key '{key}' in a {where}", file=path, hint=hint)


def _derived_class(entry: Any, base: LabelSpace, path: Path) -> LabelClass:
    """A class made of classes of `base`: 'road' or {name: vehicle, from: [car, bus]}."""
    entry, name = _entry(entry, ("name", "from", "color", "category"), path)
    sources = entry.get("from", [name])
    if not isinstance(sources, list) or not sources:
        raise LabelSpaceError(f"'from' of class '{name}' is not a list", file=path)
    members = [_member(_word(s, f"from of '{name}'", path), base, path) for s in sources]
    return LabelClass(
        name,
        _color(entry.get("color", members[0].color), name, path),
        tuple(i for m in members for i in m.raw_ids),
        _word(entry.get("category", members[0].category), f"category of '{name}'", path),
    )


def _entry(entry: Any, keys: tuple[str, ...], path: Path) -> tuple[dict[str, Any], str]:
    """(what is said of a class, its name); a key without a value is not there."""
    if not isinstance(entry, dict):
        entry = {"name": _word(entry, "class", path)}
    _known_keys(entry, keys, path, "class")
    entry = {key: value for key, value in entry.items() if value is not None}
    if "name" not in entry:
        raise LabelSpaceError(f"class entry {entry!r} has no 'name'", file=path)
    return entry, _word(entry["name"], "name", path)


def _word(value: Any, what: str, path: Path) -> str:
    """A name; YAML reads some words, such as no and on, as something else."""
    if isinstance(value, str) or type(value) is int:
        return str(value)
    raise LabelSpaceError(f"{what} is {value!r}, not a word", file=path, hint="put it in quotes")


def _member(name: str, base: LabelSpace, path: Path) -> LabelClass:
    for c in base.classes:
        if c.name == name:
            return c
    near = difflib.get_close_matches(name, base.class_names, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"it has {', '.join(base.class_names)}"
    raise LabelSpaceError(f"'{base.name}' has no class '{name}'", file=path, hint=hint)


def _listed_class(entry: Any, index: int, path: Path) -> LabelClass:
    """A class of a space without base: {name: thing, ids: [2]}; ids default to the position."""
    entry, name = _entry(entry, tuple(k for k in _CLASS_KEYS if k != "from"), path)
    ids = entry.get("ids", [index])
    if not isinstance(ids, list) or not all(type(i) is int for i in ids):
        raise LabelSpaceError(f"'ids' of class '{name}' is not a list of integers", file=path)
    color = _color(entry.get("color", _default_color(index)), name, path)
    category = _word(entry.get("category", name), f"category of '{name}'", path)
    return LabelClass(name, color, tuple(ids), category)


def _default_color(index: int) -> Color:
    """Well separated hues: steps of the golden angle around the colour wheel."""
    r, g, b = colorsys.hsv_to_rgb(index * 0.381966 % 1.0, 0.75, 0.9 - 0.3 * (index % 2))
    return round(r * 255), round(g * 255), round(b * 255)


def _color(value: Any, name: object, path: Path) -> Color:
    if (
        not isinstance(value, (list, tuple))
        or len(value) != 3
        or not all(type(v) is int and 0 <= v <= 255 for v in value)
    ):
        raise LabelSpaceError(f"colour of class '{name}' is not [R, G, B] in 0-255", file=path)
    return value[0], value[1], value[2]
