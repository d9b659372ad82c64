"""Two presets on the native engine: by how much they differ, when, and because of what."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from aimc_bridge.equivalence import device
from aimc_bridge.equivalence.capture import Layer
from aimc_bridge.equivalence.layer import ALPHA_MEAN, ERROR, GAIN, compare
from aimc_bridge.equivalence.report import Part, Row
from aimc_bridge.equivalence.side import Setting, measure, noisy
from aimc_bridge.equivalence.statistics import mean_test
from aimc_bridge.spec import Preset
from aimc_bridge.times import label

if TYPE_CHECKING:
    import pandas as pd


def causes(first: Preset, second: Preset) -> pd.DataFrame:
    """The fields that differ: part, field, and a column a preset ("-": it has no such field)."""
    import pandas as pd

    names = [str(first), str(second)]
    if names[0] == names[1]:
        names[1] += " (against)"
    rows = []
    for part in Preset.PARTS:
        specs = [getattr(preset, part) for preset in (first, second)]
        values = [spec.values() for spec in specs]
        if part == "pcm":
            values = [{"law": s.law, **v} for s, v in zip(specs, values, strict=True)]
        for name in dict.fromkeys([*values[0], *values[1]]):
            pair = [v.get(name, "-") for v in values]
            if pair[0] != pair[1]:
                rows.append([part, name, *pair])
    return pd.DataFrame(rows, columns=["part", "field", *names], dtype=object)


def contrast_device_part(
    first: Preset, second: Preset, x: float, times: Sequence[float], samples: int, seed: int
) -> Part:
    """Devices with one target, and weights of both signs, as each preset reads them."""
    part = Part()
    signed = [x, -x] if x > 0 else [x]
    pair: list[device.Samples] = []
    for index, preset in enumerate((first, second)):
        laws = device.Native(preset, preset.pcm.netting, seed, x, index)
        found = device.devices(laws, x, times, samples, preset.pcm.g_max_us)
        found |= device.weights(laws, signed, times, samples)
        pair.append(found)
    device.compare(part, pair[0], pair[1], str(second))
    return part


def contrast_layer_part(
    layer: Layer,
    first: Preset,
    second: Preset,
    setting: Setting,
    advance: Callable[[], None] = lambda: None,
) -> Part:
    """One layer under both presets, and under the first with one part of the second at a time."""
    part = Part()
    presets = [first, dataclasses.replace(second, name=f"{second.name} (against)")]
    ours, theirs = (measure(setting.side(layer, p), setting, advance) for p in presets)
    noise = noisy(first) and noisy(second)
    compare(part, layer, first, setting.times, ours, theirs, noise=noise)
    for index, t_s in enumerate(setting.times):
        a, b = (side.column("alpha", index).mean(1) for side in (ours, theirs))
        test = mean_test(a, b, ALPHA_MEAN * abs(float(b.mean())))
        part.rows.append(Row("layer", layer.name, "alpha mean", t_s, test))
    for name in Preset.PARTS:
        if getattr(first, name) == getattr(second, name):
            continue
        changes: dict[str, Any] = {name: getattr(second, name)}
        mixed = dataclasses.replace(first, **changes, name=f"{first.name}, {name} of the other")
        found = measure(setting.side(layer, mixed), setting)
        for index, t_s in enumerate(setting.times):
            for quantity, field, share in (
                ("MVM error", "error", ERROR),
                ("gain mean", "gain", GAIN),
            ):
                a, b = (side.column(field, index) for side in (ours, found))
                margin = max(share * abs(float(b.mean())), 1e-9)
                said = f"{quantity}, {name} of {second.name} alone"
                part.rows.append(Row("layer", layer.name, said, t_s, mean_test(a, b, margin)))
    for row_index, row in enumerate(part.rows):
        part.rows[row_index] = dataclasses.replace(row, reference=str(second))
    return part


def because(table: pd.DataFrame, sides: tuple[str, str]) -> list[str]:
    """A line a time: the mean error of the layers under both presets, and under the first with one
    part of the second."""
    lines = []
    rows = table[(table["level"] == "layer") & table["quantity"].str.startswith("MVM error")]
    for t_s, now in rows.groupby("t_inference"):
        whole = now[now["quantity"] == "MVM error"]
        said = [
            f"{sides[0]} {whole['native'].mean():.4f}",
            f"{sides[1]} {whole['aihwkit'].mean():.4f}",
        ]
        for quantity, part in now[now["quantity"] != "MVM error"].groupby("quantity", sort=False):
            said.append(f"{str(quantity).partition(', ')[2]} {part['aihwkit'].mean():.4f}")
        lines.append(f"mean MVM error of the layers at {label(float(t_s))}: {', '.join(said)}")  # type: ignore[arg-type]
    return lines
