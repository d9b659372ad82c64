"""Mixtures of experts of transformers 5: experts in one 3-D parameter, routers in a 2-D one.

The modules keep their own forward pass; their weights lie on tiles, a matrix per expert.
"""

from __future__ import annotations

import copy
import re

from torch import nn

from aimc_bridge.layers.linear import MakeLinear
from aimc_bridge.layers.routed import RoutedMatrix, RoutedStack, with_weights

_EXPERTS = ("gate_up_proj", "up_proj", "gate_proj", "down_proj")
_ROUTER = re.compile(r"(Router|Gate)$")


def holds_experts(module: nn.Module) -> bool:
    """Return whether a module is one of transformers' collections of experts.

    It then holds all experts' weights as 3-D parameters.

    Args:
        module: A digital module.
    """
    if not type(module).__module__.startswith("transformers."):
        return False
    if type(module).__name__.endswith("ParallelExperts"):
        return set(module._parameters) == {"weight"}
    down = module._parameters.get("down_proj")
    named = type(module).__name__.endswith("TextExperts") or "is_transposed" in module.__dict__
    return (
        named
        and down is not None
        and down.ndim == 3
        and all(
            key in _EXPERTS or parameter is None or key.endswith("_bias")
            for key, parameter in module._parameters.items()
        )
    )


def convert_experts(module: nn.Module, make_linear: MakeLinear) -> nn.Module:
    """Put the experts of a module on tiles; biases stay digital.

    Args:
        module: A module that `holds_experts`; it stays as it is.
        make_linear: Makes the analog linear layer of a weight `[out, in]`.

    Returns:
        A module of the same class, with the same forward pass, one expert after the other.
    """
    # Where a module does not say, its matrices are [in, out] if it multiplies all at once (Llama 4)
    # and [out, in] if it takes them one by one (JetMoe).
    flipped = bool(module.__dict__.get("is_transposed", "weight" not in module._parameters))
    analog = with_weights(
        module,
        {
            name: RoutedStack(weight, flipped, make_linear)
            for name, weight in module._parameters.items()
            if weight is not None and name in (*_EXPERTS, "weight")
        },
    )
    if "config" in module.__dict__:  # other implementations multiply all experts' weights at once
        analog.config = copy.copy(module.config)
        analog.config._experts_implementation = "eager"  # type: ignore[union-attr]
    return analog


def holds_router(module: nn.Module) -> bool:
    """Return whether a module is one of transformers' routers, with a bare weight `[out, in]`.

    Args:
        module: A digital module.
    """
    weight = module._parameters.get("weight")
    return (
        type(module).__module__.startswith("transformers.")
        and _ROUTER.search(type(module).__name__) is not None
        and weight is not None
        and weight.ndim == 2
        and all(p is None or p.ndim == 1 for n, p in module._parameters.items() if n != "weight")
    )


def convert_router(module: nn.Module, make_linear: MakeLinear) -> nn.Module:
    """Put the weight of a router on tiles; what it does with the scores is its own.

    Args:
        module: A module that `holds_router`; it stays as it is.
        make_linear: Makes the analog linear layer of a weight `[out, in]`.

    Returns:
        A module of the same class, with the same forward pass.
    """
    weight = module._parameters["weight"]
    assert weight is not None
    return with_weights(module, {"weight": RoutedMatrix(weight, make_linear)})
