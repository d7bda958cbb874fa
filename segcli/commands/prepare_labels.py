"""`segcli prepare-labels`: polygons or masks -> a prepared data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

_Root = Annotated[
    Path,
    typer.Argument(
        help="Cityscapes tree (leftImg8bit, gtFine, gtCoarse), CamVid tree (train, trainannot, "
        "...) or a folder with images/ and masks/."
    ),
]
_LabelSpace = Annotated[
    str | None,
    typer.Option(
        help="cityscapes-19, cityscapes-categories, cityscapes-ids, camvid-11 or a YAML file. "
        "Default: what fits the tree, or ROOT/labels.yaml."
    ),
]
_Out = Annotated[Path | None, typer.Option(help="Prepared folder. Default: prepared/<space>.")]
_Also = Annotated[
    str,
    typer.Option(
        help="Write official Cityscapes images too, below OUT/official: a list of labelIds, "
        "labelTrainIds, instanceIds, color, with commas and no spaces."
    ),
]
_OneHot = Annotated[
    bool, typer.Option("--one-hot", help="Store a channel per class too, a bit per pixel.")
]
_Pack = Annotated[
    bool,
    typer.Option(
        "--pack",
        help="Store a copy of images and labels from which a training crop reads only its own "
        "pixels. Training uses it where it is there (config data.packed).",
    ),
]
_PackCodec = Annotated[
    str,
    typer.Option(
        help="How the copy is stored, without loss either way: raw (memory-mapped, the fastest, "
        "four times the bytes of PNGs) or png (tiles, 1.3 times the bytes)."
    ),
]
_PackSplits = Annotated[str, typer.Option(help="Splits to pack: a list with commas and no spaces.")]
_Workers = Annotated[int | None, typer.Option(min=1, help="Processes. Default: one per core.")]
_MaskValues = Annotated[
    str,
    typer.Option(
        help="What masks of an images/ masks/ folder hold: class indices ('index') or the raw "
        "ids of the label space ('raw')."
    ),
]
_SkipBad = Annotated[
    bool, typer.Option("--skip-bad", help="Go on without samples that cannot be used.")
]
_AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]


def prepare_labels(
    root: _Root,
    label_space: _LabelSpace = None,
    out: _Out = None,
    also: _Also = "",
    one_hot: _OneHot = False,
    pack: _Pack = False,
    pack_codec: _PackCodec = "raw",
    pack_splits: _PackSplits = "train",
    workers: _Workers = None,
    mask_values: _MaskValues = "index",
    skip_bad: _SkipBad = False,
    as_json: _AsJson = False,
) -> None:
    """Turn polygons or masks into labels that train. Run again, it redoes only what changed.

    Nothing of the source is ever changed. A file that cannot be used ends the run with a line about
    it, and a list in OUT/prepare-report.json.
    """
    import json

    from segcli.recipes import prepare
    from segcli.recipes.prepare_report import show
    from segcli.reporting.console import ConsoleReporter

    reporter = ConsoleReporter(stderr=as_json)
    try:
        prepared = prepare.prepare_labels(
            root,
            reporter=reporter,
            label_space=label_space,
            out=out,
            also=[name.strip() for name in also.split(",") if name.strip()],
            one_hot=one_hot,
            workers=workers,
            mask_values=mask_values,
            skip_bad=skip_bad,
            pack=pack_codec if pack else "",
            pack_splits=[name.strip() for name in pack_splits.split(",") if name.strip()],
        )
        show(prepared, reporter)
    finally:
        reporter.done()
    if as_json:
        value = {"prepared": str(prepared.manifest.folder), **prepared.to_dict()}
        typer.echo(json.dumps(value | {"next": prepared.next_command}, ensure_ascii=False))
