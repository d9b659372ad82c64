"""The dropout rates of a model, set for a training and put back."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.dropout import _DropoutNd

Rates = list[tuple[nn.Module, str, float]]

_ENDINGS = ("dropout", "dropout_p", "dropout_prob")


def rates(model: nn.Module) -> Rates:
    """Where a model keeps its rates: module, attribute, rate.

    Those of torch's dropout layers, and of modules that keep a rate themselves: recurrent and
    attention layers, converted or not, and Hugging Face's.
    """
    found: Rates = []
    for module in model.modules():
        if isinstance(module, _DropoutNd):
            found.append((module, "p", module.p))
            continue
        for name, value in vars(module).items():
            if name.endswith(_ENDINGS) and type(value) in (int, float):
                found.append((module, name, value))
    return found


def set_rates(found: Rates, rate: float) -> None:
    """The same rate everywhere."""
    for module, name, _ in found:
        setattr(module, name, rate)


def put_back(found: Rates) -> None:
    """The rates that `rates` found."""
    for module, name, value in found:
        setattr(module, name, value)
