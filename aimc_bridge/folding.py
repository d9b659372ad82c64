"""Weights that are computed from other parameters in every pass, and here once and for all."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

_PARAMETRIZATIONS = {
    "_WeightNorm": "weight norm",
    "_SpectralNorm": "spectral norm",
    "_Orthogonal": "orthogonal parametrization",
}
_HOOKS: dict[type, str] = {
    WeightNorm: "weight norm",
    SpectralNorm: "spectral norm",
    BasePruningMethod: "pruning mask",
}
_OF_TORCH = "torch.nn.utils.parametrizations"


@torch.no_grad()
def fold(module: nn.Module) -> str:
    """Replace computed weights of a layer by plain ones, if PyTorch itself computes them.

    These are weight norm, spectral norm, orthogonal weights and pruning, as parametrizations and as
    hooks. The plain weights are those of evaluation mode, so that outputs in it stay as they are.

    Args:
        module: A layer, which is changed. Its parametrizations and hooks of other kinds stay.

    Returns:
        A remark on what was folded; "" for nothing.
    """
    folded: list[str] = []
    if parametrize.is_parametrized(module):
        assert isinstance(module.parametrizations, nn.ModuleDict)
        for name, chain in list(module.parametrizations.items()):
            kinds = [_PARAMETRIZATIONS.get(type(step).__name__) for step in chain]  # type: ignore[attr-defined]
            ours = all(type(step).__module__ == _OF_TORCH for step in chain)  # type: ignore[attr-defined]
            if ours and all(kinds):
                learns = any(parameter.requires_grad for parameter in chain.parameters())
                chain.eval()  # spectral norm estimates further in training mode
                parametrize.remove_parametrizations(module, name, leave_parametrized=True)
                module._parameters[name].requires_grad_(learns)  # type: ignore[union-attr]
                folded += [kind for kind in kinds if kind]
    for key, hook in list(module._forward_pre_hooks.items()):
        kind = next((kind for base, kind in _HOOKS.items() if isinstance(hook, base)), None)
        if kind is not None:
            learns = any(p.requires_grad for p in module.parameters(recurse=False))
            before = set(module._parameters)
            hook.remove(module)  # type: ignore[attr-defined]
            for name in set(module._parameters) - before:
                module._parameters[name].requires_grad_(learns)  # type: ignore[union-attr]
            del module._forward_pre_hooks[key]
            folded.append(kind)
    if not folded:
        return ""
    return f"{', '.join(folded)} folded in: training changes the folded weight"
