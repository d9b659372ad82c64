"""Chips of netted pairs, and noise for training, drawn in compiled passes.

The laws come from `physics`; each says whether it can be compiled (`Law.compiled`). A pass takes
rows of cells, each of which lies on one tile. It does everything in one loop over memory: draws,
laws, and the mean or the largest of each row. Only one number per column of a tile is left for
eager code. A row is never split among threads.

The numbers are those of `draws.normal_at`. Their key comes from the names of `rng`, their index is
the index of the cell in its matrix. A chip is therefore the same on any number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from aimc_bridge.engines.native.draws import key_of, normal_at, uniform_at
from aimc_bridge.engines.native.kernels import constants, kernel, kind
from aimc_bridge.physics import injection
from aimc_bridge.physics.cells import Cells, program_netted, read_us, us_per_largest
from aimc_bridge.physics.drift import Moment, check_time
from aimc_bridge.physics.laws import law_of
from aimc_bridge.physics.mapping import TileGrid
from aimc_bridge.physics.mvm import identity_readout
from aimc_bridge.spec import CrossbarSpec, DeviceSpec, TrainingSpec

Tensors = Sequence[Tensor]


class Held(NamedTuple):
    """The weights that a chip holds, and their outputs.

    Attributes:
        weights: Normalised weights, `[out, in]`.
        outputs: Mean |output| of each column of each tile if the inputs are the identity matrix,
            `[row tiles, out]`. None if nobody asked for it.
    """

    weights: Tensor
    outputs: Tensor | None


def suits(grid: TileGrid) -> bool:
    """Return whether there are passes for a matrix.

    It must have more than one cell each way.
    torch.compile makes other code for sizes of 1, and such matrices take no time.

    Args:
        grid: The tiles of the matrix.
    """
    return grid.out_features > 1 and min(grid.rows) > 1


def program(
    weight: Tensor,
    scale: Tensor,
    grid: TileGrid,
    pcm: DeviceSpec,
    readout: CrossbarSpec | None,
    seed: int,
    name: str,
) -> tuple[Cells, Held]:
    """Return `cells.program_cells`, and the weights that are held right after.

    Args:
        weight: Trained weights, `[out, in]`.
        scale: The scale of their columns, `[row tiles, out]`.
        grid: The tiles.
        pcm: The device.
        readout: The settings of the crossbar if its outputs are needed, else None.
        seed: Seed of the chip.
        name: Name of the layer in its random streams.
    """
    weight = weight.contiguous()
    rows = _rows(grid, weight.dtype, weight.device)
    largest = grid.column_amax(weight) / scale
    unit = us_per_largest(grid.reduce_columns(largest, "amax"), pcm)
    streams = (("program", name, "+"), ("program", name, "-"), ("exponent", name))
    keys = key_of(weight.device, seed, *streams)
    g, nu, largest = _programmed_cells(weight, (scale, grid.expand_tiles(unit)), keys, rows, pcm)
    unit = us_per_largest(grid.reduce_columns(largest, "amax"), pcm)
    held = torch.empty_like(g)
    keys = key_of(g.device, seed, ("compensation", name, "reference"))
    outputs = _each(_settled, rows, (g, held), (grid.expand_tiles(unit),), (keys,), readout)
    return Cells(g, nu, unit), Held(held, None if readout is None else rows.joined(outputs))


def _programmed_cells(
    weight: Tensor, columns: Tensors, keys: Tensor, rows: _Rows, pcm: DeviceSpec
) -> tuple[Tensor, Tensor, Tensor]:
    """Return net weights, exponents, and the largest net weight of every column.

    Net weights and exponents are `[out, in]`.
    """
    if rows.merged:
        ((net, nu, largest),) = _each(_programmed, rows, (weight,), columns, (keys,), None, pcm)
        return net.view_as(weight), nu.view_as(weight), rows.joined([largest])
    net, nu = torch.empty_like(weight), torch.empty_like(weight)
    results = _each(_programmed, rows, (weight, net, nu), columns, (keys,), None, pcm)
    return net, nu, rows.joined([largest for (largest,) in results])


def read(
    cells: Cells,
    grid: TileGrid,
    pcm: DeviceSpec,
    readout: CrossbarSpec | None,
    t_s: float,
    seed: int,
    name: str,
) -> Held:
    """Return the weights that cells hold at some time, as `cells.read_cells` does.

    Args:
        cells: The cells.
        grid: The tiles.
        pcm: The device.
        readout: The settings of the crossbar if its outputs are needed, else None.
        t_s: Seconds after programming.
        seed: Seed of the chip.
        name: Name of the layer in its random streams.
    """
    g = cells.conductance_us
    rows = _rows(grid, g.dtype, g.device)
    held = torch.empty_like(g)
    keys = key_of(g.device, seed, ("read", name, t_s), ("compensation", name, t_s))
    times = constants(law_of(pcm).moment(check_time(t_s), pcm), g)
    unit = grid.expand_tiles(cells.us_per_unit)
    outputs = _each(_read, rows, (g, cells.nu, held), (unit,), (keys, times), readout, pcm)
    return Held(held, None if readout is None else rows.joined(outputs))


def noisy(
    weight: Tensor,
    scale: Tensor,
    grid: TileGrid,
    pcm: DeviceSpec,
    recipe: TrainingSpec,
    noise_scale: float,
    seed: int,
    names: tuple[object, ...],
) -> Tensor:
    """Return trained weights with the noise of one mini-batch and drop-connect.

    Args:
        weight: Trained weights, `[out, in]`.
        scale: The scale of their columns, `[row tiles, out]`.
        grid: The tiles.
        pcm: The device.
        recipe: The kind of noise, and the share of drop-connect.
        noise_scale: Factor on the noise in this mini-batch.
        seed: Seed of the training.
        names: The names of the mini-batch's streams.

    Returns:
        Normalised weights, `[out, in]`.
    """
    weight = weight.contiguous()
    rows = _rows(grid, weight.dtype, weight.device)
    columns = (scale, scale)
    if recipe.noise_type != "none" and noise_scale > 0.0:
        largest = grid.expand_tiles(grid.reduce_columns(grid.column_amax(weight) / scale, "amax"))
        columns = (scale, torch.where(largest > 0, largest, torch.ones_like(largest)))
    new = torch.empty_like(weight)
    keys = key_of(weight.device, seed, *((*names, drawn) for drawn in ("first", "second", "kept")))
    strength = constants((noise_scale, recipe.drop_connect), weight)
    quiet = recipe.noise_type == "none" or noise_scale == 0.0
    _each(_noisy, rows, (weight, new), columns, (keys, strength), None, pcm, recipe, quiet)
    return new


# --- the passes -----------------------------------------------------------------------------------
# cells: matrices of the same shape; columns: one number per row; inputs: one number per cell of a
# row; fixed: keys and constants


def _programmed(
    cells: Tensors,
    columns: Tensors,
    inputs: Tensors,
    fixed: Tensors,
    readout: None,
    pcm: DeviceSpec,
) -> tuple[Tensor, ...]:
    """Return net weights, exponents and the largest of each row, from clean weights.

    If there are further cells, the first two are written to them instead.
    """
    weight, *into = cells
    scale, unit, first = columns
    plus, minus, eps_nu = (_draws(fixed[0][k], first, weight) for k in range(3))
    net, nu = program_netted(weight / scale[:, None], unit[:, None], pcm, (plus, minus), eps_nu)
    largest = net.abs().amax(-1)
    if not into:
        return net, nu, largest
    into[0].copy_(net)
    into[1].copy_(nu)
    return (largest,)


def _settled(
    cells: Tensors,
    columns: Tensors,
    inputs: Tensors,
    fixed: Tensors,
    readout: CrossbarSpec | None,
) -> Tensor | None:
    """Turn net weights into conductances and held weights; return their outputs."""
    g, held = cells
    unit, first = columns
    now = g * unit[:, None]
    weight = now / unit[:, None]
    g.copy_(now)
    held.copy_(weight)
    return _outputs(weight, fixed[0][0], first, inputs, readout)


def _read(
    cells: Tensors,
    columns: Tensors,
    inputs: Tensors,
    fixed: Tensors,
    readout: CrossbarSpec | None,
    pcm: DeviceSpec,
) -> Tensor | None:
    """Write the weights of conductances and exponents, and return their outputs."""
    g, nu, held = cells
    unit, first = columns
    keys, times = fixed
    eps = _draws(keys[0], first, g)
    weight = read_us(g, nu, Moment(times.unbind()), pcm, eps) / unit[:, None]
    held.copy_(weight)
    return _outputs(weight, keys[1], first, inputs, readout)


def _noisy(
    cells: Tensors,
    columns: Tensors,
    inputs: Tensors,
    fixed: Tensors,
    readout: None,
    pcm: DeviceSpec,
    recipe: TrainingSpec,
    quiet: bool,
) -> None:
    """Write normalised weights with noise and drop-connect to the second of the cells."""
    weight, new = cells
    scale, largest, first = columns
    keys, strength = fixed
    noisy = weight / scale[:, None]
    if not quiet:
        eps = _draws(keys[0], first, weight)
        eps_read = _draws(keys[1], first, weight) if recipe.noise_type == "pcm" else eps
        noisy = injection.noisy(noisy, largest[:, None], pcm, recipe, strength[0], eps, eps_read)
    if recipe.drop_connect > 0.0:
        kept = uniform_at(keys[2], _indices(first, weight)) >= strength[1]
        noisy = torch.where(kept, noisy, 0.0)
    new.copy_(noisy)


def _outputs(
    weight: Tensor, key: Tensor, first: Tensor, inputs: Tensors, readout: CrossbarSpec | None
) -> Tensor | None:
    """Return the mean |output| of each row, or None if nobody asked for it."""
    if readout is None:
        return None
    position, count = inputs
    eps = _draws(key, first, weight)
    return identity_readout(weight, position, count, readout, eps).abs().mean(-1)


def _draws(key: Tensor, first: Tensor, cells: Tensor) -> Tensor:
    """Return the N(0, 1) numbers of cells.

    `first` holds the index of each row's first cell. It is a tensor although arithmetic would do:
    torch.compile does not fuse a loop over all cells with one over rows and columns.
    """
    return normal_at(key, _indices(first, cells)).to(cells.dtype)


def _indices(first: Tensor, cells: Tensor) -> Tensor:
    """Return the indices of cells in their matrix."""
    return first[:, None] + torch.arange(cells.shape[1], dtype=torch.int32, device=cells.device)


# --- rows and calls -------------------------------------------------------------------------------


class _Rows(NamedTuple):
    """The cells of a matrix as matrices whose rows lie on one tile each.

    If all row tiles have the same size, there is one such matrix; else there is one per row tile.

    Attributes:
        grid: The tiles.
        merged: Whether there is one matrix for all row tiles.
        first: The indices of the rows' first cells, per matrix.
        inputs: Position and count of the inputs (see `TileGrid`), per matrix.
    """

    grid: TileGrid
    merged: bool
    first: list[Tensor]
    inputs: list[tuple[Tensor, Tensor]]

    def cells(self, values: Tensor) -> list[Tensor]:
        """Return the matrices of cells from `[out, in]`, which must be contiguous."""
        if self.merged:
            return [values.view(-1, self.grid.rows[0])]
        return [values[:, inputs] for inputs in self.grid.row_slices()]

    def columns(self, values: Tensor) -> list[Tensor]:
        """Return one number per row and matrix, from `[row tiles, out]`."""
        if self.merged:
            return [values.T.reshape(-1).contiguous()]
        return list(values.contiguous())

    def joined(self, parts: list[Tensor]) -> Tensor:
        """Return `[row tiles, out]` from the numbers that `columns` returns."""
        if self.merged:
            return parts[0].view(self.grid.out_features, -1).T
        return torch.stack(parts)


@lru_cache(maxsize=1024)
def _rows(grid: TileGrid, dtype: torch.dtype, device: torch.device) -> _Rows:
    """Return the rows of a grid, which are kept between calls."""
    with torch.inference_mode(False):  # later calls may be outside of inference mode
        rows = _Rows(grid, len(set(grid.rows)) == 1, [], [])
        index = torch.arange(grid.out_features * grid.in_features, dtype=torch.int32)
        for part in rows.cells(index.view(grid.out_features, grid.in_features)):
            rows.first.append(part[:, 0].contiguous().to(device))
        like = torch.empty(0, dtype=dtype, device=device)
        position, count = grid.row_position(like), grid.row_count(like)
        for tile in grid.row_slices()[: len(rows.first)]:
            rows.inputs.append((position[tile].clone(), count[tile].clone()))
        return rows


def _each(
    function: Callable[..., Any],
    rows: _Rows,
    matrices: Tensors,
    columns: Tensors,
    fixed: Tensors,
    readout: CrossbarSpec | None,
    *static: object,
) -> list[Any]:
    """Run a pass over all cells of some matrices.

    The matrices are `[out, in]`, their columns `[row tiles, out]`.

    Returns:
        The results of the pass, one per matrix of rows.
    """
    # .data, because torch.compile also looks at what is behind a view, and compiles again if that
    # differs
    cells = zip(*([part.data for part in rows.cells(matrix)] for matrix in matrices), strict=True)
    numbers = zip(*(rows.columns(values) for values in columns), rows.first, strict=True)
    inputs = rows.inputs if readout is not None else [()] * len(rows.inputs)
    parts = list(zip(cells, numbers, inputs, strict=True))
    compiled = _pass(function, rows.merged, parts[0], fixed, readout, *static)
    return [compiled(*part, fixed, readout, *static) for part in parts]


_called: set[Callable[..., Any]] = set()


def _pass(
    function: Callable[..., Any],
    merged: bool,
    part: tuple[Tensors, Tensors, Tensors],
    fixed: Tensors,
    *static: object,
) -> Callable[..., Any]:
    """Return a pass that is compiled already.

    torch.compile assumes that sizes which are equal in the first call are equal in all calls.
    Therefore the first call is made here, with sizes that all differ. The numbers of a spec are
    compiled in, which halves the cost of a call.
    """
    cells, columns, inputs = part
    compiled = kernel(function, *kind(cells[0]), merged, *static)
    if compiled not in _called:
        from torch._dynamo import config

        m, n = 509, 257
        width = n if merged else n + 12
        with config.patch(specialize_float=True):
            compiled(
                tuple(cell.new_ones(m, width)[:, :n].data for cell in cells),
                tuple(column.new_ones(m) for column in columns),
                tuple(values.new_ones(n) for values in inputs),
                fixed,
                *static,
            )
        _called.add(compiled)
    return compiled
