"""Is my physics that of aihwkit? A cross-check of two laws, one right and one wrong by 10 %.

    python examples/own_physics.py

It needs aihwkit. Device level only, at one target and two times: some seconds.
"""

import torch
from torch import Tensor

from aimc_bridge import Report, crosscheck, physics
from presets import rasch2023


class Mine:
    """The drift of `rasch2023` on single devices, written once more, with a fault to be found."""

    def __init__(self, wrong: float = 1.0) -> None:
        """Scale the drift exponents by `wrong`."""
        self.wrong = wrong

    def program(self, weights: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Program weights [out, in] in [-1, 1]; keep each device's exponent."""
        pcm = rasch2023.pcm
        target = weights.abs() * pcm.g_max_us

        def eps() -> Tensor:
            return torch.randn(weights.shape, generator=generator)

        size = physics.programmed(target, pcm, eps())
        size = size - physics.programmed(torch.zeros_like(target), pcm, eps())  # the other device
        return size * weights.sign() / pcm.g_max_us, self.wrong * physics.drift_exponent(
            target, pcm, eps()
        )

    def read(self, state: tuple[Tensor, Tensor], t: float, generator: torch.Generator) -> Tensor:
        """Return the drifted weights: no read noise."""
        return physics.drifted(state[0], state[1], t, rasch2023.pcm)


def main(samples: int = 200_000) -> dict[str, Report]:
    """Return the reports of the right law and of the wrong one."""
    quiet = rasch2023.change(read_noise_scale=0.0, why="the example has none")
    how = {"levels": "device", "targets": (0.5,), "times": ("1s", "1y"), "samples": samples}
    laws = {"right": Mine(), "exponents 10 % too large": Mine(1.1)}
    return {name: crosscheck(None, quiet, physics=law, **how) for name, law in laws.items()}


if __name__ == "__main__":
    for name, report in main().items():
        print(f"{name}: {report.table.verdict.value_counts().to_dict()}")
