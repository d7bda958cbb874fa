"""YAML as configs and label spaces are read: no key twice, keys are words, 1e-3 is a number."""

from __future__ import annotations

import re
from typing import Any

import yaml


class StrictLoader(yaml.SafeLoader):
    """YAML that refuses a key given twice and reads 1e-3 as the number it is."""


StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def _mapping(loader: StrictLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node)
        if not isinstance(key, str):
            raise yaml.YAMLError(f"line {key_node.start_mark.line + 1}: keys are words")
        if key in seen:
            line = key_node.start_mark.line + 1
            raise yaml.YAMLError(f"line {line}: key '{key}' stands there twice")
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


StrictLoader.add_constructor("tag:yaml.org,2002:map", _mapping)


def load(text: str) -> Any:
    """The value that a YAML text is.

    Raises:
        yaml.YAMLError, ValueError, RecursionError: it is none.
    """
    return yaml.load(text, StrictLoader)


def reason(error: Exception) -> str:
    """What is wrong with a text, in one line."""
    return " ".join(re.sub(r'\s*in "<unicode string>"', "", str(error)).split())
