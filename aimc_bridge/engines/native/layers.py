"""Analog layers of the native engine.

A layer owns its trained weights and its bias, its crossbar owns the rest. Names, shapes and meaning
of the parameters are the same as in the digital layer.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from aimc_bridge.engines.native.conv_product import ConvProduct
from aimc_bridge.engines.native.crossbar import Crossbar
from aimc_bridge.engines.native.linear_product import LinearProduct
from aimc_bridge.errors import ShapeError
from aimc_bridge.layers.border import admitted, returned
from aimc_bridge.layers.convolution import (
    as_batch,
    check_space,
    padding_to_do_first,
    smallest_space,
)
from aimc_bridge.layers.parameters import copied_parameter
from aimc_bridge.physics.mapping import TileGrid
from aimc_bridge.spec import Preset


def _with_bias(y: Tensor, bias: Tensor | None) -> Tensor:
    """Return the sum of outputs and bias.

    The sum is made in place if there will be no backward pass: for the memory of 35 x 20 x 10,000
    scores it takes longer to get the memory than to add.
    """
    if bias is None:
        return y
    return y + bias if torch.is_grad_enabled() else y.add_(bias)


class AnalogLinear(nn.Module):
    """`y = x W^T + b` on crossbars: `[..., in_features] -> [..., out_features]`.

    Attributes:
        weight: The trained weights, `[out_features, in_features]`. If `transposed`, they are stored
            the other way round, as in the Conv1D of Hugging Face's GPT-2.
        bias: The bias, `[out_features]`, or None.
        transposed: Whether the weights are stored as `[in_features, out_features]`.
        crossbar: The crossbars, which hold all other parameters.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None

    @torch.inference_mode(False)  # tensors of inference mode could not be calibrated outside of it
    def __init__(
        self, weight: Tensor, bias: Tensor | None, preset: Preset, transposed: bool = False
    ) -> None:
        """Copy the weights of a layer and lay them on tiles.

        Args:
            weight: The weights, `[out, in]`, or `[in, out]` if `transposed`.
            bias: The bias, `[out]`, or None.
            preset: The preset.
            transposed: Whether the weights are stored as `[in, out]`.
        """
        super().__init__()
        self.transposed = transposed
        self.register_parameter("weight", copied_parameter(weight))
        self.register_parameter("bias", copied_parameter(bias))
        matrix = self.matrix()
        self.out_features, self.in_features = matrix.shape
        if transposed:  # their names in Hugging Face's layer
            self.nx, self.nf = self.in_features, self.out_features
        grid = TileGrid.of(self.out_features, self.in_features, preset.crossbar)
        self.crossbar = Crossbar(matrix, preset, LinearProduct(grid), grid, self)

    def matrix(self) -> Tensor:
        """Return the trained weights as `[out, in]`."""
        return self.weight.T if self.transposed else self.weight

    def set_matrix(self, values: Tensor) -> None:
        """Write trained weights.

        Args:
            values: The weights, `[out, in]`.
        """
        with torch.no_grad():
            self.weight.copy_(values.T if self.transposed else values)

    def effective_weight(self) -> Tensor:
        """Return the weights that the crossbar holds now, in own units and shape.

        All column scales are included, the factor of drift compensation is not.
        """
        held = self.crossbar.effective_weight()
        return held.T if self.transposed else held

    def forward(self, x: Tensor) -> Tensor:
        """Return the analog product, plus the bias.

        Args:
            x: Inputs, `[..., in_features]`.

        Raises:
            ShapeError: If the inputs have another number of features.
            UsageError: If they are no dense floating-point tensor on the layer's device.
        """
        crossbar = self.crossbar
        inner = admitted(x, crossbar.scale)
        if inner.ndim == 0 or inner.shape[-1] != self.in_features:
            raise ShapeError(f"input {tuple(x.shape)}; allowed: [..., {self.in_features}]")
        return returned(_with_bias(crossbar(inner), self.bias), x)

    def extra_repr(self) -> str:
        """Return the sizes, for `print(model)`."""
        return f"in_features={self.in_features}, out_features={self.out_features}"


class AnalogConv(nn.Module):
    """A convolution in one, two or three dimensions on crossbars.

    Inputs and outputs are `[batch, channels, *space]`.

    Groups lie on tiles of their own. `padding` and `padding_mode` are those of the digital layer.

    Attributes:
        weight: The trained weights, in the shape of the digital layer's.
        bias: The bias, `[out_channels]`, or None.
        crossbar: The crossbars, which hold all other parameters.
        pad_first: The padding that is done before the product, as `functional.pad` takes it.
        least: The least size of each dimension of space, after that padding.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None

    @torch.inference_mode(False)  # as AnalogLinear
    def __init__(self, conv: nn.Conv1d | nn.Conv2d | nn.Conv3d, preset: Preset) -> None:
        """Copy the weights of a convolution and lay them on tiles.

        Args:
            conv: The digital layer.
            preset: The preset.
        """
        super().__init__()
        self.register_parameter("weight", copied_parameter(conv.weight))
        self.register_parameter("bias", copied_parameter(conv.bias))
        self.in_channels, self.out_channels = conv.in_channels, conv.out_channels
        self.kernel_size, self.stride = conv.kernel_size, conv.stride
        self.dilation, self.groups = conv.dilation, conv.groups
        self.padding, self.padding_mode = conv.padding, conv.padding_mode
        self.transposed, self.output_padding = False, conv.output_padding
        self.pad_first = padding_to_do_first(conv)
        self.least = smallest_space(conv, padded=bool(self.pad_first))
        inner = (0,) * len(conv.kernel_size)
        if not self.pad_first and not isinstance(conv.padding, str):
            inner = tuple(conv.padding)
        matrix = self.matrix()
        grid = TileGrid.of(matrix.shape[0], matrix.shape[1], preset.crossbar, conv.groups)
        product = ConvProduct(grid, conv.kernel_size, conv.stride, inner, conv.dilation)
        self.crossbar = Crossbar(matrix, preset, product, grid, self)

    def matrix(self) -> Tensor:
        """Return the trained weights as `[out, in]`.

        The inputs are in the order (channel, kernel row, kernel column).
        """
        return self.weight.flatten(1)

    def set_matrix(self, values: Tensor) -> None:
        """Write trained weights.

        Args:
            values: The weights, `[out, in]`.
        """
        with torch.no_grad():
            self.weight.copy_(values.view_as(self.weight))

    def effective_weight(self) -> Tensor:
        """Return the weights that the crossbars hold now, in own units and shape.

        All column scales are included, the factor of drift compensation is not.
        """
        return self.crossbar.effective_weight().view_as(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Return the analog convolution, plus the bias.

        Args:
            x: Inputs, `[batch, channels, *space]` or `[channels, *space]`.

        Raises:
            ShapeError: If the inputs have another shape.
            UsageError: If they are no dense floating-point tensor on the layer's device.
        """
        dims = len(self.kernel_size)
        crossbar = self.crossbar
        batched = as_batch(admitted(x, crossbar.scale), self.in_channels, dims)
        if self.pad_first:
            mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
            batched = functional.pad(batched, self.pad_first, mode=mode)
        check_space(batched, self.least)
        bias = None if self.bias is None else self.bias.view(-1, *[1] * dims)
        y = returned(_with_bias(crossbar(batched), bias), x)
        return y if x.ndim == dims + 2 else y.squeeze(0)

    def extra_repr(self) -> str:
        """Return the settings of the convolution, for `print(model)`."""
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}, padding={self.padding}, dilation={self.dilation}, "
            f"groups={self.groups}, padding_mode={self.padding_mode!r}"
        )


def convert_linear(module: nn.Module, preset: Preset) -> AnalogLinear:
    """Return an `AnalogLinear` with the weights of a `nn.Linear`.

    Args:
        module: The digital layer.
        preset: The preset.
    """
    assert isinstance(module, nn.Linear)
    return AnalogLinear(module.weight, module.bias, preset).train(module.training)


def convert_conv(module: nn.Module, preset: Preset) -> AnalogConv:
    """Return an `AnalogConv` with the weights of a convolution.

    Args:
        module: The digital layer, a `nn.Conv1d`, `nn.Conv2d` or `nn.Conv3d`.
        preset: The preset.
    """
    assert isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d)
    return AnalogConv(module, preset).train(module.training)


def convert_transposed(module: nn.Module, preset: Preset) -> AnalogLinear:
    """Return an `AnalogLinear` with the weights of Hugging Face's `Conv1D`.

    These are stored as `[in, out]`.

    Args:
        module: The digital layer.
        preset: The preset.
    """
    weight, bias = module.weight, module.bias
    assert isinstance(weight, Tensor) and isinstance(bias, Tensor)
    return AnalogLinear(weight, bias, preset, transposed=True).train(module.training)
