"""Weights that are computed from other parameters in every pass, and here once and for all."""

from __future__ import annotations

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
    chains = _chains(module)
    if chains:
        weights = {}
        for name, chain in chains.items():
            chain.eval()  # spectral norm estimates further in training mode
            learns = any(parameter.requires_grad for parameter in chain.parameters())
            weights[name] = nn.Parameter(getattr(module, name).detach(), requires_grad=learns)
            folded += [_PARAMETRIZATIONS[type(step).__name__] for step in chain]  # type: ignore[attr-defined]
        # `remove_parametrizations` would change the class, which a copy shares with its original.
        del module.parametrizations
        module.__class__ = type(module).__bases__[0]
        for name, weight in weights.items():
            setattr(module, name, weight)
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


def _chains(module: nn.Module) -> dict[str, nn.Module]:
    """Return the parametrizations of a layer by parameter, if all of them are PyTorch's own."""
    if not parametrize.is_parametrized(module):
        return {}
    assert isinstance(module.parametrizations, nn.ModuleDict)
    chains = dict(module.parametrizations.items())
    steps = [type(step) for chain in chains.values() for step in chain]  # type: ignore[attr-defined]
    known = all(s.__module__ == _OF_TORCH and s.__name__ in _PARAMETRIZATIONS for s in steps)
    return chains if known else {}
