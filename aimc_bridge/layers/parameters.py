"""Parameters of digital layers for their analog counterparts."""

from __future__ import annotations

from torch import Tensor, nn


def copied_parameter(parameter: Tensor | None) -> nn.Parameter | None:
    """Return a parameter with the same values and gradient flag, or None for None.

    Args:
        parameter: A parameter of a digital layer, or None if the layer has none of that name.
    """
    if parameter is None:
        return None
    return nn.Parameter(parameter.detach().clone(), requires_grad=parameter.requires_grad)
