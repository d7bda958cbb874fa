"""`segcli train --print-model`: what would be trained, before there is any data."""

from __future__ import annotations

from segcli.config import Config
from segcli.data.manifest import load_manifest
from segcli.errors import DataError, LabelSpaceError
from segcli.labels import load_label_space
from segcli.models.summary import model_summary
from segcli.recipes.training import build_from_config
from segcli.reporting.events import Reporter


def model_table(config: Config, reporter: Reporter) -> None:
    """Report blocks, shapes, parameters, and the cost of a picture at every size in use.

    Sizes are those of the stages and of validation. Weights are left random: nothing is
    read or fetched for a description.
    """
    sizes = [stage.size for stage in config.train.stages]
    if config.eval.size is not None:
        sizes.append(config.eval.size)
    sizes = list(dict.fromkeys(sizes))
    model = build_from_config(config, _num_classes(config), pretrained=False)
    summary = model_summary(model, sizes)
    height, width = sizes[0]
    reporter.table(
        f"{config.model.decoder} on {config.model.encoder}, one picture of {width}×{height}",
        ["block", "kind", "output (N, C, H, W)", "parameters"],
        [
            [row.name, row.kind, "" if row.shape is None else str(row.shape), f"{row.parameters:,}"]
            for row in summary.rows
        ],
    )
    reporter.table(
        f"{summary.parameters / 1e6:.2f} million parameters",
        ["picture", "multiply-adds", "FLOPs"],
        [
            [
                f"{cost.size[1]}×{cost.size[0]}",
                f"{cost.multiply_adds / 1e9:.2f} G",
                f"{cost.flops / 1e9:.2f} G",
            ]
            for cost in summary.costs
        ],
    )


def _num_classes(config: Config) -> int:
    """K of the config's label space, else of the prepared data, else Cityscapes' 19."""
    try:
        return load_label_space(str(config.data.label_space)).num_classes
    except LabelSpaceError:
        pass
    try:
        return load_manifest(config.data.prepared).label_space.num_classes
    except DataError:
        return load_label_space("cityscapes-19").num_classes
