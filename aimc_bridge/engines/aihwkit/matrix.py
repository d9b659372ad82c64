"""A weight matrix on a grid of aihwkit tiles, in the library's interface."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from aimc_bridge.engines.aihwkit.noise import OurNoiseModel, drawing
from aimc_bridge.engines.aihwkit.tile import ChipTile
from aimc_bridge.engines.aihwkit.tile_state import (
    check_tile_state,
    of_tile,
    tile_state,
    write_tile_state,
)
from aimc_bridge.engines.aihwkit.variation import read_tile, write_tile
from aimc_bridge.engines.base import Flag, Matrix, Observer
from aimc_bridge.errors import (
    CapabilityError,
    CheckpointError,
    StateError,
)
from aimc_bridge.physics import faults, variation
from aimc_bridge.physics.cells import Cells, netted_cells
from aimc_bridge.physics.faults import FaultMap
from aimc_bridge.physics.mapping import TileGrid, column_scales
from aimc_bridge.physics.variation import Variation
from aimc_bridge.spec import OwnDevice, Preset, TrainingSpec


class TileMatrix(Matrix):
    """A matrix whose parts lie on `tiles[row][column]`.

    Programming and reading are aihwkit's own functions of a tile. They draw from torch's default
    generator, which is seeded from the named stream and afterwards has its former state again. The
    generator of the products lies in the C++ tile, where no seed reaches it. Measured compensation
    factors are therefore kept, and not measured again.

    Attributes:
        tiles: The tiles, by row and column.
        bias_owner: The module whose `bias` is the digital bias of the layer.
        label: Name of the layer in errors.
    """

    def __init__(
        self,
        tiles: list[list[ChipTile]],
        grid: TileGrid,
        preset: Preset,
        bias_owner: nn.Module,
    ) -> None:
        """Put the tiles of a layer together.

        Args:
            tiles: The tiles, by row and column.
            grid: The grid that they form.
            preset: The preset of the layer.
            bias_owner: The module whose `bias` is the digital bias of the layer.
        """
        self.tiles, self.grid, self.preset = tiles, grid, preset
        self.bias_owner = bias_owner
        self.name, self.label = "", "this layer"
        self.reached = Flag()
        for _, _, tile in self._each():
            tile.reached, tile.pcm = self.reached, preset.pcm
        self.hold_variation(Variation())

    def named(self, label: str) -> None:
        """Set the name of the layer in errors.

        Args:
            label: The name, as in "layer 'fc1'".
        """
        self.label = label
        for _, _, tile in self._each():
            tile.label = label

    def _each(self) -> Iterator[tuple[int, int, ChipTile]]:
        """Yield every tile with its row and column."""
        for row, tiles in enumerate(self.tiles):
            for column, tile in enumerate(tiles):
                yield row, column, tile

    def _part(self, matrix: Tensor, row: int, column: int) -> Tensor:
        """Return a tile's part of a matrix `[..., out, in]`."""
        return matrix[..., self.grid.column_slices()[column], self.grid.row_slices()[row]]

    def _whole(self, parts: list[list[Tensor]]) -> Tensor:
        """Join parts `[tile out, tile in]`, by row and column, to a matrix `[out, in]`."""
        return torch.cat([torch.cat(columns, dim=0) for columns in parts], dim=1)

    def _by_column(self, parts: list[list[Tensor]]) -> Tensor:
        """Join parts `[tile out]` or numbers, by row and column, to `[row tiles, out]`."""
        sizes = self.grid.columns
        rows = [
            torch.cat([part.detach().expand(size) for part, size in zip(tiles, sizes, strict=True)])
            for tiles in parts
        ]
        return torch.stack(rows)

    # --- the chip ---

    def program(self, seed: int, name: str, draw_on: str) -> None:
        """Program each tile with aihwkit's own function; `draw_on` has no effect.

        The broken devices are those of the same chip on the native engine.
        """
        self._draw_variation(seed, name)
        broken = None
        if self.preset.pcm.faults:
            broken = faults.draw(self.grid, self.preset.pcm, faults.generators(seed, name))
        for row, column, tile in self._each():
            model = tile.rpu_config.noise_model
            if broken is not None and isinstance(model, OurNoiseModel):
                model.broken = FaultMap(*(self._part(each, row, column) for each in broken))
            with drawing(seed, "program", name, row, column):
                tile.program_weights(from_reference=True)
            tile.alpha = torch.ones(1)
            tile.alphas = {}

    def _draw_variation(self, seed: int, name: str) -> None:
        """Draw the periphery of a chip, as the native engine does."""
        generators = variation.generators(seed, name)
        self.hold_variation(variation.draw(self.grid, self.preset.crossbar, generators))

    def variation(self) -> Variation:
        """Return what the C++ tiles hold; without a chip, that is the means."""
        parts = [[read_tile(tile, self.preset.crossbar) for tile in row] for row in self.tiles]
        values = {}
        for name in variation.drawn_names(self.preset.crossbar):
            tensors = [[part.tensors()[name] for part in row] for row in parts]
            if name == "read_asymmetry":
                values[name] = self._whole(tensors)
            else:
                values[name] = torch.cat([torch.cat(row, dim=1) for row in tensors])
        return Variation(**values)

    def hold_variation(self, values: Variation) -> None:
        """Write the values to the C++ tiles."""
        drawn, columns = values.tensors(), self.grid.column_slices()
        for row, column, tile in self._each():
            part = {
                name: self._part(value, row, column)
                if name == "read_asymmetry"
                else value[row : row + 1, columns[column]]
                for name, value in drawn.items()
            }
            write_tile(tile, self.preset.crossbar, Variation(**part))

    def drift(self, t_s: float, seed: int, name: str, draw_on: str) -> None:
        """Read each tile with aihwkit's own function; `draw_on` has no effect."""
        for row, column, tile in self._each():
            if tile.programmed_weights is None:
                raise StateError(f"{self.label} holds no chip; call program(model, seed) first")
            with drawing(seed, "read", name, row, column, float(t_s)):
                tile.drift_weights(t_s)
            tile.alpha = tile.alphas.setdefault(float(t_s), tile.alpha.detach().clone())

    def restore(self) -> None:
        """Let every tile forget its chip."""
        for _, _, tile in self._each():
            tile.forget_chip()
        self.hold_variation(Variation())

    def chip_state(self) -> dict[str, Tensor]:
        """Return the tensors of all tiles, under names "row.column.tensor"."""
        tensors: dict[str, Tensor] = {}
        for row, column, tile in self._each():
            state = tile_state(tile, self.preset)
            if state is None:
                raise StateError(f"{self.label} holds no chip; call program(model, seed) first")
            tensors |= {f"{row}.{column}.{key}": value for key, value in state.items()}
        return tensors

    def check_chip_state(self, state: dict[str, Tensor], t_s: float | None) -> None:
        """Check the tensors of every tile; aihwkit's own models decide how many they have."""
        names = set(state)
        for row, column, tile in self._each():
            tensors = of_tile(state, row, column)
            names -= {f"{row}.{column}.{key}" for key in tensors}
            where = f"chip of {self.label}, tile {row}.{column}"
            check_tile_state(tensors, tile, self.preset, t_s, where)
        if names:
            raise CheckpointError(f"chip of {self.label}: unknown tensor {sorted(names)[0]!r}")

    def cells(self) -> Cells:
        """Return the devices of all tiles as one matrix of cells."""
        if isinstance(self.preset.pcm, OwnDevice):
            return super().cells()
        tiles = [[self._tile_cells(tile) for tile in row] for row in self.tiles]
        units = torch.cat([torch.cat([c.us_per_unit for c in row], -1) for row in tiles], -2)
        g = [self._column_tiles([c.conductance_us for c in row]) for row in tiles]
        nu = [self._column_tiles([c.nu for c in row]) for row in tiles]
        return Cells(torch.cat(g, -1), torch.cat(nu, -1), units, pcm=self.preset.pcm)

    def _column_tiles(self, parts: list[Tensor]) -> Tensor:
        """Join the cells of column tiles; their references stand behind all of them."""
        rows = [
            part.split((size, part.shape[-2] - size), dim=-2)
            for part, size in zip(parts, self.grid.columns, strict=True)
        ]
        return torch.cat([part for kind in zip(*rows, strict=True) for part in kind], dim=-2)

    def _tile_cells(self, tile: ChipTile) -> Cells:
        """Return the cells of one tile, also of aihwkit's own models, which keep net weights."""
        net, state, pcm = tile.programmed_weights, tile.drift_noise_parameters, self.preset.pcm
        if net is None or state is None:
            raise StateError(f"{self.label} holds no chip; call program(model, seed) first")
        if isinstance(tile.rpu_config.noise_model, OurNoiseModel):
            return Cells(state[0], state[1], state[2], pcm=pcm)
        return netted_cells(net, state, pcm)

    def load_chip_state(self, state: dict[str, Tensor]) -> None:
        """Write the tensors to the tiles that their names start with."""
        self.check_chip_state(state, None)
        self.restore()
        for row, column, tile in self._each():
            write_tile_state(of_tile(state, row, column), tile, self.preset)

    # --- weights ---

    def column_scale(self) -> Tensor:
        """Return the mapping scales of the tiles."""
        return self._by_column([[t.mapping_scales for t in tiles] for tiles in self.tiles])

    def normalised_weight(self) -> Tensor:
        """Return a copy of the trained weights of all tiles."""
        return self._whole([[tile.trained() for tile in tiles] for tiles in self.tiles]).clone()

    def clean_weight(self) -> Tensor:
        """Return the normalised weights times the column scales."""
        return self.normalised_weight() * self.grid.expand_columns(self.column_scale())

    def set_clean_weight(self, weight: Tensor, scale: Tensor | None = None) -> None:
        """Write the weights to the tiles, which forget their chip."""
        self.grid.check(weight)
        self.restore()
        self._write(weight, scale)
        for _, _, tile in self._each():
            tile.set_learned_out_scales(1.0)

    @torch.no_grad()
    def _write(self, weight: Tensor, scale: Tensor | None = None) -> None:
        """Write trained weights in own units, on new column scales or on given ones."""
        if scale is None:
            scale = column_scales(weight, self.grid, self.preset.crossbar.weight_scaling)
        normalised = weight / self.grid.expand_columns(scale)
        for row, column, tile in self._each():
            tile.set_mapping_scales(scale[row, self.grid.column_slices()[column]].clone())
            tile.hold(self._part(normalised, row, column))

    def bias(self) -> Tensor | None:
        """Return the bias of the module that owns it."""
        bias: Tensor | None = self.bias_owner.bias  # type: ignore[assignment]
        return bias

    def learned_scale(self) -> Tensor:
        """Return the learned factors of the tiles, and 1 if they have none."""
        unlearned = torch.ones(1)
        return self._by_column(
            [
                [unlearned if t.out_scaling_alpha is None else t.out_scaling_alpha for t in tiles]
                for tiles in self.tiles
            ]
        )

    def set_learned_scale(self, scale: Tensor) -> None:
        """Write the factors of the tiles, if they have any."""
        for row, column, tile in self._each():
            tile.set_learned_out_scales(scale[row, self.grid.column_slices()[column]])

    def effective_weight(self) -> Tensor:
        """Return the shared weights of the tiles times all column scales."""
        held = self._whole([[t.shared_weights.detach() for t in row] for row in self.tiles])
        return held * self.grid.expand_columns(self.column_scale() * self.learned_scale())

    def alpha(self) -> Tensor:
        """Return the compensation factors that the tiles hold."""
        return self._by_column([[tile.alpha for tile in tiles] for tiles in self.tiles])

    # --- input ranges ---

    def input_ranges(self) -> Tensor | None:
        """Return the absolute values of the tiles' ranges; None if one was never set."""
        tiles = [tile for _, _, tile in self._each()]
        if tiles[0].input_range is None or not all(tile.range_is_set() for tile in tiles):
            return None
        return torch.stack(
            [torch.cat([t.input_range.detach().abs() for t in row]) for row in self.tiles]
        )

    def set_input_ranges(self, ranges: Tensor) -> None:
        """Set the range of each tile, if the preset has ranges."""
        if self.tiles[0][0].input_range is None:
            return
        self.grid.check_ranges(ranges, self.label)
        for row, column, tile in self._each():
            tile.set_input_range(float(ranges[row, column]))

    def observe(self, observer: Observer | None) -> None:
        """Give the observer to every tile, with its row and column."""
        for row, column, tile in self._each():
            tile.observer = None if observer is None else (observer, row, column)

    def product_modules(self) -> list[tuple[nn.Module, int]]:
        """Return all tiles; the first one counts the vectors."""
        return [
            (tile, self.grid.columns[0] if row == column == 0 else 0)
            for row, column, tile in self._each()
        ]

    # --- training ---

    def trainable(self) -> bool:
        """Return whether the weights of any tile require a gradient."""
        return any(tile.shared_weights.requires_grad for _, _, tile in self._each())

    def weight_parameters(self) -> list[Tensor]:
        """Return the shared weights of all tiles."""
        return [tile.shared_weights for _, _, tile in self._each()]

    def prepare_training(self, recipe: TrainingSpec) -> None:
        """Set which parameters of the tiles learn, and how their ranges do.

        Raises:
            CapabilityError: If the recipe asks for training without the preset's IR drop.
        """
        if self.preset.crossbar.ir_drop > 0 and not recipe.ir_drop_in_training:
            raise CapabilityError(
                "aihwkit's C++ tile cannot switch its IR drop off in training only; "
                'override ir_drop_in_training=True, or use engine="native"'
            )
        for _, _, tile in self._each():
            if tile.out_scaling_alpha is not None:
                tile.out_scaling_alpha.requires_grad_(recipe.learn_out_scales)
            if tile.input_range is not None:
                tile.input_range.requires_grad_(recipe.learn_input_ranges)
                if recipe.input_range_start == "data":
                    tile.input_range_update_idx.data.zero_()
            ranges = tile.rpu_config.pre_post.input_range
            ranges.init_from_data = recipe.input_range_init_batches
            ranges.init_std_alpha = recipe.input_range_init_sd
            ranges.decay = recipe.input_range_decay
            ranges.input_min_percentage = recipe.input_range_min_unclipped

    def periphery(self) -> dict[str, list[nn.Parameter]]:
        """Return the parameters of all tiles."""
        tiles = [tile for _, _, tile in self._each()]
        return {
            "out_scale": [t.out_scaling_alpha for t in tiles if t.out_scaling_alpha is not None],
            "input_range": [t.input_range for t in tiles if t.input_range is not None],
        }

    def inject(self, weight: Tensor | None) -> None:
        """Give each tile its part of the weights."""
        for row, column, tile in self._each():
            tile.inject(None if weight is None else self._part(weight, row, column))

    @torch.no_grad()
    def clip(self, bound: Tensor) -> None:
        """Limit the trained weights, and write them to the tiles."""
        limits = bound.expand(self.grid.out_features, self.grid.in_features)
        for row, column, tile in self._each():
            limit = self._part(limits, row, column)
            tile.hold(torch.minimum(torch.maximum(tile.trained(), -limit), limit))

    def remap(self) -> None:
        """Write the trained weights again, on new column scales."""
        self._write(self.clean_weight())
