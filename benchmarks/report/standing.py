"""Lists of records: models and recipes in force, models tried before, and cross-checks.

They are names of files in `benchmarks/records/`, in the order of the page that shows them.
"""

from __future__ import annotations

STANDING = (*("real-bert-seeds", "real-bert-long", "real-bert-default", "real-lstm-seeds"),)
"""Hardware-aware models that docs/results.md shows beside published ones."""

ROWS = ("rows-wrn", "rows-resnet32", "rows-lstm", "rows-mrpc", "rows-sst2")
"""The models of docs/replication.md, as far as they are measured; docs/results.md has them too."""

TILE_WISE = ("rows-wrn-tile", "rows-resnet32-tile", "rows-lstm-tile")
"""The same digital models converted directly with one scale per tile, for docs/replication.md."""

REASONS: tuple[tuple[str, str], ...] = (
    ("rows-lstm-tile-std", "with ranges of three standard deviations, not raised for the ADC"),
    ("rows-resnet32-std", "with ranges of three standard deviations, not the 99.9 % percentile"),
)
"""Why a row of docs/replication.md differs from the paper, measured: a record of the same task with
one thing changed, and what that is in words."""

BRIEF = (
    *(("rows-wrn", "direct conversion"), ("rows-wrn", "hardware-aware")),
    *(("real-bert-seeds", "hardware-aware"), ("rows-lstm", "hardware-aware")),
)
"""The README's rows: a record, and the phase of it that is shown."""

IN_FORCE = (
    *("real-bert-max", "real-bert-std", "real-bert-control", "real-bert-seeds", "real-bert-clip"),
    *("real-bert-long-control", "real-bert-long", "real-bert-default"),
    *("real-lstm-direct", "real-lstm-long-control", "real-lstm-seeds", "real-lstm-long"),
)
"""Runs of the same models: converted directly, after fine-tuning or the control's training, and
after hardware-aware training."""

ON_AIHWKIT = (
    *("crosscheck-bert-clip", "crosscheck-bert-probability", "crosscheck-bert-probability-year"),
    *("crosscheck-lstm-long", "crosscheck-lstm-long-year", "crosscheck-lstm-long-year-2"),
    *("crosscheck-lstm-ptb-1s", "crosscheck-lstm-ptb-1y"),
    *("crosscheck-wrn-1s", "crosscheck-wrn-1y"),
    *("crosscheck-resnet32", "crosscheck-resnet32-1s", "crosscheck-resnet32-1s-2"),
    *("crosscheck-resnet32-1y", "crosscheck-resnet32-1y-2"),
)
"""Cross-checks of the task level of those hardware-aware models."""

EARLIER_ON_AIHWKIT = (
    *("crosscheck-bert-trained", "crosscheck-lstm-nodrop"),
    *("crosscheck-lstm-trained", "crosscheck-lstm-trained-year"),
)
"""Cross-checks of models that other models have replaced."""

BY_VERSION = ("crosscheck-1.2.0", "crosscheck-default")
"""Cross-checks of devices and layers, one for each version of aihwkit."""
