"""Make examples/pcm_table.csv, what a lab would measure on PCM devices that follow `rasch2023`.

    python examples/pcm_table.py

Of each target, many devices are programmed once and read twice at every time. The mean of all
readings is `mean_us`; the covariance of the two readings is `prog_sd_us` squared; half the mean
square of their difference is `read_sd_us` squared.
"""

from pathlib import Path

import torch

from aimc_bridge import physics
from aimc_bridge.rng import normal, stream
from presets import rasch2023

TARGETS_US = (0, 0.05, 0.1, 0.25, 0.5, 1, 1.25, 1.5, 2.5, 4, 6.25, 9, 12.5, 16, 18.75, 22, 25)
TIMES_S = (0, 1, 10, 20, 60, 600, 3600, 21600, 86400, 604800, 2592000, 31536000, 315360000)
DEVICES = 1_000_000
OUT = Path(__file__).with_name("pcm_table.csv")


def rows(target_us: float) -> list[str]:
    """Return the lines of one target."""
    pcm, draws = rasch2023.pcm, stream(2026, "pcm table", target_us)

    def eps() -> torch.Tensor:
        return normal((DEVICES,), draws)

    target = torch.full((DEVICES,), float(target_us))
    programmed = physics.programmed(target, pcm, eps())
    nu = physics.drift_exponent(target, pcm, eps())
    lines = []
    for t_s in TIMES_S:
        now = physics.drifted(programmed, nu, t_s, pcm)
        pair = [physics.read(now, programmed, t_s, pcm, eps()).double() for _ in range(2)]
        mean = torch.cat(pair).mean()
        device = ((pair[0] - mean) * (pair[1] - mean)).mean().clamp_min(0).sqrt()
        reading = (pair[0] - pair[1]).square().mean().div(2).sqrt()
        lines.append(f"{target_us:g},{t_s:g},{mean:.5g},{device:.5g},{reading:.5g}")
    return lines


if __name__ == "__main__":
    table = [line for target_us in TARGETS_US for line in rows(target_us)]
    header = "target_us,t_s,mean_us,prog_sd_us,read_sd_us"
    OUT.write_text("\n".join([header, *table]) + "\n", encoding="utf-8")
