"""A device of your own, as an object with two functions, beside the PCM of `rasch2023`.

python examples/own_device.py
"""

import torch
from torch import Tensor

from aimc_bridge import calibrate, convert, sweep
from examples.digits import accuracy, images, trained
from presets import rasch2023


class Relaxing:
    """A memory that relaxes quickly after it was written, and stays then."""

    def program(self, weights: Tensor, generator: torch.Generator) -> Tensor:
        """Write weights of a tile, [out, in] in [-1, 1]; miss them by 2 % of the largest."""
        return weights + 0.02 * torch.randn(weights.shape, generator=generator)

    def read(self, state: Tensor, t_inference: float, generator: torch.Generator) -> Tensor:
        """Return the weights after some seconds: the spread grows within the first minute."""
        spread = 0.03 * t_inference / (t_inference + 60.0)
        return state + spread * torch.randn(state.shape, generator=generator)


def main(chips: int = 10, times: tuple[str, ...] = ("1s", "1h", "1y")) -> dict[str, list[float]]:
    """Return the mean accuracy of chips at each time, by device."""
    model, means = trained(), {}
    own = rasch2023.with_device(Relaxing(), name="relaxing", why="an example")
    for preset in (rasch2023, own):
        analog = convert(model, preset).eval()
        calibrate(analog, [images[:1000]])
        table = sweep(analog, accuracy, times, chips)
        means[preset.name] = table.groupby("t_inference").value.mean().tolist()
    return means


if __name__ == "__main__":
    print(f"{'device':10} 1s    1h    1y")
    for name, means in main().items():
        print(f"{name:10}", *(f"{mean:.1%}" for mean in means))
