"""Comparison of runs: is one better than another, by how much, and how sure is that?

The first arm is the baseline; every other one is compared with it on the same images. All of
it comes from what `segcli eval` wrote; no network runs but to measure its speed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segcli import files
from segcli.errors import UsageError
from segcli.metrics import bootstrap
from segcli.metrics.bootstrap import Difference, Interval
from segcli.recipes.compare_cost import Curve, costs, training_curve
from segcli.recipes.compare_runs import (
    Arm,
    EvaluatedRun,
    align,
    find_evaluations,
    group_by_config,
    name_arms,
    read_run,
    separate,
)
from segcli.reporting.comparison import FEW_IMAGES, report_comparison
from segcli.reporting.events import NullReporter, Reporter


def compare(
    runs: Sequence[Path] = (),
    *,
    arms: Sequence[tuple[str, Sequence[Path]]] = (),
    evaluation: str | None = None,
    common: bool = False,
    group: bool = True,
    level: float = bootstrap.LEVEL,
    draws: int = bootstrap.DRAWS,
    seed: int = 0,
    speed: bool = True,
    device: str | None = None,
    out: Path | None = None,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Compare evaluated runs, and write compare.json and index.html.

    Args:
        runs: runs, checkpoints or folders with an images.json; the first is the baseline.
        arms: (name, seeds of one recipe), after those of `runs`.
        evaluation: name below RUN/eval; None takes the one that all have.
        common: compare on the images that all have in common, if they differ.
        group: take runs that differ by their seed alone as one arm.
        level, draws, seed: of the intervals.
        speed: measure seconds per image on `device`.
        out: None writes nothing.

    Returns:
        What compare.json holds, see docs/compare.md.

    Raises:
        CheckpointError, DataError, LabelSpaceError, OutputError, UsageError.
    """
    reporter = reporter or NullReporter()
    chosen = _arms(runs, arms, evaluation, group)
    if len(chosen) < 2:
        raise UsageError("nothing to compare with", hint="name at least two runs or arms")
    chosen = align(chosen, common=common, warn=reporter.warning)
    for arm in chosen:
        if len(arm.runs) > 1:
            reporter.message(f"{arm.name}: {', '.join(run.name for run in arm.runs)}")
    result = _result(chosen, level, draws, seed)
    found = costs([arm.runs[0] for arm in chosen], speed=speed, device=device, reporter=reporter)
    for arm, entry, cost in zip(chosen, result["arms"], found, strict=True):
        entry["cost"] = None if cost is None else cost.to_dict()
        entry["curves"] = [_curve(run) for run in arm.runs]
    report_comparison(reporter, result)
    if out is not None:
        _write(result, out)
        reporter.message(f"tables and curves to look at: {out / 'index.html'}")
    return result


def _arms(
    runs: Sequence[Path],
    arms: Sequence[tuple[str, Sequence[Path]]],
    evaluation: str | None,
    group: bool,
) -> list[Arm]:
    named: dict[str, list[Path]] = {}
    for name, paths in arms:
        named.setdefault(name, []).extend(paths)
    every = [*runs, *(path for paths in named.values() for path in paths)]
    folders = find_evaluations(every, evaluation) if every else []
    loaded = [read_run(p, folder) for p, folder in zip(every, folders, strict=True)]
    alone, rest = loaded[: len(runs)], loaded[len(runs) :]
    found = group_by_config(alone) if group and not named else separate(alone)
    groups: list[tuple[str, Sequence[EvaluatedRun]]] = [(arm.name, arm.runs) for arm in found]
    for name, paths in named.items():
        folders_of_arm = [run.evaluation.resolve() for run in rest[: len(paths)]]
        if len(set(folders_of_arm)) < len(paths):
            raise UsageError(f"a run stands twice in arm '{name}'")
        groups.append((name, rest[: len(paths)]))
        rest = rest[len(paths) :]
    return name_arms(groups)


def _result(arms: Sequence[Arm], level: float, draws: int, seed: int) -> dict[str, Any]:
    """Everything but cost and curves, as plain JSON types."""
    first = arms[0].runs[0]
    drawn = bootstrap.draw_scores([c for arm in arms for c in arm.counts], draws=draws, seed=seed)
    starts = [sum(len(arm.runs) for arm in arms[:i]) for i in range(len(arms))]
    parts = [drawn[:, s : s + len(a.runs)] for s, a in zip(starts, arms, strict=True)]
    images = (first.counts.truth > 0).sum(0)
    differences = [
        bootstrap.difference(arms[0].counts, arm.counts, parts[0], part, level=level)
        for arm, part in zip(arms[1:], parts[1:], strict=True)
    ]
    names = list(zip(first.classes, map(int, images), strict=True))
    return {
        "baseline": arms[0].name,
        "images": len(first.images),
        "splits": sorted({split for split, _ in first.images}),
        "label_space": first.scores.get("label_space"),
        "level": level,
        "draws": draws,
        "seed": seed,
        "arms": [_arm(arm, level) for arm in arms],
        "differences": [
            _difference(arm, arms[0], found, names)
            for arm, found in zip(arms[1:], differences, strict=True)
        ],
    }


def _arm(arm: Arm, level: float) -> dict[str, Any]:
    scores = bootstrap.run_scores(arm.counts)
    miou, *classes = bootstrap.seed_intervals(scores, level=level)
    return {
        "name": arm.name,
        "runs": [
            {
                "name": run.name,
                "evaluation": str(run.evaluation),
                "checkpoint": None if run.weights is None else str(run.weights),
                "step": run.scores.get("step"),
                "seed": run.seed,
                "miou": _number(value),
            }
            for run, value in zip(arm.runs, scores[:, 0], strict=True)
        ],
        "miou": _interval(miou),
        "classes": {
            name: _interval(found) for name, found in zip(arm.runs[0].classes, classes, strict=True)
        },
    }


def _difference(
    arm: Arm, baseline: Arm, found: Difference, classes: Sequence[tuple[str, int]]
) -> dict[str, Any]:
    images = len(baseline.runs[0].images)
    miou, *deltas = (
        {"delta": _interval(d), "over_images": _interval(i), "verdict": _verdict(d, found)}
        for d, i in zip(found.delta, found.over_images, strict=True)
    )
    seeds = found.over_seeds
    configs = {run.config for side in (arm, baseline) for run in side.runs}
    return {
        "arm": arm.name,
        "against": baseline.name,
        "identical": found.identical,
        "covers": "images and seeds" if found.seeds_counted else "images",
        "same_recipe": "" not in configs and len(configs) == 1,
        "miou": miou | {"over_seeds": None if seeds is None else _interval(seeds[0])},
        "classes": {
            name: {
                **entry,
                "over_seeds": None if seeds is None else _interval(seeds[1 + k]),
                "images": n,
                "verdict": entry["verdict"] if n >= FEW_IMAGES else "too few images",
            }
            for k, ((name, n), entry) in enumerate(zip(classes, deltas, strict=True))
        },
        "alike": _number(found.alike),
        "images_alike": found.effective_images < images,
        "effective_images": round(found.effective_images),
    }


def _verdict(delta: Interval, found: Difference) -> str:
    if found.identical:
        return "identical"
    if math.isnan(delta.value):
        return "does not occur"
    if not delta.excludes_zero:
        return "not distinguishable"
    return "better" if delta.value > 0 else "worse"


def _curve(run: EvaluatedRun) -> dict[str, Any] | None:
    curve: Curve | None = training_curve(run.log)
    return None if curve is None else {"run": run.name, **curve.to_dict()}


def _interval(interval: Interval) -> dict[str, float | None]:
    return {key: _number(value) for key, value in interval._asdict().items()}


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _write(result: dict[str, Any], out: Path) -> None:
    from segcli.reporting.html.compare import comparison_page

    files.write_json(out / "compare.json", result)
    files.write_text(out / "index.html", comparison_page(result))
