"""The house: arrows point down, files stay short, and help needs nothing heavy."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "segcli"
FILES = sorted(PACKAGE.rglob("*.py"))
ROOMS = {"data", "models", "losses", "metrics", "optim", "inference", "reporting"}
# What a room may import besides itself and the base files.
ALLOWED = {
    "commands": {"recipes", *ROOMS},
    "recipes": ROOMS,
    "inference": {"models"},
    "reporting": {"metrics"},
}
# Recipes that may be called by others, and who may call them.
RECIPE_CALLS = {
    "distill": {"check_config"},
    "evaluate": {"train", "training_validation", "distill_look", "distill_compare"},
    "report": {"evaluate_run"},
    "stress": {"evaluate_run"},
    "tta": {"evaluate_run"},
    "train": {"distill", "distill_control"},
    "training": {
        *("train", "describe_model", "check_config", "preview"),
        *("distill", "distill_control", "distill_look", "distill_step", "distill_lessons"),
    },
}


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def room_of(module: str) -> str | None:
    parts = module.split(".")
    if parts[0] != "segcli" or len(parts) < 2:
        return None
    return parts[1] if (PACKAGE / parts[1]).is_dir() else None


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_arrows_point_down(path: Path) -> None:
    relative = path.relative_to(PACKAGE)
    room = relative.parts[0] if len(relative.parts) > 1 else None
    if relative.name in ("__main__.py", "checkpoint.py"):
        return  # the door, and the builder's one arrow into models
    allowed = ALLOWED.get(room, set()) if room else set()
    for module in imports(path):
        target = room_of(module)
        assert target is None or target == room or target in allowed, f"{relative} -> {module}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_recipes_do_not_call_each_other(path: Path) -> None:
    relative = path.relative_to(PACKAGE)
    if relative.parts[0] != "recipes":
        return
    for module in imports(path):
        if not module.startswith("segcli.recipes."):
            continue
        other = module.split(".")[2]
        helper = other.startswith(f"{path.stem}_") or path.stem.startswith(f"{other}_")
        room = other.split("_")[0]
        family = path.stem.split("_")[0] == room
        assert helper or family or path.stem in RECIPE_CALLS.get(room, set()), module


def test_files_stay_short() -> None:
    lengths = {str(p.relative_to(PACKAGE)): len(p.read_text().splitlines()) for p in FILES}
    long = {name: n for name, n in lengths.items() if n > 320}
    assert not long


def test_functions_stay_short() -> None:
    """A command's signature is its list of options: there the body alone counts."""
    long = [
        f"{path.relative_to(PACKAGE)}:{node.name}"
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        for first in [node.body[0].lineno if path.parent.name == "commands" else node.lineno]
        if (node.end_lineno or 0) - first + 1 > 70
    ]
    assert not long


HEAVY = ("torch", "torchvision", "cv2", "albumentations", "numpy", "PIL", "yaml")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["train", "--help"],
        ["check", "--help"],
        ["--version"],
        ["predict", "--help"],
        ["distill", "--help"],
        ["video", "--help"],
    ],
)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\n"
        "from segcli.commands.app import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        f"print('HEAVY', [m for m in {HEAVY!r} if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60
    )
    assert result.stdout.strip().endswith("HEAVY []"), result.stdout + result.stderr


def test_configs_and_marker_are_in_the_wheel_definition() -> None:
    text = (PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8")
    assert 'configs = "segcli/configs"' in text
    assert (PACKAGE / "py.typed").is_file()
