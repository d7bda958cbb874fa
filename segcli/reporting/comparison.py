"""A comparison of runs as sentences and tables: the console's part, and the page's words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from segcli.reporting.events import Reporter

Result = Mapping[str, Any]
# Classes that occur in fewer images than this get no verdict.
FEW_IMAGES = 10
MINUS = "\u2212"
_BARS = "▁▂▃▄▅▆▇█"


def report_comparison(reporter: Reporter, result: Result) -> None:
    """A table for each difference with its sentence, then the arms side by side."""
    for entry in result["differences"]:
        title = f"{entry['arm']} against {entry['against']}, {result['images']} images"
        reporter.table(title, *difference_rows(result, entry))
        reporter.message(sentence(result, entry))
        for line in caveats(result, entry):
            reporter.message(line)
    reporter.table("", *arm_rows(result))


def difference_rows(result: Result, entry: Result) -> tuple[Sequence[str], list[list[str]]]:
    """Columns and rows: mIoU and every class with both scores, difference, interval, verdict."""
    arms = {arm["name"]: arm for arm in result["arms"]}
    before, after = arms[entry["against"]], arms[entry["arm"]]
    level = f"{100 * result['level']:g} % interval"
    columns = ("class", f"{before['name']} %", f"{after['name']} %", "Δ points", level, "verdict")
    parts = [("mIoU", before["miou"], after["miou"], entry["miou"])]
    parts += [
        (name, before["classes"][name], after["classes"][name], found)
        for name, found in entry["classes"].items()
    ]
    return columns, [
        [
            name,
            percent(old["value"]),
            percent(new["value"]),
            points(found["delta"]["value"]),
            span(found["delta"]),
            found["verdict"],
        ]
        for name, old, new, found in parts
    ]


def sentence(result: Result, entry: Result) -> str:
    """What the interval says about mIoU, in one sentence."""
    arm, against, miou = entry["arm"], entry["against"], entry["miou"]
    delta, level = miou["delta"], f"{100 * result['level']:g} % interval"
    if entry["identical"]:
        return f"{arm} and {against} are identical: the same counts in every image."
    if delta["low"] is None:
        return f"Nothing can be said about {arm} and {against} from {result['images']} images."
    reach = f"{level} {points(delta['low'])} to {points(delta['high'])}"
    if miou["verdict"] == "not distinguishable":
        return (
            f"{arm} and {against} are not distinguishable: {points(delta['value'])} points of "
            f"mIoU, {reach}."
        )
    size = f"{abs(100 * delta['value']):.2f}"
    return f"{arm} is {miou['verdict']} than {against} by {size} points of mIoU ({reach})."


def caveats(result: Result, entry: Result) -> list[str]:
    """What the interval means, and what it does not cover."""
    lines = ["" if entry["identical"] else meaning(result, entry)]
    return [line for line in (*lines, dependence(result, entry), chance(result, entry)) if line]


def dependence(result: Result, entry: Result) -> str:
    """A note where images tell less than as many independent ones; "" otherwise."""
    if not entry["images_alike"]:
        return ""
    return (
        f"Neighbouring images are alike (correlation {entry['alike']:.2f}), as frames of one drive "
        f"are: the {result['images']} tell as much as {entry['effective_images']} would, and the "
        "interval is wider for it."
    )


def chance(result: Result, entry: Result) -> str:
    """How many classes would differ by chance alone; "" where none seems to."""
    sure = [e for e in entry["classes"].values() if e["verdict"] in ("better", "worse")]
    tested = sum(e["delta"]["low"] is not None for e in entry["classes"].values())
    number = tested * (1 - result["level"])
    if not sure or number < 0.5:
        return ""
    return f"Of {tested} classes about {number:.1f} would seem to differ by chance where none does."


def meaning(result: Result, entry: Result) -> str:
    """What the interval is an interval over."""
    counts = {arm["name"]: len(arm["runs"]) for arm in result["arms"]}
    if entry["covers"] == "images":
        if entry["same_recipe"]:
            return (
                "Both were trained alike but for the seed: this is how far a seed moves a network, "
                "and no verdict on a recipe. The interval is over images."
            )
        single = [n for n in (entry["against"], entry["arm"]) if counts[n] == 1]
        return (
            "The interval is over images: of these very networks on other images like these. How "
            f"much another seed would change is not known from one training of "
            f"{' and of '.join(single)}."
        )
    images, seeds = entry["miou"]["over_images"], entry["miou"]["over_seeds"]
    return (
        f"The interval is over images and seeds ({counts[entry['against']]} and "
        f"{counts[entry['arm']]} trainings): of the recipes, not of single networks. Over images "
        f"alone it is {span(images)}, over seeds alone {span(seeds)}."
    )


def arm_rows(result: Result) -> tuple[Sequence[str], list[list[str]]]:
    """Columns and rows: the arms with score, cost and training."""
    several = any(len(arm["runs"]) > 1 for arm in result["arms"])
    columns = ["arm", "runs", "mIoU %"]
    columns += [f"{100 * result['level']:g} % over seeds"] if several else []
    columns += ["parameters", "FLOPs", "ms per image", "training", "steps", "minutes"]
    rows = []
    for arm in result["arms"]:
        cost, curves = arm.get("cost") or {}, [c for c in arm.get("curves", ()) if c]
        row = [arm["name"], str(len(arm["runs"])), percent(arm["miou"]["value"])]
        row += [plain_span(arm["miou"])] if several else []
        row += [*cost_cells(cost), sparkline([v for _, v in curves[0]["miou"]]) if curves else "-"]
        seconds = [c["seconds"] for c in curves if c["seconds"]]
        row.append(f"{curves[0]['steps']:,}" if curves else "-")
        row.append(f"{sum(seconds) / len(seconds) / 60:.1f}" if seconds else "-")
        rows.append(row)
    return columns, rows


def cost_cells(cost: Result) -> list[str]:
    """Parameters, FLOPs and milliseconds as text; dashes where they are not known."""
    if not cost:
        return ["-", "-", "-"]
    height, width = cost["size"]
    seconds = cost["seconds"]
    return [
        f"{cost['parameters'] / 1e6:.2f} M",
        f"{cost['flops'] / 1e9:.1f} G at {width}×{height}",
        "-" if seconds is None else f"{1000 * seconds:.1f} ({cost['device']}, {cost['precision']})",
    ]


def sparkline(values: Sequence[float]) -> str:
    """A curve in one line of text, from its lowest value to its highest."""
    if len(values) < 2:
        return "-"
    low, high = min(values), max(values)
    shown = values if len(values) <= 24 else [values[i * len(values) // 24] for i in range(24)]
    return "".join(_BARS[int(7 * (v - low) / (high - low))] if high > low else "▁" for v in shown)


def percent(value: float | None) -> str:
    """A rate in percent, a dash where there is none."""
    return "-" if value is None else f"{100 * value:.2f}"


def points(value: float | None) -> str:
    """A difference of rates in points with its sign; a plain 0 where it is exactly that."""
    if value is None:
        return "-"
    return "0" if value == 0 else f"{100 * value:+.2f}".replace("-", MINUS)


def span(interval: Result) -> str:
    """An interval of a difference, in points."""
    if interval["low"] is None:
        return "-"
    return f"{points(interval['low'])} to {points(interval['high'])}"


def plain_span(interval: Result) -> str:
    """An interval of a rate, in percent."""
    if interval["low"] is None:
        return "-"
    return f"{percent(interval['low'])} to {percent(interval['high'])}"
