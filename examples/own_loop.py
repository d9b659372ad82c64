"""Hardware-aware training in a loop of your own, with your optimizer and your schedule.

python examples/own_loop.py
"""

import pandas as pd
import torch

from aimc_bridge import HWATraining, calibrate, convert, hardware_aware, sweep
from examples.digits import accuracy, batches, images, loss, trained
from presets import rasch2023


def main(epochs: int = 10, chips: int = 10) -> tuple[float, pd.Series, pd.Series]:
    """Return the digital accuracy, and that of chips after a year, before and after training."""
    model = trained()
    analog = convert(model, rasch2023)
    calibrate(analog, [images[:1000]])

    def after_a_year() -> pd.Series:
        return sweep(analog.eval(), accuracy, "1y", chips).value

    before = after_a_year()
    optimizer = torch.optim.AdamW(analog.parameters(), lr=1e-3)
    steps = epochs * len(batches)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    recipe = HWATraining.for_(rasch2023)
    spec = recipe.spec.of_length(steps)  # the recipe's shares become numbers of mini-batches
    recipe = recipe.override(
        ramp_batches=spec.ramp_batches,
        warmup_batches=spec.warmup_batches,
        remap_every=spec.remap_every,
    )
    with hardware_aware(analog, recipe, optimizers=[optimizer], seed=0):
        for _ in range(epochs):
            analog.train()
            for batch in batches:
                loss(analog, batch).backward()  # with noisy weights
                torch.nn.utils.clip_grad_norm_(analog.parameters(), 1.0)
                optimizer.step()  # of the clean ones
                optimizer.zero_grad()
                schedule.step()
    return accuracy(model), before, after_a_year()


if __name__ == "__main__":
    digital, before, after = main()
    gain = 100 * (after - before)  # chip by chip
    print(f"digital {digital:.1%}; after a year {before.mean():.1%}, trained {after.mean():.1%}")
    print(f"gained {gain.mean():.1f} points, standard error over chips {gain.sem():.1f}")
