"""A chip of netted pairs, and noise injected in training, in compiled passes that draw their
numbers themselves.

The laws are those of `physics` that say they can be compiled (`Law.compiled`). A pass takes rows
of cells, each on one tile, and does everything in one loop over memory: draws, laws, the mean or
the largest of each row. What is left for eager code is one number a column of a tile. A row is
never split among threads.

Numbers are those of `draws.normal_at`: a key from the names of `rng`, the index of the cell in its
matrix. A chip is the same on any number of threads.
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
from aimc_bridge.physics.crossbar import identity_readout
from aimc_bridge.physics.drift import Moment, check_time
from aimc_bridge.physics.laws import law_of
from aimc_bridge.physics.mapping import TileGrid
from aimc_bridge.spec import CrossbarSpec, DeviceSpec, TrainingSpec

Tensors = Sequence[Tensor]


class Held(NamedTuple):
    """weights    normalised, `[out, in]`
    outputs    mean |output| of each column of each tile for the identity matrix as inputs,
               `[row tiles, out]`; None where not asked for
    """

    weights: Tensor
    outputs: Tensor | None


def suits(grid: TileGrid) -> bool:
    """Whether there are passes for a matrix: more than one cell each way.

    torch.compile makes other code for sizes of 1, for matrices that take no time.
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
    """`cells.program_cells` and what is held right after.

    Args:    weight  trained, `[out, in]`, and the scale of its columns, `[row tiles, out]`.
             readout  the crossbar that outputs are wanted of.
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
    """Net weights and exponents, `[out, in]`, and the largest net weight of every column."""
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
    """`cells.read_cells` at `t_s` seconds after programming."""
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
    """Trained weights, `[out, in]`, with the noise of one mini-batch and drop-connect, normalised.

    Args:    scale  of the columns, `[row tiles, out]`.    names  of the mini-batch's streams.
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
# cells: matrices of one shape; columns: a number a row; inputs: a number a cell of a row


def _programmed(
    cells: Tensors,
    columns: Tensors,
    inputs: Tensors,
    fixed: Tensors,
    readout: None,
    pcm: DeviceSpec,
) -> tuple[Tensor, ...]:
    """Of clean weights: net weights, exponents, the largest of each row; the first two are written
    to further cells where these are given."""
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
    """Net weights become conductances, and weights that are held; these weights' outputs."""
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
    """Conductances and exponents become weights that are held; these weights' outputs."""
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
    """Of trained weights: normalised ones with noise and drop-connect, written to the second."""
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
    if readout is None:
        return None
    position, count = inputs
    eps = _draws(key, first, weight)
    return identity_readout(weight, position, count, readout, eps).abs().mean(-1)


def _draws(key: Tensor, first: Tensor, cells: Tensor) -> Tensor:
    """`first` is the index of the first cell of each row; a tensor where arithmetic would do:
    torch.compile does not fuse a loop over all cells with one over rows and columns."""
    return normal_at(key, _indices(first, cells)).to(cells.dtype)


def _indices(first: Tensor, cells: Tensor) -> Tensor:
    return first[:, None] + torch.arange(cells.shape[1], dtype=torch.int32, device=cells.device)


# --- rows and calls -------------------------------------------------------------------------------


class _Rows(NamedTuple):
    """The cells of a matrix as matrices whose rows each lie on one tile: one matrix of all where
    row tiles have one size, else one of each row tile.

    first    indices of the rows' first cells    inputs    position and count, see `TileGrid`
    """

    grid: TileGrid
    merged: bool
    first: list[Tensor]
    inputs: list[tuple[Tensor, Tensor]]

    def cells(self, values: Tensor) -> list[Tensor]:
        """`[out, in]`, without gaps."""
        if self.merged:
            return [values.view(-1, self.grid.rows[0])]
        return [values[:, inputs] for inputs in self.grid.row_slices()]

    def columns(self, values: Tensor) -> list[Tensor]:
        """`[row tiles, out]`."""
        if self.merged:
            return [values.T.reshape(-1).contiguous()]
        return list(values.contiguous())

    def joined(self, parts: list[Tensor]) -> Tensor:
        """Back from `columns`."""
        if self.merged:
            return parts[0].view(self.grid.out_features, -1).T
        return torch.stack(parts)


@lru_cache(maxsize=1024)
def _rows(grid: TileGrid, dtype: torch.dtype, device: torch.device) -> _Rows:
    with torch.inference_mode(False):  # kept between calls
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
    """A pass over all cells of matrices `[out, in]`, columns given as `[row tiles, out]`.

    Returns: what it returns, for each matrix of rows.
    """
    # .data: torch.compile also looks at what is behind a view, and compiles anew where that differs
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
    """A pass, compiled by now.

    torch.compile takes sizes that are equal in the first call for equal in all: they all differ in
    a call of our own. Numbers of a spec are compiled in, which halves what a call costs.
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
