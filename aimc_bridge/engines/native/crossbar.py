"""The crossbars of one weight matrix: its tiles, their periphery, the chip programmed on them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from aimc_bridge.engines.base import Matrix, Observer, chip_in_the_way
from aimc_bridge.engines.native import chip, compiled_chip, input_range
from aimc_bridge.engines.native.forward import CrossbarProduct
from aimc_bridge.engines.native.product import LinearProduct, Product
from aimc_bridge.engines.native.tiles import Block, Job, TileWeights, check_precision, perfect
from aimc_bridge.errors import CalibrationError, StateError
from aimc_bridge.physics import cells as cell_law
from aimc_bridge.physics.mapping import TileGrid, column_scales
from aimc_bridge.spec import Preset, StatisticalSpec, TrainingSpec

_MANY = 256
"""Input vectors from which on a product cuts its weights into tiles anew: one pass over them is
then nothing beside the product. For fewer (a recurrent step) the last tiles cut are kept.
"""

_Tiles = dict[tuple[int, int | None], TileWeights]


class _Cached(NamedTuple):
    key: tuple[object, ...]
    source: Tensor  # kept alive, so that its identity in the key stays its own
    tiles: _Tiles


_recent: list[_Cached] = []
"""The tiles of the last product of few vectors, of whatever crossbar: the next time step of a
recurrent layer finds its own, and no model holds tiles beside its weights."""


class Crossbar(nn.Module, Matrix):
    """A matrix `[out, in]` on tiles. The layer that owns it owns the trained weights.

    Parameters   input_range `[row tiles, column tiles]`, out_scale `[row tiles, out]`
    Buffers      scale `[row tiles, out]`; range_batches `[row tiles, column tiles]`, the number of
                 batches each range was set from: 0 is never, -1 is zeros only
    Chip         plain tensors outside the state dict: conductances, exponents, what is held now,
                 the compensation's reference and factor

    A product of few inputs may find the tiles that the one before cut. A change of weights through
    `weight.data` cannot be seen: change under `torch.no_grad()`, or call `restore`.
    """

    def __init__(
        self, weight: Tensor, preset: Preset, product: Product, grid: TileGrid, owner: nn.Module
    ) -> None:
        super().__init__()
        self.grid = grid
        self.preset = preset
        self.product = product
        self.label = "this layer"
        self.reached = [False]
        self._owner = (owner,)  # in a tuple: the owner is not a submodule of its crossbar
        self._observer: Observer | None = None
        self._injected: Tensor | None = None
        self._known = input_range.Known()
        self.ir_drop_in_training = True
        self.side_precision: torch.dtype | None = None
        self.compiled = False
        self.range_start = (0, 3.0)
        self.range_decay = (0.0, 1.0)
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
        for name in chip.STATE:
            self.register_buffer(name, None, persistent=False)

    scale: Tensor
    range_batches: Tensor
    conductance_us: Tensor | None
    nu: Tensor | None
    us_per_unit: Tensor | None
    held: Tensor | None
    reference: Tensor | None
    compensation: Tensor | None

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles: without what is derived, and without an observer."""
        return {**self.__dict__, "_known": input_range.Known(), "_observer": None}

    def _load_from_state_dict(self, *args: Any) -> None:
        if self.held is not None:
            raise chip_in_the_way(self.label)
        super()._load_from_state_dict(*args)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Crossbar:
        self._known = input_range.Known()
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
        found: Tensor | None = self._owner[0].bias  # type: ignore[assignment]
        return found

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
        if self._observer is not None:
            return self._observed(x)
        self.reached[0] = True
        if self.training and self.held is not None:
            raise StateError(
                f"{self.label} holds a programmed chip and is in training mode; "
                "call restore(model) before training, or model.eval() before inference"
            )
        if self.input_range is not None:
            self._check_ranges(x)
        trained, weight, source = self._weights_now()
        factor = scale * self.out_scale
        if self.compensation is not None:
            factor = factor * self.compensation
        size = x.numel()
        if not size or perfect(self.preset.crossbar, self._ir_drop()):
            whole = self._digital_product(x, trained, weight(), factor)
            if size or self.input_range is None:
                return whole
            return whole + 0.0 * self.input_range.sum()  # it too has a gradient of zeros
        few = size < x.shape[1] * _MANY
        job = Job(
            self.product,
            self.preset.crossbar,
            self._blocks(weight, self._kept(source) if few and source is not None else {}),
            scale,
            self.range_decay,
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

    def _weights_now(self) -> tuple[Tensor | None, Callable[[], Tensor], Tensor | None]:
        """(trained weights that get a gradient or None, weights on the crossbar, the tensor that
        they are known by; None where a change of it might not be seen)."""
        held, injected = self.held, self._injected
        if held is not None:
            return None, lambda: held, held
        trained = None
        if torch.is_grad_enabled() and self._owner[0].weight.requires_grad:
            trained = self._trained()
        if injected is not None:
            return trained, lambda: injected, injected
        if self.training or trained is not None:
            return trained, self.normalised_weight, None
        own: Tensor = self._owner[0].weight  # type: ignore[assignment]
        return None, self.normalised_weight, own

    def _kept(self, source: Tensor) -> _Tiles:
        """The tiles that the last product cut of the weights `source`, or room for them."""
        version = (source._version, self.scale._version)
        key = (id(self), id(source), source.data_ptr(), id(self.scale), *version)
        last = _recent[:]  # another thread may put its own there meanwhile
        if last and last[0].key == key:
            return last[0].tiles
        new = _Cached(key, source, {})
        _recent[:] = [new]
        return new.tiles

    def _blocks(self, weight: Callable[[], Tensor], kept: _Tiles) -> list[Block]:
        """The products of this layer; derived weights are taken from `kept`, or put there."""
        columns: list[tuple[int | None, slice]] = [(None, slice(0, self.grid.out_features))]
        if not self._known.shared(self.input_range):
            columns = list(enumerate(self.grid.column_slices()))
        blocks = []
        with torch.inference_mode(False), torch.no_grad():
            whole = None
            for row in range(len(self.grid.rows)):
                for column, outs in columns:
                    tile = kept.get((row, column))
                    if tile is None:
                        whole = weight() if whole is None else whole
                        position = self.grid.row_position(whole) if self._ir_drop() else None
                        tile = TileWeights(self.product, whole, row, column, position)
                        kept[row, column] = tile
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

    def _range_state(self) -> input_range.State:
        return self._known.state(self.range_batches, self.range_start[0])

    def _check_ranges(self, x: Tensor) -> None:
        if self.training and self._range_state().starting:
            if x.numel() == 0:
                return  # nothing to start from, and nothing to quantise
            assert self.input_range is not None
            # .data: the products of earlier time steps wait for a backward pass through it
            own, tiles = self.input_range.data, partial(self.product.inputs, x)
            self._known = input_range.Known()  # nor is the change seen
            input_range.start(own, self.range_batches, tiles, *self.range_start)
        if not self._range_state().ready:
            raise CalibrationError(
                f"the input ranges of {self.label} were never set; call calibrate(model, batches), "
                "train(...) with learned input ranges, or load a state dict that has them"
            )

    def input_ranges(self) -> Tensor | None:
        if self.input_range is None or not self._range_state().ready:
            return None
        return self.input_range.detach().abs()

    @torch.inference_mode(False)
    @torch.no_grad()
    def set_input_ranges(self, ranges: Tensor) -> None:
        if self.input_range is None:
            return
        self.grid.check_ranges(ranges, self.label)
        self.input_range.copy_(ranges)
        self.range_batches.fill_(input_range.LOADED)

    def observe(self, observer: Observer | None) -> None:
        self._observer = observer

    def product_modules(self) -> list[tuple[nn.Module, int]]:
        return [(self, self.grid.out_features)]

    def _observed(self, x: Tensor) -> Tensor:
        assert self._observer is not None
        total = None
        learned = self.grid.expand_columns(self.out_scale.detach())
        weight = self._trained().detach() * learned
        for row in range(len(self.grid.rows)):
            for column in range(len(self.grid.columns)):
                seen = self.product.inputs(x, row, column)
                outputs = partial(self._exact_outputs, seen, row, column)
                self._observer(row, column, seen, outputs)
            part = self.product.weights(weight, row, None)
            y = self.product.contract(self.product.inputs(x, row, None), part)
            total = y if total is None else total + y
        assert total is not None
        return total

    def _exact_outputs(self, seen: Tensor, row: int, column: int) -> Tensor:
        """Of one tile: products of its normalised weights with its inputs."""
        weight = self.product.weights(self.normalised_weight(), row, column)
        return self.product.contract(seen, weight)

    # --- the chip ---

    def _cells(self) -> cell_law.Cells:
        if self.conductance_us is None or self.nu is None or self.us_per_unit is None:
            raise StateError(f"{self.label} holds no chip; call program(model, seed) first")
        return cell_law.Cells(self.conductance_us, self.nu, self.us_per_unit)

    def _matrix(self, name: str, draw_on: str) -> chip.Matrix:
        weight = self._trained().detach()
        check_precision(weight.dtype)
        return chip.Matrix(weight, self.scale, self.grid, self.preset, name, draw_on)

    @torch.inference_mode(False)
    @torch.no_grad()
    def program(self, seed: int, name: str, draw_on: str) -> None:
        matrix = self._matrix(name, draw_on)
        cells, held = chip.program(matrix, seed)
        self.conductance_us, self.nu = cells.conductance_us, cells.nu
        self.us_per_unit, self.held = cells.us_per_unit, held.weights
        self.compensation, self.reference = None, chip.reference(matrix, held, seed)

    @torch.inference_mode(False)
    @torch.no_grad()
    def drift(self, t_s: float, seed: int, name: str, draw_on: str) -> None:
        cells, matrix, reference = self._cells(), self._matrix(name, draw_on), self.reference
        now = chip.read(matrix, cells, reference is not None, float(t_s), seed)
        self.held = now.weights
        self.compensation = chip.factor(matrix, now, reference, float(t_s), seed)

    def restore(self) -> None:
        _recent.clear()
        for name in chip.STATE:
            setattr(self, name, None)

    def chip_state(self) -> dict[str, Tensor]:
        check_precision(self.scale.dtype)
        self._cells()
        return {name: value for name in chip.STATE if (value := getattr(self, name)) is not None}

    @torch.inference_mode(False)
    def load_chip_state(self, state: dict[str, Tensor]) -> None:
        chip.check_state(state, self.grid, self.label)
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
        self.range_start = (recipe.input_range_init_batches, recipe.input_range_init_sd)
        self.range_decay = (recipe.input_range_decay, recipe.input_range_min_unclipped)
        if self.input_range is not None:
            self.input_range.requires_grad_(recipe.learn_input_ranges)
        if recipe.input_range_start == "data":
            self.range_batches.zero_()

    def inject(self, weight: Tensor | None) -> None:
        self._injected = weight

    @torch.no_grad()
    def noisy_in_passes(
        self, recipe: TrainingSpec, scale: float, seed: int, names: tuple[object, ...]
    ) -> Tensor | None:
        pcm = self.preset.pcm
        if (
            not self.compiled
            or not isinstance(pcm, StatisticalSpec)
            or not compiled_chip.suits(self.grid)
        ):
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
