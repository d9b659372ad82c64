"""Hardware-aware training in a loop of your own, with your optimizer and your schedule.

python examples/own_loop.py
"""

import torch

from aimc_bridge import HWATraining, calibrate, convert, hardware_aware, sweep
from examples.digits import accuracy, batches, images, loss, trained
from presets import rasch2023


def main(epochs: int = 10, chips: int = 10) -> tuple[float, float]:
    """Return the mean accuracy of chips after a year, before and after the training."""
    analog = convert(trained(), rasch2023)
    calibrate(analog, [images[:1000]])

    def after_a_year() -> float:
        return float(sweep(analog.eval(), accuracy, "1y", chips).value.mean())

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
    return before, after_a_year()


if __name__ == "__main__":
    before, after = main()
    print(f"after a year: {before:.1%} before the training, {after:.1%} after it")
