"""Experts of a mixture that are held as one 3-D parameter (transformers 5): a matrix per expert.

The module keeps its own forward pass. What it reads as `self.gate_up_proj[expert]` is then no
tensor but a `RoutedWeight`, whose products (`functional.linear`, `@`) run on that expert's tiles.
Any other use of it is an error, so that no product can stay digital unseen.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from aimc_bridge.errors import CapabilityError

_LINEAR = (functional.linear, torch._C._nn.linear)
_MATMUL = (torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__, torch.mm, torch.Tensor.mm)


class RoutedWeight:
    """The weight of one expert, as its model multiplies with it.

    Attributes:
        layer: The analog linear layer of the expert, without a bias.
        flipped: False for a weight `[out, in]`, True for `[in, out]`.
    """

    def __init__(self, layer: nn.Module, shape: tuple[int, ...], flipped: bool) -> None:
        self.layer, self.flipped = layer, flipped
        self.shape = torch.Size(shape)

    @property
    def T(self) -> RoutedWeight:
        """The transposed weight."""
        return RoutedWeight(self.layer, (self.shape[1], self.shape[0]), not self.flipped)

    def t(self) -> RoutedWeight:
        """Return the transposed weight."""
        return self.T

    def transpose(self, first: int, second: int) -> RoutedWeight:
        """Return the weight with two dimensions swapped."""
        return self if (first - second) % 2 == 0 else self.T

    def to(self, *args: Any, **kwargs: Any) -> RoutedWeight:
        """Return the weight itself: the crossbar computes in its own precision."""
        return self

    def __rmatmul__(self, x: Tensor) -> Tensor:
        """Multiply inputs `[..., in]` with a weight `[in, out]`."""
        return self._product(torch.matmul, x, flipped=True)

    def _product(self, function: Any, x: Tensor, *, flipped: bool) -> Tensor:
        if self.flipped != flipped:
            raise _unserved(function)
        y: Tensor = self.layer(x)
        return y

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run a product on the tiles; refuse every other function."""
        kwargs = kwargs or {}
        if func in _LINEAR and len(args) >= 2 and isinstance(args[1], RoutedWeight):
            y = args[1]._product(func, args[0], flipped=False)
            bias = args[2] if len(args) > 2 else kwargs.get("bias")
            return y if bias is None else y + bias
        if func in _MATMUL and len(args) == 2 and isinstance(args[1], RoutedWeight):
            return args[1]._product(func, args[0], flipped=True)
        raise _unserved(func)


def _unserved(function: Any) -> CapabilityError:
    name = getattr(function, "__name__", str(function))
    return CapabilityError(
        f"an expert's weight lies on tiles and is used by {name}; allowed: linear(x, weight) or "
        "x @ weight of inputs with one expert's weight; exclude the experts to leave them digital"
    )


class ExpertWeights(nn.Module):
    """All experts' weights of one parameter, one analog layer per expert (children `experts`)."""

    def __init__(
        self,
        weight: Tensor,
        flipped: bool,
        make_linear: Callable[[Tensor, Tensor | None], nn.Module],
    ) -> None:
        """Put the weights on tiles.

        Args:
            weight: `[experts, out, in]`, or `[experts, in, out]` if `flipped`.
            flipped: Whether a weight is `[in, out]`.
            make_linear: Makes the analog linear layer of a weight `[out, in]`.
        """
        super().__init__()
        self.flipped = flipped
        self.shape, self.dtype = weight.shape, weight.dtype
        matrices = weight.detach().transpose(1, 2) if flipped else weight.detach()
        self.experts = nn.ModuleList(
            make_linear(matrix.contiguous().requires_grad_(weight.requires_grad), None)
            for matrix in matrices
        )

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def size(self, dim: int | None = None) -> Any:
        """Return the shape of the parameter, or one of its sizes."""
        return self.shape if dim is None else self.shape[dim]

    def __getitem__(self, expert: int | Tensor) -> RoutedWeight:
        """Return the weight of one expert.

        Args:
            expert: Its index, a number or a tensor of one number.

        Raises:
            CapabilityError: If several experts are asked for at once.
        """
        if isinstance(expert, Tensor) and expert.numel() == 1:
            expert = int(expert)
        if not isinstance(expert, int):
            raise _unserved("indexing of several experts")
        return RoutedWeight(self.experts[expert], tuple(self.shape[1:]), self.flipped)

    def __len__(self) -> int:
        """Return the number of experts."""
        return len(self.experts)

    def __iter__(self) -> Iterator[RoutedWeight]:
        """Iterate over the experts."""
        return (self[index] for index in range(len(self)))

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Refuse functions of all experts' weights at once."""
        raise _unserved(func)


WEIGHTS = ("gate_up_proj", "up_proj", "gate_proj", "down_proj")


def holds_experts(module: nn.Module) -> bool:
    """Whether a module is one of transformers' collections of experts with 3-D parameters."""
    if not type(module).__module__.startswith("transformers."):
        return False
    down = module._parameters.get("down_proj")
    return (
        down is not None
        and down.ndim == 3
        and all(
            key in WEIGHTS or parameter is None or key.endswith("_bias")
            for key, parameter in module._parameters.items()
        )
        and "is_transposed" in module.__dict__
    )


def convert_experts(
    module: nn.Module, make_linear: Callable[[Tensor, Tensor | None], nn.Module]
) -> nn.Module:
    """Put the experts of a module on tiles; biases stay digital.

    Args:
        module: A module that `holds_experts`; it stays as it is.
        make_linear: Makes the analog linear layer of a weight `[out, in]` and a bias or None.

    Returns:
        A module of the same class, with the same forward pass, one expert after the other.
    """
    analog: nn.Module = module.__class__.__new__(module.__class__)
    analog.__dict__ = {
        key: value.copy() if isinstance(value, dict) else value
        for key, value in module.__dict__.items()
    }
    # other implementations multiply all experts' weights at once
    analog.config = copy.copy(module.config)
    analog.config._experts_implementation = "eager"  # type: ignore[union-attr]
    flipped = bool(module.is_transposed)
    for key in WEIGHTS:
        weight = analog._parameters.pop(key, None)
        if weight is not None:
            setattr(analog, key, ExpertWeights(weight, flipped, make_linear))
    return analog
