"""Weights on tiles for modules that keep their own forward pass.

Such a module reads `self.weight`, which is then no tensor but an object whose products with inputs
(`functional.linear`, `@`, `bmm`) run on the tiles. Any other use of it is an error, so that no
product can stay digital unseen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from aimc_bridge.errors import CapabilityError
from aimc_bridge.layers.linear import MakeLinear

_LINEAR = (functional.linear, torch._C._nn.linear)
_MATMUL = (torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__, torch.mm, torch.Tensor.mm)
_BMM = (torch.bmm, torch.Tensor.bmm, *_MATMUL)


class RoutedWeight:
    """A weight on tiles, as the code of a model multiplies with it.

    Attributes:
        layer: The analog linear layer that holds it, without a bias.
        shape: Its shape, as the code of the model knows it.
        dtype: Precision of its layer.
        flipped: False for a weight `[out, in]`, True for `[in, out]`.
    """

    def __init__(self, layer: nn.Module, shape: torch.Size, flipped: bool) -> None:
        """Stand for the weight of a layer.

        Args:
            layer: The analog linear layer, without a bias.
            shape: The shape of the weight.
            flipped: Whether the shape is `[in, out]`.
        """
        self.layer, self.shape, self.flipped = layer, shape, flipped
        parameter = next(layer.parameters())
        self.dtype, self.device = parameter.dtype, parameter.device

    @property
    def T(self) -> RoutedWeight:
        """The transposed weight."""
        return RoutedWeight(self.layer, torch.Size(reversed(self.shape)), not self.flipped)

    def t(self) -> RoutedWeight:
        """Return the transposed weight."""
        return self.T

    def transpose(self, first: int, second: int) -> RoutedWeight:
        """Return the weight with two dimensions swapped.

        Args:
            first: A dimension.
            second: Another dimension.
        """
        return self if (first - second) % 2 == 0 else self.T

    def to(self, *args: Any, **kwargs: Any) -> RoutedWeight:
        """Return the weight itself: the crossbar keeps its own precision and device."""
        return self

    type = float = to

    def __rmatmul__(self, x: Tensor) -> Tensor:
        """Multiply inputs `[..., in]` with a weight `[in, out]`."""
        return self.multiplied(torch.matmul, x, flipped=True)

    def multiplied(self, function: Any, x: Tensor, *, flipped: bool) -> Tensor:
        """Return the product of inputs with the weight, in the precision of the inputs.

        Args:
            function: The function that the model called, for errors.
            x: Inputs, `[..., in]`.
            flipped: Whether the function takes a weight `[in, out]`.

        Raises:
            CapabilityError: If the weight is the other way round.
        """
        if self.flipped != flipped:
            raise _unserved(function)
        y: Tensor = self.layer(x.to(self.dtype))
        return y.to(x.dtype)

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run a product on the tiles; refuse every other function."""
        names = ("input", "weight", "bias") if func in _LINEAR else ("input", "other")
        given = dict(zip(names, args, strict=False)) | (kwargs or {})
        x, weight = given.get("input"), given.get(names[1])
        if isinstance(weight, RoutedMatrix):
            weight = weight.routed()
        if not isinstance(x, Tensor) or not isinstance(weight, RoutedWeight):
            raise _unserved(func)
        if func in _LINEAR:
            y = weight.multiplied(func, x, flipped=False)
            return y if given.get("bias") is None else y + given["bias"]
        if func in _MATMUL:
            return weight.multiplied(func, x, flipped=True)
        raise _unserved(func)


def _unserved(function: Any) -> CapabilityError:
    """Return the error for a use that tiles have no answer to."""
    name = function if isinstance(function, str) else getattr(function, "__name__", str(function))
    return CapabilityError(
        f"a weight that lies on tiles is used by {name}; allowed: linear(x, weight) or x @ weight "
        "of inputs with one matrix; to leave it digital, exclude the module that holds it"
    )


class RoutedMatrix(nn.Module):
    """A parameter `[out, in]` of a module that keeps its own forward pass (child `layer`)."""

    def __init__(self, weight: Tensor, make_linear: MakeLinear) -> None:
        """Put the weight on tiles.

        Args:
            weight: The weight, `[out, in]`.
            make_linear: Makes the analog linear layer.
        """
        super().__init__()
        self.shape, self.dtype, self.device = weight.shape, weight.dtype, weight.device
        self.layer = make_linear(weight, None)

    def routed(self) -> RoutedWeight:
        """Return the object that the module multiplies with."""
        return RoutedWeight(self.layer, self.shape, False)

    @property
    def T(self) -> RoutedWeight:
        """The transposed weight."""
        return self.routed().T

    def t(self) -> RoutedWeight:
        """Return the transposed weight."""
        return self.routed().T

    def to(self, *args: Any, **kwargs: Any) -> RoutedWeight:  # type: ignore[override]
        """Return the weight: what reads it means the tensor, not this module."""
        return self.routed()

    type = float = to  # type: ignore[assignment]

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run a product on the tiles; refuse every other function."""
        return RoutedWeight.__torch_function__(func, types, args, kwargs)


class RoutedStack(nn.Module):
    """A parameter of several matrices, such as all experts' (children `experts`)."""

    def __init__(self, weight: Tensor, flipped: bool, make_linear: MakeLinear) -> None:
        """Put the weights on tiles.

        Args:
            weight: `[experts, out, in]`, or `[experts, in, out]` if `flipped`.
            flipped: Whether a matrix is `[in, out]`.
            make_linear: Makes the analog linear layer of a matrix `[out, in]`.
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
        """The device that holds the weights."""
        return next(self.parameters()).device

    def size(self, dim: int | None = None) -> Any:
        """Return the shape of the parameter, or one of its sizes.

        Args:
            dim: A dimension, or None for all.
        """
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
            raise _unserved("an index of several matrices")
        return RoutedWeight(self.experts[expert], self.shape[1:], self.flipped)

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
        """Multiply a batch of inputs, one matrix each, on the tiles; refuse all else."""
        if func in _BMM and len(args) == 2 and isinstance(args[1], RoutedStack):
            x, stack = args
            if isinstance(x, Tensor) and x.ndim == 3 and len(x) == len(stack):
                products = [
                    weight.multiplied(func, part, flipped=True)
                    for part, weight in zip(x, stack, strict=True)
                ]
                return torch.stack(products)
        raise _unserved(func)


def with_weights(module: nn.Module, weights: Mapping[str, nn.Module]) -> nn.Module:
    """Return a module of the same class and state, with other things in place of parameters.

    Args:
        module: The module; it stays as it is.
        weights: What takes the place of each parameter, by its name.
    """
    analog: nn.Module = module.__class__.__new__(module.__class__)
    analog.__dict__ = {
        key: value.copy() if isinstance(value, dict) else value
        for key, value in module.__dict__.items()
    }
    for name, weight in weights.items():
        del analog._parameters[name]
        analog.add_module(name, weight)
    for name, parameter in analog._parameters.items():  # what stays digital is a copy, too
        if parameter is not None:
            copied = parameter.detach().clone()
            analog._parameters[name] = nn.Parameter(copied, parameter.requires_grad)
    return analog
