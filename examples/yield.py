"""Accuracy against yield: how many broken devices a small classifier survives.

Three models are measured on the same chips: as it is, trained with the noise of the devices, and
trained with noise and faults, for as many steps. The difference of the last two is what faults in
training are worth.

Run `python examples/yield.py`. It needs no download, takes about two minutes, prints the tables and
draws docs/figures/yield.png. The task is scikit-learn's digits (8 x 8 pixels, 10 classes); the
chips are those of `rasch2023` an hour after programming.
"""

from pathlib import Path

import pandas as pd
import torch
from scipy import stats
from sklearn.datasets import load_digits
from torch import nn

from aimc_bridge import HWATraining, calibrate, convert, devices, drawing, sweep, train
from presets import rasch2023

FIGURE = Path(__file__).parent.parent / "docs" / "figures" / "yield.png"
KINDS = ("stuck_at_zero", "stuck_at_gmax", "dead_rows")
RATES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2)
TRAINED_AT = 0.05  # the rate of stuck devices in training


def loss(model, batch):
    """Return the cross-entropy of a mini-batch."""
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def data():
    """Return images and labels: mini-batches to train with, and the rest to test."""
    digits = load_digits()
    images = torch.tensor(digits.data, dtype=torch.float32) / 16
    labels = torch.tensor(digits.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    training, test = order[:1400], order[1400:]
    batches = [(images[part], labels[part]) for part in training.split(50)]
    return batches, images[test], labels[test]


def worth(table):
    """Return what faults in training add to accuracy, paired by chip, with a 95 % t interval."""
    values = table.set_index(["kind", "rate", "chip", "model"]).value.unstack("model")
    gain = values["trained with faults"] - values["trained with noise"]
    of_point = gain.groupby(["kind", "rate"])
    half = of_point.sem() * stats.t.ppf(0.975, of_point.count() - 1)
    return pd.DataFrame({"gain": of_point.mean(), "low": of_point.mean() - half}).assign(
        high=of_point.mean() + half
    )


def main(epochs=30, chips=20, rates=RATES, path=FIGURE):
    """Train a classifier, with and without faults, and measure it at each rate of faults."""
    batches, images, labels = data()
    torch.manual_seed(0)
    digital = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    optimizer = torch.optim.AdamW(digital.parameters(), lr=3e-3)
    for batch in epochs * batches:
        optimizer.zero_grad()
        loss(digital, batch).backward()
        optimizer.step()

    def accuracy(model):
        with torch.no_grad():
            return 100 * float((model(images).argmax(-1) == labels).float().mean())

    def measured(model, kind, rate):
        preset = rasch2023.change(faults=devices.Faults(**{kind: rate}), why="yield")
        analog = convert(model, preset).eval()
        calibrate(analog, [images for images, _ in batches])
        table = sweep(analog, accuracy, times=("1h",), chips=chips, progress=False)
        return table.assign(kind=kind, rate=rate)

    def trained(faults):
        preset = rasch2023.change(faults=faults, why="training")
        analog = convert(digital, preset)
        calibrate(analog, [images for images, _ in batches])
        recipe = HWATraining.for_(preset).override(
            faults="fresh" if faults else "none",
            epochs=epochs,
            learning_rate=1e-3,
            optimizer="adamw",
            batch_size=50,
        )
        train(analog, batches, loss, recipe=recipe, progress=False)
        # measured on the same chips as the other one, at every rate
        copy = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
        with torch.no_grad():
            for layer, name in ((copy[0], "0"), (copy[2], "2")):
                layer.weight.copy_(analog.get_submodule(name).effective_weight())
                layer.bias.copy_(analog.get_submodule(name).bias)
        return copy

    control = trained(devices.Faults())
    models = {
        "as it is": lambda kind: digital,
        "trained with noise": lambda kind: control,
        "trained with faults": lambda kind: trained(devices.Faults(**{kind: TRAINED_AT})),
    }
    table = pd.concat(
        measured(model, kind, rate).assign(model=label)
        for label, make in models.items()
        for kind in KINDS
        for model in [make(kind)]
        for rate in rates
    )
    mean = table.groupby(["kind", "model", "rate"]).value.agg(["mean", "std"]).round(2)
    print(f"digital: {accuracy(digital):.2f} %\n{mean.to_string()}")
    print(f"with faults less with noise alone, points:\n{worth(table).round(2).to_string()}")
    draw(table, chips, len(labels), path)
    return table


def draw(table, chips, samples, path):
    """Draw accuracy against the rate of broken devices, with 95 % bars over chips."""
    figure, axes = drawing.new(1, len(KINDS), (10.6, 3.6), sharey=True)
    for axis, kind in zip(axes[0], KINDS, strict=True):
        models = table[table.kind == kind].groupby("model", sort=False)
        for index, (label, rows) in enumerate(models):
            values = rows.groupby("rate").value
            half = values.sem() * stats.t.ppf(0.975, values.count() - 1)
            shift = 0.25 * (index - 1)  # side by side
            axis.errorbar(
                *(100 * half.index + shift, values.mean(), half),
                marker=drawing.MARKERS[index],
                linestyle=drawing.DASHES[index],
                color=drawing.COLOURS[index],
                markersize=4,
                capsize=2,
                label=label,
            )
        axis.set_title(kind.replace("_", " "))
        axis.set_xlabel("broken devices or rows, %")
    axes[0, 0].set_ylabel("accuracy after 1 h, % (higher is better)")
    drawing.legend(figure, axes[0])
    size = f"{chips} chips, {samples} test samples"
    drawing.caption(figure, ["preset rasch2023", size, "bars: 95 % over chips"])
    drawing.save(figure, path, dpi=100, description="examples/yield.py", vector=False)


if __name__ == "__main__":
    main()
