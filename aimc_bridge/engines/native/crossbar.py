"""The crossbars of one weight matrix: tiles, their periphery, and their products."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from aimc_bridge.engines.base import Flag, Observer, chip_in_training
from aimc_bridge.engines.native import compiled_chip, compiled_passes, integers
from aimc_bridge.engines.native.forward import CrossbarProduct
from aimc_bridge.engines.native.input_range import LOADED, InputRanges
from aimc_bridge.engines.native.linear_product import LinearProduct
from aimc_bridge.engines.native.product import MANY, Product
from aimc_bridge.engines.native.stored import StoredMatrix
from aimc_bridge.engines.native.tiles import Block, Job, Kept, TileWeights, perfect
from aimc_bridge.errors import CalibrationError, CapabilityError
from aimc_bridge.layers import transforms
from aimc_bridge.layers.border import SMALLEST_RANGE
from aimc_bridge.layers.steps import kept_between_steps
from aimc_bridge.physics.laws import law_of
from aimc_bridge.physics.mapping import TileGrid
from aimc_bridge.physics.mvm import LineEffects, line_effects
from aimc_bridge.physics.variation import Variation
from aimc_bridge.spec import Preset, TrainingSpec

_NO_VARIATION = Variation()

_FEW_WEIGHTS = 1 << 18
"""Up to this number of weights, what floating-point products derive from a chip is kept."""


class Crossbar(StoredMatrix):
    """A matrix `[out, in]` on tiles, its periphery, and its products.

    Every product takes the weights as they are when it is called, however they were changed. Only
    the time steps of a recurrent layer share what the first of them derived (`layers.steps`).

    Attributes:
        input_range: Input ranges, `[row tiles, column tiles]`, a parameter; None if the preset has
            none.
        range_batches: Number of batches that each range was set from, `[row tiles, column tiles]`,
            a buffer. 0 is never, -1 is from zeros only.
        product: The product of the layer.
        ranges: The start and the observation of input ranges.
        side_precision: Precision of the products behind IR drop and read noise; None is the
            precision of the weights.
        compiled: Whether compiled passes do everything beside the products.
    """

    def __init__(
        self, weight: Tensor, preset: Preset, product: Product, grid: TileGrid, owner: nn.Module
    ) -> None:
        """Lay a matrix on tiles.

        Args:
            weight: Trained weights, `[out, in]`.
            preset: The preset.
            product: The product of the layer.
            grid: The tiles.
            owner: The layer, which has `weight`, `bias`, `matrix()` and `set_matrix()`.
        """
        super().__init__(weight, preset, grid, owner)
        self.product = product
        self.reached = Flag()
        self.ranges = InputRanges()
        self.ir_drop_in_training = True
        self.side_precision: torch.dtype | None = None
        self.compiled = False
        tiles, ones = (len(grid.rows), len(grid.columns)), self.scale.new_ones
        self.input_range: nn.Parameter | None
        if preset.crossbar.input_range == "none":
            self.register_parameter("input_range", None)
        else:
            self.input_range = nn.Parameter(ones(tiles), requires_grad=False)
        self.register_buffer("range_batches", ones(tiles, dtype=torch.long).zero_())
        self._kept = Kept()

    range_batches: Tensor

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        """Load a state dict, as `StoredMatrix` does; no range is smaller than SMALLEST_RANGE."""
        super()._load_from_state_dict(state_dict, prefix, *args)
        if self.input_range is not None:
            values = self.input_range.data
            values.masked_fill_(values.abs() < SMALLEST_RANGE, SMALLEST_RANGE)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Crossbar:
        """Move or convert the tensors, after which the ranges are looked at again."""
        self.ranges.forget()
        super()._apply(fn, recurse)
        return self

    def restore(self) -> None:
        """Forget the chip, and what was derived from it."""
        super().restore()
        self._kept = Kept()

    # --- the product ---

    def forward(self, x: Tensor) -> Tensor:
        """Return the analog product of all tiles, summed digitally, without the bias.

        Under autocast it is still computed in the precision of the weights, because the grid of the
        ADC is as fine as bfloat16's.

        Args:
            x: Inputs in own units, as the layer's product takes them.

        Raises:
            StateError: If the layer is in training mode, holds a chip, and is not frozen.
            CalibrationError: If the input ranges were never set.
        """
        if torch.is_autocast_enabled(x.device.type):
            with torch.autocast(x.device.type, enabled=False):
                return self.forward(x.to(self.scale.dtype))
        if isinstance(self.product, LinearProduct) and x.ndim != 2:
            flat = self.forward(x.reshape(-1, x.shape[-1]))
            return flat.view(*x.shape[:-1], self.grid.out_features)
        scale = self.scale
        if self.ranges.observer is not None:
            learned = self.grid.expand_columns(self.out_scale.detach())
            exact = self._trained().detach() * learned
            return self.ranges.observed(self.product, x, exact, self.normalised_weight)
        self.reached.on = True
        if self.training and self.held is not None and self._learns():
            raise chip_in_training(self.label, "freeze its weights: requires_grad_(False)")
        spec, size = self.preset.crossbar, x.numel()
        ideal = perfect(spec, self._ir_drop())
        if not ideal and transforms.transformed():
            return self._transformed(x)
        if self.input_range is not None:
            self._check_ranges(x)
        trained, weight = self._weights_now()
        factor = scale * self.out_scale
        if self.compensation is not None:
            factor = factor * self.compensation
        if not size or ideal:
            whole = self._digital_product(x, trained, weight(), factor)
            if size or self.input_range is None:
                return whole
            return whole + 0.0 * self.input_range.sum()  # it too has a gradient of zeros
        in_integers = integers.suits(spec, self.product, x, scale.dtype)
        cache = self._tiles_of_chip(in_integers)
        if cache is None and size < x.shape[1] * MANY:
            steps = kept_between_steps()
            cache = None if steps is None else steps.setdefault(self, {})
        once = cache is None and size < x.shape[1] * integers.MANY
        job = Job(
            self.product,
            spec,
            self._blocks(weight, {} if cache is None else cache),
            scale,
            self.ranges.decay,
            self.side_precision,
            self.compiled and self._pays_to_compile(x),
            in_integers and not once,
        )
        spans = None if self.input_range is None else self.input_range.abs()
        if spans is not None and spans.requires_grad:
            # it may learn to be 0, and would divide by it; to a range above 1e-22 this adds nothing
            spans = spans.add_(SMALLEST_RANGE)
        y: Tensor = CrossbarProduct.apply(x, trained, spans, factor, job)  # type: ignore[no-untyped-call]
        return y

    def _transformed(self, x: Tensor) -> Tensor:
        """Return the product in a forward pass that torch transforms, or raise an error."""
        if torch.compiler.is_dynamo_compiling():
            left_out: Tensor = self._left_out(x)
            return left_out
        transforms.refuse_graphs()
        spec = self.preset.crossbar
        noisy = spec.out_noise > 0.0 or spec.w_noise > 0.0
        return transforms.mapped(self.forward, x, self._owner[0].weight, noisy)  # type: ignore[arg-type]

    @torch.compiler.disable(reason=transforms.LEFT_OUT)  # type: ignore[untyped-decorator]
    def _left_out(self, x: Tensor) -> Tensor:
        """Return the product, where torch.compile breaks its graph."""
        return self.forward(x)

    def __prepare_scriptable__(self) -> Crossbar:  # torch.jit.script calls it
        """Raise CapabilityError."""
        transforms.refuse_script()

    def _replicate_for_data_parallel(self) -> Crossbar:
        """Raise CapabilityError: a replica would multiply with the weights of the first device."""
        raise CapabilityError(
            "nn.DataParallel over several devices; allowed: "
            "torch.nn.parallel.DistributedDataParallel, with one process per device"
        )

    def _digital_product(
        self, x: Tensor, trained: Tensor | None, weight: Tensor, factor: Tensor
    ) -> Tensor:
        """Return the product of all tiles as one digital product.

        This is exact if the periphery changes nothing, or if there are no inputs.
        """
        if trained is not None:
            clean = trained / self.grid.expand_columns(self.scale)
            weight = clean if self._injected is None else clean + (weight - clean).detach()
        product = self.product.whole()
        scaled = product.weights(weight * self.grid.expand_columns(factor), 0, None)
        return product.contract(product.inputs(x, 0, None), scaled)

    def _learns(self) -> bool:
        """Return whether an optimizer may change what lies on the crossbar or at its edge."""
        return self.trainable() or any(
            p.requires_grad for parameters in self.periphery().values() for p in parameters
        )

    def _in_training(self) -> bool:
        """Return whether passes are those of training; those of a programmed chip never are."""
        return self.training and self.held is None

    def _blocks(
        self, weight: Callable[[], Tensor], cache: dict[tuple[int, int | None], TileWeights]
    ) -> list[Block]:
        """Return the blocks of tiles, with weights from `cache`, which it fills."""
        columns: list[tuple[int | None, slice]] = [(None, slice(0, self.grid.out_features))]
        if not self.ranges.shared(self.input_range):
            columns = list(enumerate(self.grid.column_slices()))
        blocks = []
        spec, values = self.preset.crossbar, _NO_VARIATION
        if spec.line_effects:
            values = self.variation()
        with torch.inference_mode(False), torch.no_grad():
            whole = None
            effects = line_effects(values, self.grid, spec) if spec.line_effects else None
            ones = None
            if effects is not None and effects.r_series is not None and spec.v_offset_w_min:
                ones = self.scale.new_ones(1, self.grid.in_features)
            for row in range(len(self.grid.rows)):
                for column, outs in columns:
                    tile = cache.get((row, column))
                    if tile is None:
                        whole = weight() if whole is None else whole
                        position = self.grid.row_position(whole) if self._ir_drop() else None
                        tile = TileWeights(
                            self.product, whole, row, column, position, values.read_asymmetry
                        )
                        cache[row, column] = tile
                    blocks.append(Block(row, column, outs, tile))
                    if effects is not None:
                        blocks[-1] = self._with_effects(blocks[-1], effects, ones)
        return blocks

    def _pays_to_compile(self, x: Tensor) -> bool:
        """Return whether compiled passes are faster than their calls take."""
        outputs = len(x) * self.product.outputs_per_sample(x)
        return x.device.type != "cpu" or outputs >= compiled_passes.FEWEST

    def _tiles_of_chip(self, in_integers: bool) -> dict[tuple[int, int | None], TileWeights] | None:
        """Return the weights of tiles that are kept while the crossbar holds a chip.

        They are forgotten with its next drift, and if someone changes what it holds. Floating-point
        weights of a large matrix are not kept: they are as large as the chip, and quickly made.
        """
        held = self.held
        if held is None or held.is_inference():
            return None
        if not in_integers and held.numel() > _FEW_WEIGHTS:
            return None
        kept = self._kept
        if kept.of is not held or kept.version != held._version:
            self._kept = kept = Kept(held, held._version)
        return kept.tiles

    def _with_effects(self, block: Block, effects: LineEffects, ones: Tensor | None) -> Block:
        """Return a block of tiles with the effects of its outputs."""
        of_block = effects.each(lambda effect: effect[block.row, block.columns])
        if ones is not None:
            ones = self.product.weights(ones, block.row, None).contiguous()
        return Block(block.row, block.column, block.columns, block.tile, of_block, ones)

    def set_side_precision(self, dtype: torch.dtype | None) -> None:
        """Set the precision of the products behind IR drop and read noise.

        Args:
            dtype: The precision; None is the precision of the weights.
        """
        self.side_precision = dtype

    def set_compiled(self, on: bool) -> None:
        """Set whether compiled passes do everything beside the products.

        Args:
            on: True if they do.
        """
        self.compiled = on

    def _ir_drop(self) -> bool:
        """Return whether there is an IR drop now."""
        on = self.preset.crossbar.ir_drop > 0.0
        return on and (self.ir_drop_in_training or not self._in_training())

    # --- input ranges ---

    def _check_ranges(self, x: Tensor) -> None:
        """Check that the input ranges are set, or start them from the inputs."""
        assert self.input_range is not None
        if not self.ranges.check(
            self.input_range, self.range_batches, self.product, x, self._in_training()
        ):
            raise CalibrationError(
                f"the input ranges of {self.label} were never set; call calibrate(model, batches), "
                "train(...) with learned input ranges, or load a state dict that has them"
            )

    def input_ranges(self) -> Tensor | None:
        """Return the absolute values of the ranges, or None if one was never set."""
        if self.input_range is None or not self.ranges.state(self.range_batches).ready:
            return None
        return self.input_range.detach().abs()

    @torch.no_grad()
    def set_input_ranges(self, ranges: Tensor) -> None:
        """Set the parameter and its count of batches, if the preset has ranges."""
        if self.input_range is None:
            return
        self.grid.check_ranges(ranges, self.label)
        self.input_range.copy_(ranges.clamp_min(SMALLEST_RANGE))
        self.range_batches.fill_(LOADED)

    def observe(self, observer: Observer | None) -> None:
        """Give the observer to the ranges."""
        self.ranges.observer = observer

    def product_modules(self) -> list[tuple[nn.Module, int]]:
        """Return this module, which does all products of the matrix."""
        return [(self, self.grid.out_features)]

    def watch_inputs(self, watcher: Callable[[Tensor], None]) -> RemovableHandle:
        """Show inputs by a hook on this module."""
        linear = isinstance(self.product, LinearProduct)

        def show(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            x = arguments[0].detach()
            watcher(x.reshape(-1, x.shape[-1]) if linear else x)

        return self.register_forward_pre_hook(show)

    def multiply(self, x: Tensor) -> Tensor:
        """Return a forward pass of this module."""
        y: Tensor = self(x)
        return y

    # --- training ---

    def prepare_training(self, recipe: TrainingSpec) -> None:
        """Set which parameters learn, how ranges start, and whether there is an IR drop."""
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
        """Return `out_scale` and `input_range`."""
        ranges = [] if self.input_range is None else [self.input_range]
        return {"out_scale": [self.out_scale], "input_range": ranges}

    def keep_out_of_compile(self, on: bool) -> None:
        """Hide `forward` from torch.compile, or show it again."""
        if on:
            self.__dict__["forward"] = torch.compiler.disable(self.forward)
        else:
            self.__dict__.pop("forward", None)

    @torch.no_grad()
    def draw_noisy_weight(
        self, recipe: TrainingSpec, scale: float, seed: int, names: tuple[object, ...]
    ) -> Tensor | None:
        """Draw in a compiled pass, if this crossbar is compiled and the device has one."""
        pcm = self.preset.pcm
        if not self.compiled or not law_of(pcm).compiled or not compiled_chip.suits(self.grid):
            return None
        trained = self._trained().detach()
        return compiled_chip.noisy(trained, self.scale, self.grid, pcm, recipe, scale, seed, names)

    def extra_repr(self) -> str:
        """Return the size and the preset, for `print(model)`."""
        grid = self.grid
        tiles = f"{grid.tiles} tile{'' if grid.tiles == 1 else 's'}"
        return f"{grid.out_features} x {grid.in_features} on {tiles}, {self.preset}"
