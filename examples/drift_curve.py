"""Show the effect of a year of drift on a network, with and without training for the chip.

    python examples/drift_curve.py

Prints the mean accuracy over chips at five times and draws drift.svg. About a minute on two cores.
"""

import pandas as pd

from aimc_bridge import HWATraining, calibrate, convert, plot, sweep, train
from examples.digits import accuracy, batches, images, loss, test, trained
from presets import rasch2023

TIMES = ("1s", "1h", "1d", "30d", "1y")


def main(epochs: int = 10, chips: int = 10, out: str = "drift.svg") -> dict[str, pd.DataFrame]:
    """Return the tables of both ways, and draw them."""
    model = trained()
    analog = convert(model, rasch2023)
    calibrate(analog, [images[:1000]])
    tables = {"direct": sweep(analog.eval(), accuracy, TIMES, chips)}
    recipe = HWATraining.for_(rasch2023).override(epochs=epochs)
    train(analog.train(), batches, loss, recipe=recipe)
    tables["hardware-aware"] = sweep(analog.eval(), accuracy, TIMES, chips)
    figure = plot(tables, accuracy(model), samples=len(test[1]), caption="rasch2023, digits")
    figure.savefig(out)
    return tables


if __name__ == "__main__":
    for way, table in main().items():
        means = zip(TIMES, table.groupby("t_inference").value.mean(), strict=True)
        print(f"{way:15}", *(f"{time} {mean:.1%} " for time, mean in means))
