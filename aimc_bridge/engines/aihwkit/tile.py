"""aihwkit's C++ inference tile, with additions that a chip needs.

The physics is aihwkit's. Added are:

- a state dict of plain tensors, which holds the trained weights whatever chip is programmed,
- an error if an input range was never set, and one if a chip would be trained,
- weights that can be replaced for one forward and backward pass.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from aihwkit.optim.context import AnalogContext
from aihwkit.simulator.tiles import InferenceTile
from torch import Tensor, nn

from aimc_bridge.engines import unaware
from aimc_bridge.engines.base import Flag, Observer, chip_in_the_way, chip_in_training
from aimc_bridge.errors import CalibrationError, CapabilityError
from aimc_bridge.layers import transforms
from aimc_bridge.layers.border import SMALLEST_RANGE
from aimc_bridge.spec import DeviceSpec

_CONTEXT_HIDES = "enable_data_view" in vars(AnalogContext)

_CALIBRATED = 1e9
"""Number of batches noted for a range that was set by hand.

It tells aihwkit that the initialisation from data is over.
"""

# attributes of a tile that are in its state dict
_TRAINED = ("mapping_scales", "out_scaling_alpha", "input_range", "input_range_update_idx", "bias")


class ChipTile(InferenceTile):  # type: ignore[misc]
    """One crossbar `[out, in]` of the aihwkit engine.

    `shared_weights` are the weights that the crossbar holds, normalised. They are the trained
    weights, or the weights of a chip if one is programmed (then `reference_combined_weights` are
    the trained ones), or noisy weights while `inject` is in force.

    Attributes:
        label: Name of the layer in errors.
        reached: Turned on by every forward pass; the tiles of a matrix share it.
        observer: An observer with the row and the column of this tile; None if there is none.
        clean: The trained weights while others are injected; None otherwise.
        pcm: The device, once the tile is part of a matrix.
        alphas: Factors of drift compensation that were measured, by seconds after programming.
    """

    reference_combined_weights: Tensor | None
    programmed_weights: Tensor | None
    drift_noise_parameters: list[Tensor] | None
    drift_baseline: Tensor | None
    mapping_scales: Tensor

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Make a tile as aihwkit does, with a periphery that does not learn yet.

        Args:
            *args: Passed on to aihwkit's InferenceTile.
            **kwargs: Passed on to aihwkit's InferenceTile.
        """
        super().__init__(*args, **kwargs)
        self.label = "this layer"
        self.reached = Flag()
        self.observer: tuple[Observer, int, int] | None = None
        self.clean: Tensor | None = None
        self.alphas: dict[float, Tensor] = {}
        self.pcm: DeviceSpec | None = None
        self._show_weights()
        for parameter in (self.out_scaling_alpha, self.input_range):
            if parameter is not None:
                parameter.requires_grad_(False)

    def _show_weights(self) -> None:
        """Let the tile's context be read like any parameter.

        Since aihwkit 1.2.0 a context has the shape of the weights, and to read it is an error
        unless it was told to show them. It can never be written to.
        """
        if _CONTEXT_HIDES:
            self.analog_ctx.enable_data_view()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a copied or unpickled tile."""
        super().__setstate__(state)
        self._show_weights()
        # the C++ tile of a copy has its own memory: it must use the parameter's from the start
        self.ensure_shared_weights()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ChipTile:
        """Move the tensors; they stay float32, in which the C++ tile computes."""
        if fn(torch.empty(0)).device.type != "cpu":
            super()._apply(fn)  # aihwkit's own error
            return self

        def moved(tensor: Tensor) -> Tensor:
            result = fn(tensor)
            return result if result.dtype == tensor.dtype else tensor

        self._apply_without_context(moved)
        return self

    def __prepare_scriptable__(self) -> ChipTile:  # torch.jit.script calls it
        """Raise CapabilityError."""
        transforms.refuse_script()

    # --- weights ---

    @torch.no_grad()
    def trained(self) -> Tensor:
        """Return the normalised trained weights, `[out, in]`: the tensor, not a copy."""
        if self.programmed_weights is not None and self.reference_combined_weights is not None:
            return self.reference_combined_weights
        weight: Tensor = self.shared_weights.data if self.clean is None else self.clean
        return weight

    @torch.no_grad()
    def hold(self, weight: Tensor) -> None:
        """Write normalised weights to the crossbar, whether trained, programmed or noisy.

        Args:
            weight: The weights, `[out, in]`.
        """
        self.ensure_shared_weights()
        self.shared_weights.data.copy_(weight)

    def inject(self, weight: Tensor | None) -> None:
        """Hold other weights instead of the trained ones.

        Args:
            weight: Normalised weights, `[out, in]`. None holds the trained weights again.
        """
        if weight is None:
            if self.clean is not None:
                self.hold(self.clean)
            self.clean = None
            return
        if self.clean is None:
            self.clean = self.shared_weights.detach().clone()
        self.hold(weight)

    def forget_chip(self) -> None:
        """Hold the trained weights again, as if no chip had been programmed."""
        if self.programmed_weights is not None:
            self.hold(self.trained())
        self.reference_combined_weights = None
        self.programmed_weights = None
        self.drift_noise_parameters = None
        self.drift_baseline = None
        self.alpha = torch.ones(1)
        self.alphas = {}

    @torch.no_grad()
    def set_mapping_scales(self, mapping_scales: Tensor | float | None) -> None:
        """Set the digital scales, one per column, also if all of them are equal.

        Args:
            mapping_scales: The scales, `[out]` or one number.
        """
        super().set_mapping_scales(mapping_scales)
        if self.mapping_scales is not None:
            self.mapping_scales = self.mapping_scales.expand(self.out_size).clone()

    # --- input range ---

    @torch.no_grad()
    def set_input_range(self, value: Tensor | float) -> None:
        """Set the input range, after which it counts as calibrated.

        aihwkit's own calibration calls this, too.

        Args:
            value: The range, in the layer's own units.
        """
        super().set_input_range(value)
        self.input_range_update_idx.data.fill_(_CALIBRATED)

    def range_is_set(self) -> bool:
        """Return whether the range was calibrated, loaded, or started from data."""
        return self.input_range is None or bool(self.input_range_update_idx > 0)

    def pre_forward(
        self, x_input: Tensor, dim: int, is_test: bool = False, ctx: Any = None
    ) -> Tensor:
        """Do as aihwkit does, but never divide by a range of 0 or near it.

        Args:
            x_input: Inputs.
            dim: Dimension of the inputs.
            is_test: Whether the tile is in evaluation mode.
            ctx: The context of autograd.
        """
        if self.input_range is not None and abs(self.input_range.item()) < SMALLEST_RANGE:
            self.input_range.data.fill_(SMALLEST_RANGE)
        result: Tensor = super().pre_forward(x_input, dim, is_test, ctx)
        return result

    def post_backward(self, d_output: Tensor, dim: int, ctx: Any = None) -> Tensor:
        """Do as aihwkit does, but leave no gradient on a range that is not learned.

        aihwkit writes a gradient of the range even then.

        Args:
            d_output: Gradient of the inputs.
            dim: Dimension of the inputs.
            ctx: The context of autograd.
        """
        result: Tensor = super().post_backward(d_output, dim, ctx)
        if self.input_range is not None and not self.input_range.requires_grad:
            self.input_range.grad = None
        return result

    def pre_update(
        self, x_input: Tensor, x_dim: int, d_input: Tensor, d_dim: int
    ) -> tuple[Tensor, Tensor]:
        """Do as aihwkit does, but with the inputs in the layer's own units.

        aihwkit divides the inputs by the input range, and its gradient of the weights is smaller by
        that factor, tile by tile. A recipe's learning rate would then mean something else on each
        engine.

        Args:
            x_input: Inputs.
            x_dim: Dimension of the inputs.
            d_input: Gradients of the outputs.
            d_dim: Dimension of the gradients.
        """
        x_input, d_input = super().pre_update(x_input, x_dim, d_input, d_dim)
        if self.input_range is not None:
            x_input = x_input * self.input_range.detach()
        return x_input, d_input

    # --- forward ---

    def forward(self, x_input: Tensor, tensor_view: tuple[int, ...] | None = None) -> Tensor:
        """Return the outputs of the tile as aihwkit does, `[..., in] -> [..., out]`.

        Args:
            x_input: Inputs in the layer's own units.
            tensor_view: Shape for the digital scales and the bias, as aihwkit has it.

        Raises:
            StateError: If the tile is in training mode and holds a chip.
            CalibrationError: If the input range was never set.
        """
        if self.observer is not None:
            return self._observed(x_input)
        if transforms.transformed():
            return self._transformed(x_input, tensor_view)
        self.reached.on = True
        if self.training and self.programmed_weights is not None:
            raise chip_in_training(self.label, 'use engine="native"')
        starts = self.training and self.rpu_config.pre_post.input_range.init_from_data > 0
        if not starts and not self.range_is_set():
            raise CalibrationError(
                f"the input ranges of {self.label} were never set; call calibrate(model, batches), "
                "train(...) with learned input ranges, or load a state dict that has them"
            )
        trained = self.clean is None and self.programmed_weights is None
        if trained and torch.is_grad_enabled() and self.shared_weights.requires_grad:
            unaware.note(self.shared_weights, self.pcm)
        y: Tensor = super().forward(x_input, tensor_view)
        if y.requires_grad:
            y.register_hook(_refuse_second_order)
        return y

    def _transformed(self, x: Tensor, tensor_view: tuple[int, ...] | None) -> Tensor:
        """Return the outputs in a forward pass that torch transforms, or raise an error."""
        if torch.compiler.is_dynamo_compiling():
            left_out: Tensor = self._left_out(x, tensor_view)
            return left_out
        transforms.refuse_graphs()
        raise CapabilityError(
            "aihwkit engine: torch.func transforms (vmap, grad, jacrev and others) through its "
            'tiles; allowed: calls with a batch, torch.autograd, or engine="native", on which vmap '
            "over the inputs works"
        )

    @torch.compiler.disable(reason=transforms.LEFT_OUT)  # type: ignore[untyped-decorator]
    def _left_out(self, x: Tensor, tensor_view: tuple[int, ...] | None) -> Tensor:
        """Return the outputs, where torch.compile breaks its graph."""
        return self.forward(x, tensor_view)

    def _observed(self, x: Tensor) -> Tensor:
        """Return the exact outputs, after the observer has seen the inputs."""
        assert self.observer is not None
        observer, row, column = self.observer
        normalised = self.trained()
        observer(row, column, x, lambda: nn.functional.linear(x, normalised))
        weight = normalised * self.get_scales().view(-1, 1)
        return nn.functional.linear(x, weight, self.bias)

    # --- state ---

    def _trained_state(self) -> dict[str, Tensor]:
        """Return the tensors of the state dict, by name."""
        state = {"shared_weights": self.shared_weights}
        if self.programmed_weights is not None or self.clean is not None:
            state["shared_weights"] = self.trained()
        state |= {
            name: value for name in _TRAINED if (value := getattr(self, name, None)) is not None
        }
        return state

    def state_dict(
        self,
        destination: dict[str, Any] | None = None,
        prefix: str = "",
        keep_vars: bool = False,
    ) -> dict[str, Any]:
        """Return normalised trained weights, scales, input range and bias, but no chip.

        All are plain tensors.

        Args:
            destination: A dict to fill; None makes a new one.
            prefix: Text in front of the names.
            keep_vars: Whether tensors keep their place in the graph of autograd.
        """
        state: dict[str, Any] = OrderedDict() if destination is None else destination
        for name, value in self._trained_state().items():
            state[prefix + name] = value if keep_vars else value.detach()
        return state

    @torch.no_grad()
    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Copy tensors from a state dict, unless it has any and a chip is programmed."""
        if self.programmed_weights is not None and any(k.startswith(prefix) for k in state_dict):
            raise chip_in_the_way(self.label)
        expected = self._trained_state()
        for name, value in expected.items():
            loaded = state_dict.get(prefix + name)
            if loaded is None:
                missing_keys.append(prefix + name)
            elif loaded.shape != value.shape:
                error_msgs.append(
                    f"size mismatch for {prefix}{name}: {tuple(loaded.shape)} in the state dict, "
                    f"{tuple(value.shape)} in the model"
                )
            else:
                value.data.copy_(loaded)
        unexpected_keys += [
            key
            for key in state_dict
            if strict and key.startswith(prefix) and key.removeprefix(prefix) not in expected
        ]


def _refuse_second_order(grad: Tensor) -> None:
    """Raise CapabilityError if gradients of gradients are asked for; a hook of outputs.

    aihwkit's backward pass keeps no graph: its part would be left out in silence.
    """
    if torch.is_grad_enabled():  # create_graph=True
        raise CapabilityError(
            "aihwkit engine: second-order gradients (create_graph=True) through an analog layer; "
            "allowed: first-order ones, or digital layers (exclude=[...])"
        )
