"""The crossbars of one weight matrix: its tiles, their periphery, the chip programmed on them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from aimc_bridge.engines.base import Flag, Matrix, Observer, chip_in_the_way
from aimc_bridge.engines.native import compiled_chip, programmed
from aimc_bridge.engines.native.forward import CrossbarProduct
from aimc_bridge.engines.native.input_range import LOADED, InputRanges
from aimc_bridge.engines.native.product import MANY, LinearProduct, Product
from aimc_bridge.engines.native.tiles import Block, Job, TileWeights, check_precision, perfect
from aimc_bridge.errors import CalibrationError, StateError
from aimc_bridge.layers.steps import kept_between_steps
from aimc_bridge.physics import cells as cell_law
from aimc_bridge.physics.laws import law_of
from aimc_bridge.physics.mapping import TileGrid, column_scales
from aimc_bridge.spec import Preset, TrainingSpec


class Crossbar(nn.Module, Matrix):
    """A matrix `[out, in]` on tiles. The layer that owns it owns the trained weights.

    Parameters   input_range `[row tiles, column tiles]`, out_scale `[row tiles, out]`
    Buffers      scale `[row tiles, out]`; range_batches `[row tiles, column tiles]`, the number of
                 batches each range was set from: 0 is never, -1 is zeros only
    Chip         plain tensors outside the state dict: conductances, exponents, what is held now,
                 the compensation's reference and factor

    Every product takes the weights as they are when it is called, however they were changed; only
    the time steps of a recurrent layer share what the first of them derived (`layers.steps`).
    """

    def __init__(
        self, weight: Tensor, preset: Preset, product: Product, grid: TileGrid, owner: nn.Module
    ) -> None:
        super().__init__()
        self.grid = grid
        self.preset = preset
        self.product = product
        self.label = "this layer"
        self.reached = Flag()
        self._owner = (owner,)  # in a tuple: the owner is not a submodule of its crossbar
        self._injected: Tensor | None = None
        self.ranges = InputRanges()
        self.ir_drop_in_training = True
        self.side_precision: torch.dtype | None = None
        self.compiled = False
        spec = preset.crossbar
        matrix = weight.detach().reshape(grid.out_features, grid.in_features)
        tiles = (len(grid.rows), len(grid.columns))
        ones = matrix.new_ones
        self.register_buffer("scale", column_scales(matrix, grid, spec.weight_scaling))
        self.out_scale = nn.Parameter(ones(tiles[0], grid.out_features), requires_grad=False)
        self.input_range: nn.Parameter | None
        if spec.input_range == "none":
            self.register_parameter("input_range", None)
        else:
            self.input_range = nn.Parameter(ones(tiles), requires_grad=False)
        self.register_buffer("range_batches", ones(tiles, dtype=torch.long).zero_())
        for name in programmed.STATE:
            self.register_buffer(name, None, persistent=False)

    scale: Tensor
    range_batches: Tensor
    conductance_us: Tensor | None
    nu: Tensor | None
    us_per_unit: Tensor | None
    held: Tensor | None
    reference: Tensor | None
    compensation: Tensor | None

    def _load_from_state_dict(self, *args: Any) -> None:
        if self.held is not None:
            raise chip_in_the_way(self.label)
        super()._load_from_state_dict(*args)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Crossbar:
        self.ranges.forget()
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    # --- weights ---

    def _trained(self) -> Tensor:
        weight: Tensor = self._owner[0].matrix()  # type: ignore[operator]
        return weight

    def _normalised(self) -> Tensor:
        return self._trained() / self.grid.expand_columns(self.scale)

    def normalised_weight(self) -> Tensor:
        return self._normalised().detach()

    def clean_weight(self) -> Tensor:
        return self._trained().detach().clone()

    def column_scale(self) -> Tensor:
        return self.scale

    @torch.inference_mode(False)
    @torch.no_grad()
    def set_clean_weight(self, weight: Tensor, scale: Tensor | None = None) -> None:
        self.grid.check(weight)
        self.restore()
        self._owner[0].set_matrix(weight.to(self.scale))  # type: ignore[operator]
        self.out_scale.fill_(1.0)
        if scale is None:
            self.remap()
        else:
            self.scale.copy_(scale)

    def bias(self) -> Tensor | None:
        bias: Tensor | None = self._owner[0].bias  # type: ignore[assignment]
        return bias

    def learned_scale(self) -> Tensor:
        return self.out_scale.detach()

    def effective_weight(self) -> Tensor:
        held = self.held if self.held is not None else self._injected
        weight = self.normalised_weight() if held is None else held
        return weight * self.grid.expand_columns(self.scale * self.out_scale.detach())

    # --- the product ---

    def forward(self, x: Tensor) -> Tensor:
        """The analog product of all tiles, summed digitally; no bias.

        Under autocast it is computed in the precision of the weights all the same: the grid of the
        ADC is as fine as bfloat16's.
        """
        if torch.is_autocast_enabled(x.device.type):
            with torch.autocast(x.device.type, enabled=False):
                return self.forward(x.to(self.scale.dtype))
        if isinstance(self.product, LinearProduct) and x.ndim != 2:
            flat = self.forward(x.reshape(-1, x.shape[-1]))
            return flat.view(*x.shape[:-1], self.grid.out_features)
        scale = self.scale
        check_precision(scale.dtype)  # model.half() may have changed it
        if self.ranges.observer is not None:
            learned = self.grid.expand_columns(self.out_scale.detach())
            exact = self._trained().detach() * learned
            return self.ranges.observed(self.product, x, exact, self.normalised_weight)
        self.reached.on = True
        if self.training and self.held is not None:
            raise StateError(
                f"{self.label} holds a programmed chip and is in training mode; "
                "call restore(model) before training, or model.eval() before inference"
            )
        if self.input_range is not None:
            self._check_ranges(x)
        trained, weight = self._weights_now()
        factor = scale * self.out_scale
        if self.compensation is not None:
            factor = factor * self.compensation
        size = x.numel()
        if not size or perfect(self.preset.crossbar, self._ir_drop()):
            whole = self._digital_product(x, trained, weight(), factor)
            if size or self.input_range is None:
                return whole
            return whole + 0.0 * self.input_range.sum()  # it too has a gradient of zeros
        few = size < x.shape[1] * MANY
        cache = kept_between_steps() if few else None
        job = Job(
            self.product,
            self.preset.crossbar,
            self._blocks(weight, {} if cache is None else cache.setdefault(self, {})),
            scale,
            self.ranges.decay,
            self.side_precision,
            self.compiled,
        )
        spans = None if self.input_range is None else self.input_range.abs()
        y: Tensor = CrossbarProduct.apply(x, trained, spans, factor, job)  # type: ignore[no-untyped-call]
        return y

    def _digital_product(
        self, x: Tensor, trained: Tensor | None, weight: Tensor, factor: Tensor
    ) -> Tensor:
        """Through a periphery that changes nothing, all tiles are one product; so they are where
        there are no inputs."""
        if trained is not None:
            clean = trained / self.grid.expand_columns(self.scale)
            weight = clean if self._injected is None else clean + (weight - clean).detach()
        product = self.product.whole()
        scaled = product.weights(weight * self.grid.expand_columns(factor), 0, None)
        return product.contract(product.inputs(x, 0, None), scaled)

    def _weights_now(self) -> tuple[Tensor | None, Callable[[], Tensor]]:
        """(trained weights that get a gradient or None, weights on the crossbar)."""
        held, injected = self.held, self._injected
        if held is not None:
            return None, lambda: held
        trained = None
        if torch.is_grad_enabled() and self._owner[0].weight.requires_grad:
            trained = self._trained()
        if injected is not None:
            return trained, lambda: injected
        return trained, self.normalised_weight

    def _blocks(
        self, weight: Callable[[], Tensor], cache: dict[tuple[int, int | None], TileWeights]
    ) -> list[Block]:
        """The products of this layer; derived weights are taken from `kept`, or put there."""
        columns: list[tuple[int | None, slice]] = [(None, slice(0, self.grid.out_features))]
        if not self.ranges.shared(self.input_range):
            columns = list(enumerate(self.grid.column_slices()))
        blocks = []
        with torch.inference_mode(False), torch.no_grad():
            whole = None
            for row in range(len(self.grid.rows)):
                for column, outs in columns:
                    tile = cache.get((row, column))
                    if tile is None:
                        whole = weight() if whole is None else whole
                        position = self.grid.row_position(whole) if self._ir_drop() else None
                        tile = TileWeights(self.product, whole, row, column, position)
                        cache[row, column] = tile
                    blocks.append(Block(row, column, outs, tile))
        return blocks

    def set_side_precision(self, dtype: torch.dtype | None) -> None:
        """Of the products behind IR drop and read noise; None is that of the weights."""
        self.side_precision = dtype

    def set_compiled(self, on: bool) -> None:
        """Whether compiled passes do what is no product."""
        self.compiled = on

    def _ir_drop(self) -> bool:
        on = self.preset.crossbar.ir_drop > 0.0
        return on and (self.ir_drop_in_training or not self.training)

    # --- input ranges ---

    def _check_ranges(self, x: Tensor) -> None:
        assert self.input_range is not None
        if not self.ranges.check(
            self.input_range, self.range_batches, self.product, x, self.training
        ):
            raise CalibrationError(
                f"the input ranges of {self.label} were never set; call calibrate(model, batches), "
                "train(...) with learned input ranges, or load a state dict that has them"
            )

    def input_ranges(self) -> Tensor | None:
        if self.input_range is None or not self.ranges.state(self.range_batches).ready:
            return None
        return self.input_range.detach().abs()

    @torch.inference_mode(False)
    @torch.no_grad()
    def set_input_ranges(self, ranges: Tensor) -> None:
        if self.input_range is None:
            return
        self.grid.check_ranges(ranges, self.label)
        self.input_range.copy_(ranges)
        self.range_batches.fill_(LOADED)

    def observe(self, observer: Observer | None) -> None:
        self.ranges.observer = observer

    def watch_inputs(self, watcher: Callable[[Tensor], None]) -> RemovableHandle:
        linear = isinstance(self.product, LinearProduct)

        def show(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            x = arguments[0].detach()
            watcher(x.reshape(-1, x.shape[-1]) if linear else x)

        return self.register_forward_pre_hook(show)

    def multiply(self, x: Tensor) -> Tensor:
        y: Tensor = self(x)
        return y

    # --- the chip ---

    def _cells(self) -> cell_law.Cells:
        if self.conductance_us is None or self.nu is None or self.us_per_unit is None:
            raise StateError(f"{self.label} holds no chip; call program(model, seed) first")
        return cell_law.Cells(self.conductance_us, self.nu, self.us_per_unit)

    def _blueprint(self, name: str, draw_on: str) -> programmed.Blueprint:
        weight = self._trained().detach()
        check_precision(weight.dtype)
        return programmed.Blueprint(weight, self.scale, self.grid, self.preset, name, draw_on)

    @torch.inference_mode(False)
    @torch.no_grad()
    def program(self, seed: int, name: str, draw_on: str) -> None:
        blueprint = self._blueprint(name, draw_on)
        cells, held = programmed.program(blueprint, seed)
        self.conductance_us, self.nu = cells.conductance_us, cells.nu
        self.us_per_unit, self.held = cells.us_per_unit, held.weights
        self.compensation, self.reference = None, programmed.reference(blueprint, held, seed)

    @torch.inference_mode(False)
    @torch.no_grad()
    def drift(self, t_s: float, seed: int, name: str, draw_on: str) -> None:
        cells, blueprint, reference = self._cells(), self._blueprint(name, draw_on), self.reference
        now = programmed.read(blueprint, cells, reference is not None, float(t_s), seed)
        self.held = now.weights
        self.compensation = programmed.factor(blueprint, now, reference, float(t_s), seed)

    def restore(self) -> None:
        for name in programmed.STATE:
            setattr(self, name, None)

    def chip_state(self) -> dict[str, Tensor]:
        check_precision(self.scale.dtype)
        self._cells()
        return {
            name: value for name in programmed.STATE if (value := getattr(self, name)) is not None
        }

    @torch.inference_mode(False)
    def load_chip_state(self, state: dict[str, Tensor]) -> None:
        programmed.check_state(state, self.grid, self.label)
        self.restore()
        for name, value in state.items():
            setattr(self, name, value.to(self.scale.device).clone())

    def alpha(self) -> Tensor:
        if self.compensation is None:
            return torch.ones_like(self.scale)
        return self.compensation

    # --- training ---

    def trainable(self) -> bool:
        return bool(self._owner[0].weight.requires_grad)

    def prepare_training(self, recipe: TrainingSpec) -> None:
        self.ir_drop_in_training = recipe.ir_drop_in_training
        self.out_scale.requires_grad_(
            recipe.learn_out_scales and self.preset.crossbar.learned_out_scales
        )
        self.ranges.prepare(recipe)
        if self.input_range is not None:
            self.input_range.requires_grad_(recipe.learn_input_ranges)
        if recipe.input_range_start == "data":
            self.range_batches.zero_()

    def periphery(self) -> dict[str, list[nn.Parameter]]:
        ranges = [] if self.input_range is None else [self.input_range]
        return {"out_scale": [self.out_scale], "input_range": ranges}

    def keep_out_of_compile(self, on: bool) -> None:
        if on:
            self.__dict__["forward"] = torch.compiler.disable(self.forward)
        else:
            self.__dict__.pop("forward", None)

    def inject(self, weight: Tensor | None) -> None:
        self._injected = weight

    @torch.no_grad()
    def draw_noisy_weight(
        self, recipe: TrainingSpec, scale: float, seed: int, names: tuple[object, ...]
    ) -> Tensor | None:
        pcm = self.preset.pcm
        if not self.compiled or not law_of(pcm).compiled or not compiled_chip.suits(self.grid):
            return None
        trained = self._trained().detach()
        return compiled_chip.noisy(trained, self.scale, self.grid, pcm, recipe, scale, seed, names)

    @torch.inference_mode(False)
    @torch.no_grad()
    def clip(self, bound: Tensor) -> None:
        limit = bound * self.grid.expand_columns(self.scale)
        trained = self._trained()
        self._owner[0].set_matrix(torch.minimum(torch.maximum(trained, -limit), limit))  # type: ignore[operator]

    @torch.inference_mode(False)
    @torch.no_grad()
    def remap(self) -> None:
        self.scale.copy_(
            column_scales(self._trained(), self.grid, self.preset.crossbar.weight_scaling)
        )

    def extra_repr(self) -> str:
        grid = self.grid
        size = f"{grid.out_features} x {grid.in_features} on {grid.tiles} tiles"
        return f"{size}, {self.preset.name}"
