"""A trial product on one of aihwkit's tiles, to show that the tile runs here."""

from __future__ import annotations

import torch
from aihwkit.nn import AnalogLinear
from aihwkit.simulator.configs import InferenceRPUConfig, TorchInferenceRPUConfig
from torch import nn

from aimc_bridge import rng
from aimc_bridge.engines.aihwkit.capability import TILES, cuda_tiles

__all__ = ["TILES", "trial"]


def trial(tile: str, device: str) -> str | None:
    """Return the reason why a tile cannot run on a device, or None if it can.

    A layer is converted, and its ideal product is compared with the digital one. The global random
    state is the same afterwards as before.

    Args:
        tile: "rpucuda" or "torch".
        device: "cpu" or "cuda".
    """
    if tile == "rpucuda" and device == "cuda" and not cuda_tiles():
        return "this build of aihwkit has no CUDA (the wheels have none)"
    config = InferenceRPUConfig() if tile == "rpucuda" else TorchInferenceRPUConfig()
    config.forward.is_perfect = True
    try:
        with rng.alone(), torch.random.fork_rng(), torch.no_grad():
            digital = nn.Linear(3, 2)
            x = torch.tensor([[0.5, -1.0, 2.0]])
            analog = AnalogLinear.from_digital(digital, config).to(device).eval()
            error = float((analog(x.to(device)).cpu() - digital(x)).abs().max())
    except Exception as problem:  # noqa: BLE001 - any error is the answer
        return f"{type(problem).__name__}: {str(problem).strip().splitlines()[0]}"
    return None if error < 1e-5 else f"an ideal product is off by {error:.1e}"
