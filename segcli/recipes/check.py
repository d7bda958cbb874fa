"""`segcli check`: all faults of a data set, a config or the installation at once.

What a target is follows from what lies there: `manifest.json` makes a prepared data set, a
YAML file a config, any other folder a raw data set; without a target it is the installation.
Each kind imports its own libraries: a broken one does not keep the installation from being
looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from segcli.errors import ConfigError, UsageError
from segcli.findings import Finding
from segcli.recipes.check_report import CheckReport
from segcli.reporting.events import Reporter

RAW, PREPARED, CONFIG, INSTALLATION = "raw", "prepared", "config", "installation"
_MANIFEST = "manifest.json"
# What a preparation leaves behind, even one that broke off before the manifest.
_TRACES = (_MANIFEST, "prepare-report.json", ".journal.jsonl")


def check(
    target: str | None,
    *,
    reporter: Reporter,
    overrides: Sequence[str] = (),
    label_space: str | None = None,
    mask_values: str = "index",
    device: str | None = None,
) -> CheckReport:
    """Look at everything there is to `target` and report each fault with its code.

    Args:
        target: a raw data set, a prepared folder, a config (a path or a shipped name), a run
            folder (its config), or None for the installation.
        overrides: keys of a config, ``a.b=value``.
        label_space, mask_values: of a raw data set, as for `prepare_labels`.
        device: that a config is to be trained on; None takes CUDA where there is one.

    Raises:
        UsageError: nothing of that name, or an option that does not belong to the target.
    """
    kind, path = _recognise(target)
    if overrides and kind != CONFIG:
        raise UsageError("--set is for a config", file=target)
    if (label_space is not None or mask_values != "index") and kind != RAW:
        raise UsageError("--label-space and --mask-values are for a raw data set", file=target)
    found = _findings(kind, path, reporter, overrides, label_space, mask_values, device)
    return CheckReport(kind, target, tuple(found))


def _findings(
    kind: str,
    path: Path,
    reporter: Reporter,
    overrides: Sequence[str],
    label_space: str | None,
    mask_values: str,
    device: str | None,
) -> list[Finding]:
    if kind == INSTALLATION:
        from segcli.recipes.check_machine import check_machine

        return check_machine()
    if kind == CONFIG:
        from segcli.recipes.check_config import check_config

        return check_config(path, reporter, overrides=overrides, device=device)
    from segcli.recipes.check_data import check_prepared, check_raw

    if kind == PREPARED:
        return check_prepared(path, reporter)
    return check_raw(path, reporter, label_space=label_space, mask_values=mask_values)


def _run_named(path: Path) -> Path:
    """The newest run of that name without its time, where nothing else is called so."""
    if path.exists() or not path.parent.name or not path.parent.is_dir():
        return path
    from segcli.runs import newest_named

    return newest_named(path) or path


def _recognise(target: str | None) -> tuple[str, Path]:
    """(kind, path) of what was typed."""
    if target is None:
        return INSTALLATION, Path()
    path = _run_named(Path(target))
    if path.is_dir():
        if any((path / name).exists() for name in _TRACES):
            return PREPARED, path
        if (path / "config.yaml").is_file():
            return CONFIG, path / "config.yaml"
        return RAW, path
    if path.name == _MANIFEST and path.is_file():
        return PREPARED, path.parent
    if path.is_file() and path.suffix.lower() not in (".yaml", ".yml"):
        hint = "give the folder of a data set, a config, or nothing"
        raise UsageError("cannot check a file of this kind", file=path, hint=hint)
    from segcli.config_file import find_config

    try:
        return CONFIG, find_config(path)
    except ConfigError as error:
        raise UsageError(
            "no such data set or config", file=path, hint=error.hint or "see segcli check --help"
        ) from None
