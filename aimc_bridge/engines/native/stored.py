"""The weights of one matrix: trained in a layer, and held by a chip."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from aimc_bridge.engines import unaware
from aimc_bridge.engines.base import Matrix, chip_in_the_way
from aimc_bridge.engines.native import programmed
from aimc_bridge.errors import StateError
from aimc_bridge.layers.border import product_dtype
from aimc_bridge.physics import cells as cell_law
from aimc_bridge.physics.laws import law_of
from aimc_bridge.physics.mapping import TileGrid, column_scales
from aimc_bridge.physics.variation import Variation
from aimc_bridge.spec import Preset


class StoredMatrix(nn.Module, Matrix):
    """A matrix `[out, in]` with the scales of its columns, and the chip that holds it.

    The layer that owns the matrix owns the trained weights. They are read when they are asked for,
    however they were changed.

    The tensors of a chip are not in the state dict: conductances, exponents, the weights that are
    held now, the reference and factor of drift compensation, and what its periphery drew.

    Attributes:
        out_scale: Learned factor on the column scales, `[row tiles, out]`, a parameter.
        scale: Column scales, `[row tiles, out]`, a buffer.
        label: Name of the layer in errors.
    """

    def __init__(self, weight: Tensor, preset: Preset, grid: TileGrid, owner: nn.Module) -> None:
        """Lay a matrix on tiles, without a chip.

        Args:
            weight: Trained weights, `[out, in]`.
            preset: The preset.
            grid: The tiles.
            owner: The layer, which has `weight`, `bias`, `matrix()` and `set_matrix()`.
        """
        super().__init__()
        self.grid = grid
        self.preset = preset
        self.name, self.label = "", "this layer"
        self._owner = (owner,)  # in a tuple: the owner is not a submodule of its crossbar
        self._injected: Tensor | None = None
        matrix = weight.detach().reshape(grid.out_features, grid.in_features)
        matrix = matrix.to(product_dtype(matrix.dtype))
        self.register_buffer("scale", column_scales(matrix, grid, preset.crossbar.weight_scaling))
        ones = matrix.new_ones(len(grid.rows), grid.out_features)
        self.out_scale = nn.Parameter(ones, requires_grad=False)
        for name in (*programmed.STATE, *Variation._fields):
            self.register_buffer(name, None, persistent=False)
        self._own_tiles: programmed.Tiles | None = None  # stay where the user's device made them

    scale: Tensor
    conductance_us: Tensor | None
    nu: Tensor | None
    us_per_unit: Tensor | None
    working: Tensor | None
    stuck: Tensor | None
    held: Tensor | None
    reference: Tensor | None
    compensation: Tensor | None
    v_offset: Tensor | None
    out_nonlinearity: Tensor | None
    out_noise_values: Tensor | None
    read_asymmetry: Tensor | None

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        """Load a state dict, unless it has anything of this layer and a chip is programmed."""
        layer = prefix.removesuffix("crossbar.")
        if self.held is not None and any(key.startswith(layer) for key in state_dict):
            raise chip_in_the_way(self.label)
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._apply(lambda tensor: tensor)  # tensors that were assigned may be of half precision

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> StoredMatrix:
        """Move or convert the tensors.

        They are float32 or float64 whatever the model is converted to: a chip keeps its numbers.
        """

        def converted(tensor: Tensor) -> Tensor:
            result = fn(tensor)
            if result.dtype not in (torch.float16, torch.bfloat16):
                return result
            return tensor.to(result.device, product_dtype(tensor.dtype))

        super()._apply(converted, recurse)  # type: ignore[no-untyped-call]
        return self

    # --- weights ---

    def _trained(self) -> Tensor:
        """Return the trained weights of the layer, `[out, in]`, in the dtype of the products."""
        weight: Tensor = self._owner[0].matrix()  # type: ignore[operator]
        dtype = self.scale.dtype
        return weight if weight.dtype is dtype else weight.to(dtype)

    def normalised_weight(self) -> Tensor:
        """Return the trained weights divided by the column scales, detached."""
        return (self._trained() / self.grid.expand_columns(self.scale)).detach()

    def clean_weight(self) -> Tensor:
        """Return a copy of the layer's weights."""
        return self._trained().detach().clone()

    def column_scale(self) -> Tensor:
        """Return the buffer `scale`."""
        return self.scale

    @torch.no_grad()
    def set_clean_weight(self, weight: Tensor, scale: Tensor | None = None) -> None:
        """Write the weights to the layer, and forget a chip."""
        self.grid.check(weight)
        self.restore()
        self._owner[0].set_matrix(weight.to(self.scale))  # type: ignore[operator]
        self.out_scale.fill_(1.0)
        if scale is None:
            self.remap()
        else:
            self.scale.copy_(scale)

    def bias(self) -> Tensor | None:
        """Return the bias of the layer."""
        bias: Tensor | None = self._owner[0].bias  # type: ignore[assignment]
        return bias

    def learned_scale(self) -> Tensor:
        """Return `out_scale`, detached."""
        return self.out_scale.detach()

    @torch.no_grad()
    def set_learned_scale(self, scale: Tensor) -> None:
        """Write `out_scale`."""
        self.out_scale.copy_(scale)

    def effective_weight(self) -> Tensor:
        """Return the held, injected or trained weights times all column scales."""
        held = self.held if self.held is not None else self._injected
        weight = self.normalised_weight() if held is None else held
        return weight * self.grid.expand_columns(self.scale * self.out_scale.detach())

    def _weights_now(self) -> tuple[Tensor | None, Callable[[], Tensor]]:
        """Return the trained weights, and a function for the weights on the crossbar.

        The trained weights are None if they get no gradient.
        """
        held, injected = self.held, self._injected
        if held is not None:
            return None, lambda: held
        trained = None
        if torch.is_grad_enabled() and self._owner[0].weight.requires_grad:
            trained = self._trained()
            if injected is None:
                unaware.note(self._owner[0].weight, self.preset.pcm)  # type: ignore[arg-type]
        if injected is not None:
            return trained, lambda: injected
        return trained, self.normalised_weight

    def trainable(self) -> bool:
        """Return whether the weight of the layer requires a gradient."""
        return bool(self._owner[0].weight.requires_grad)

    def weight_parameters(self) -> list[Tensor]:
        """Return the weight of the layer."""
        weight: Tensor = self._owner[0].weight  # type: ignore[assignment]
        return [weight]

    def inject(self, weight: Tensor | None) -> None:
        """Use these weights in products until they are None."""
        self._injected = weight

    @torch.no_grad()
    def clip(self, bound: Tensor) -> None:
        """Limit the layer's weights."""
        limit = bound * self.grid.expand_columns(self.scale)
        trained = self._trained()
        self._owner[0].set_matrix(torch.minimum(torch.maximum(trained, -limit), limit))  # type: ignore[operator]

    @torch.no_grad()
    def remap(self) -> None:
        """Set `scale` from the layer's weights."""
        self.scale.copy_(
            column_scales(self._trained(), self.grid, self.preset.crossbar.weight_scaling)
        )

    # --- the chip ---

    def _cells(self) -> cell_law.Cells | programmed.Tiles:
        """Return the programmed cells; raise StateError if there are none."""
        if self._own_tiles is not None:
            return self._own_tiles
        if self.conductance_us is None or self.nu is None or self.us_per_unit is None:
            raise StateError(f"{self.label} holds no chip; call program(model, seed) first")
        return cell_law.Cells(
            self.conductance_us, self.nu, self.us_per_unit, self.working, self.stuck
        )

    def _blueprint(self, name: str, draw_on: str) -> programmed.Blueprint:
        """Return the weights to program, and the source of their noise."""
        weight = self._trained().detach()
        return programmed.Blueprint(
            weight, self.scale, self.grid, self.preset, name, draw_on, self.variation()
        )

    def variation(self) -> Variation:
        """Return what the periphery of the chip drew."""
        return Variation(*(getattr(self, name) for name in Variation._fields))

    def hold_variation(self, values: Variation) -> None:
        """Take what the periphery of a chip drew from now on."""
        for name, value in values._asdict().items():
            setattr(self, name, None if value is None else value.to(self.scale))

    @torch.inference_mode(False)
    @torch.no_grad()
    def program(self, seed: int, name: str, draw_on: str) -> None:
        """Program the cells, and measure the reference of drift compensation."""
        blueprint = self._blueprint(name, draw_on).with_variation(seed)
        cells, held = programmed.program(blueprint, seed)
        self.restore()
        self.hold_variation(blueprint.variation)
        if isinstance(cells, list):
            self._own_tiles = cells
        else:
            self.conductance_us, self.nu = cells.conductance_us, cells.nu
            self.us_per_unit = cells.us_per_unit
            self.working, self.stuck = cells.working, cells.stuck
        self.held = held.weights
        self.compensation, self.reference = None, programmed.reference(blueprint, held, seed)

    @torch.inference_mode(False)
    @torch.no_grad()
    def drift(self, t_s: float, seed: int, name: str, draw_on: str) -> None:
        """Read the cells, and measure the factor of drift compensation."""
        cells, blueprint, reference = self._cells(), self._blueprint(name, draw_on), self.reference
        now = programmed.read(blueprint, cells, reference is not None, float(t_s), seed)
        self.held = now.weights
        self.compensation = programmed.factor(blueprint, now, reference, float(t_s), seed)

    def restore(self) -> None:
        """Forget the tensors of the chip."""
        self._own_tiles = None
        for name in (*programmed.STATE, *Variation._fields):
            setattr(self, name, None)

    def chip_state(self) -> dict[str, Tensor]:
        """Return the tensors of the chip that are there."""
        cells = self._cells()
        state = {
            name: value for name in programmed.STATE if (value := getattr(self, name)) is not None
        }
        state |= self.variation().tensors()
        return state | programmed.own_tensors(cells) if isinstance(cells, list) else state

    def check_chip_state(self, state: dict[str, Tensor], t_s: float | None) -> None:
        """Check the tensors of the cells, or rebuild the tiles of a user's device from them."""
        if law_of(self.preset.pcm).by_tile:
            state = dict(state)
            programmed.own_tiles(self._blueprint("", "cpu"), state, self.label)
        programmed.check_state(state, self.grid, self.label, self.preset)
        programmed.check_whole(state, self.preset, self.label, t_s, self.scale.dtype)

    def cells(self) -> cell_law.Cells:
        """Return the programmed cells, unless a user's device keeps them."""
        cells = self._cells()
        return super().cells() if isinstance(cells, list) else cells

    @torch.inference_mode(False)
    def load_chip_state(self, state: dict[str, Tensor]) -> None:
        """Check the tensors, and copy them to this device."""
        pcm, tiles = self.preset.pcm, None
        if law_of(pcm).by_tile:
            state = dict(state)
            tiles = programmed.own_tiles(self._blueprint("", "cpu"), state, self.label)
        programmed.check_state(state, self.grid, self.label, self.preset)
        self.restore()
        self._own_tiles = tiles
        for name, value in state.items():
            setattr(self, name, value.to(self.scale.device).clone())

    def alpha(self) -> Tensor:
        """Return the compensation's factor, 1 if there is none."""
        if self.compensation is None:
            return torch.ones_like(self.scale)
        return self.compensation
