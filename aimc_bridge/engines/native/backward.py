"""The backward pass of a crossbar, as on aihwkit; see `forward.CrossbarProduct`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from aimc_bridge.engines.native import compiled_gradients
from aimc_bridge.engines.native.tiles import Block, Job, along, output_step, room


class Gradients:
    """Gradients that are summed over the pieces of a batch and the blocks of tiles.

    They are summed in the order of pieces and blocks. If the ADC saturates nowhere in the rows of
    tiles, one product of all pieces gives the gradients: the digital scales go into the weights,
    and the inputs of all rows lie side by side.

    Attributes:
        for_x: Gradient of the inputs, or None.
        for_w: Gradient of the normalised weights, or None; `all` divides it by their scale.
        for_factor: Gradient of the digital scales, or None.
        clipped: Gradient from clipped inputs, and share of inputs inside, for each range; or None.
        rows: Places of the rows of tiles if their inputs may lie side by side, else None.
        weight: The weights of all rows, times their scales, once they were needed.
    """

    def __init__(
        self,
        x: Tensor,
        ranges: Tensor | None,
        factor: Tensor,
        job: Job,
        needs: tuple[bool, bool, bool, bool],
    ) -> None:
        """Prepare the sums that are needed.

        Args:
            x: Inputs of the layer, in own units.
            ranges: Input ranges, `[row tiles, column tiles]`, or None.
            factor: Digital scales, `[row tiles, out]`.
            job: The products of the forward pass.
            needs: Whether the gradients of (inputs, weights, ranges, factor) are needed.
        """
        self.x, self.ranges, self.factor, self.job = x, ranges, factor, job
        grid = job.product.grid
        self.needs_x = needs[0]
        self.for_x: Tensor | None = None
        self.for_w = x.new_zeros(grid.out_features, grid.in_features) if needs[1] else None
        self.for_factor = torch.zeros_like(factor) if needs[3] else None
        self.clipped: Tensor | None = None
        if needs[2] and ranges is not None:
            self.clipped = ranges.new_zeros(2, *ranges.shape)
        # on a CPU only: elsewhere, looking for saturated outputs would wait for the device
        rows = grid.groups == 1 and all(block.column is None for block in job.blocks)
        self.rows = job.product.side_by_side() if rows and x.device.type == "cpu" else None
        self.weight: Tensor | None = None

    def add(
        self, pieces: Sequence[slice], grad: Tensor, codes: Sequence[Sequence[Tensor | None]]
    ) -> None:
        """Add the gradients that all pieces pass back.

        Args:
            pieces: The samples of each piece.
            grad: Gradient of the outputs of the layer.
            codes: The codes of the ADC, for each piece and each block.
        """
        blocks = self.job.blocks
        saturated = [False] * len(pieces)
        for number, (piece, piece_codes) in enumerate(zip(pieces, codes, strict=True)):
            for block, block_codes in zip(blocks, piece_codes, strict=True):
                if block_codes is not None and self._look(grad[piece], block_codes, block):
                    saturated[number] = True
        if not self.needs_x and self.clipped is None and self.for_w is None:
            return
        if self.rows is not None and not any(saturated):
            self._add_rows(slice(0, len(self.x)), grad, self.rows)
            return
        for number, (piece, piece_codes) in enumerate(zip(pieces, codes, strict=True)):
            if self.rows is not None and not saturated[number]:
                self._add_rows(piece, grad[piece], self.rows)
                continue
            for block, block_codes in zip(blocks, piece_codes, strict=True):
                self._add_block(piece, block, _of(grad[piece], block), block_codes)

    def _look(self, grad: Tensor, codes: Tensor, block: Block) -> bool:
        """Add the gradient of a block's scales, and return whether its ADC saturates.

        The answer is True if that is unknown.
        """
        bound, needs_factor = self.job.bound, self.for_factor is not None
        look = bound is not None and self.rows is not None
        summed, largest = None, None
        if self.job.compiled:
            summed, largest = compiled_gradients.sums(
                _of(grad, block), codes, wants=needs_factor, look=look
            )
        else:
            if needs_factor:
                others = [axis for axis in range(grad.ndim) if axis != 1]
                summed = (_of(grad, block) * codes).sum(others)
            if look:
                largest = codes.abs().amax()
        if self.for_factor is not None and summed is not None:
            summed, input_range = summed * output_step(self.job.spec), block.range_of(self.ranges)
            self.for_factor[block.row, block.columns] += (
                summed if input_range is None else summed * input_range
            )
        return bound is not None and (largest is None or bool(largest.max() >= bound))

    def _add_rows(self, piece: slice, grad: Tensor, rows: list[slice]) -> None:
        """Add the gradients of all rows of tiles at once; no output is saturated."""
        job, product = self.job, self.job.product
        blocks = list(zip(job.blocks, rows, strict=True))
        x, part = self.x[piece], self.x[piece]
        if self.ranges is not None or rows[-1].stop != x.shape[1]:
            part = room(x, len(x), rows[-1].stop)
            for block, span in blocks:
                seen = product.inputs(x, block.row, block.column)
                self._put_in_range(seen, block.range_of(self.ranges), part[:, span])
        if self.weight is None:
            self.weight = torch.cat(
                [b.tile.value * _first(self.factor[b.row], b.tile.value) for b in job.blocks], 1
            )
        needs = (self.needs_x or self.clipped is not None, self.for_w is not None)
        part_x, part_w = product.transposed(grad, part, self.weight, needs)
        if part_w is not None:
            for block, span in blocks:
                self._add_weight(part_w[:, span] * _first(self.factor[block.row], part_w), block)
        if part_x is None:
            return
        if self.clipped is not None:
            clipped = self._clipped_inputs(part, part_x)
            for block, span in blocks:
                gradient, count = (values[span].sum() for values in clipped)
                self._add_clipped(block, gradient, count / part[:, span].numel(), len(x))
        if self.needs_x and part_x.shape == self.x.shape:  # the whole batch, every input once
            self.for_x = part_x
        elif self.needs_x and rows[-1].stop == x.shape[1]:
            self._all_inputs()[piece].copy_(part_x)
        elif self.needs_x:
            for block, span in blocks:
                product.put_inputs(self._all_inputs()[piece], part_x[:, span], block.row, None)

    def _add_block(self, piece: slice, block: Block, grad: Tensor, codes: Tensor | None) -> None:
        """Add the gradients of one block of tiles."""
        product, input_range = self.job.product, block.range_of(self.ranges)
        g = self._through_adc(grad, codes, self.factor[block.row, block.columns])
        part = product.inputs(self.x[piece], block.row, block.column)
        if input_range is not None:
            seen, part = part, room(part, len(part), part.shape[1])
            self._put_in_range(seen, input_range, part)
        needs = (self.needs_x or self.clipped is not None, self.for_w is not None)
        part_x, part_w = product.transposed(g, part, block.tile.value, needs)
        if part_w is not None:
            self._add_weight(part_w, block)
        if part_x is None:
            return
        if input_range is not None and self.clipped is not None:
            gradient, count = (values.sum() for values in self._clipped_inputs(part, part_x))
            self._add_clipped(block, gradient, count / part.numel(), len(part))
        if self.needs_x:
            product.put_inputs(self._all_inputs()[piece], part_x, block.row, block.column)

    def _all_inputs(self) -> Tensor:
        """Return the gradient of all inputs, which is to be filled."""
        if self.for_x is None:
            self.for_x = torch.empty_like(self.x)
        return self.for_x

    def _add_weight(self, part: Tensor, block: Block) -> None:
        """Add the gradient of a block's weights.

        `part` has the shape of the tile's weights, and is for inputs in units of the range.
        """
        assert self.for_w is not None
        grid, input_range = self.job.product.grid, block.range_of(self.ranges)
        gradient = self.job.product.matrix(part, block.row)
        rows = grid.row_slices()[block.row]
        self.for_w[block.columns, rows] += (
            gradient if input_range is None else gradient * input_range
        )

    def _add_clipped(self, block: Block, gradient: Tensor, share: Tensor, samples: int) -> None:
        """Add a block's gradient from clipped inputs, and the share of the others."""
        assert self.clipped is not None
        sums = self.clipped[:, block.row, block.column or 0]
        sums[0] += gradient
        sums[1] += (1.0 - share) * (samples / len(self.x))

    def _through_adc(self, grad: Tensor, codes: Tensor | None, factor: Tensor) -> Tensor:
        """Return the gradient of a block's products, from the gradient of its outputs."""
        bound = self.job.bound
        if self.job.compiled:
            return compiled_gradients.gradient(grad, codes, factor, bound=bound)
        g = grad * along(factor, grad)
        if bound is not None and codes is not None:
            g.masked_fill_(codes.abs() >= bound, 0.0)
        return g

    def _put_in_range(self, x: Tensor, input_range: Tensor | None, into: Tensor) -> None:
        """Write inputs in units of their range."""
        if input_range is None:
            into.copy_(x)
        elif self.job.compiled:
            compiled_gradients.in_range(x, input_range, into)
        else:
            torch.div(x, input_range, out=into).clamp_(-1.0, 1.0)

    def _clipped_inputs(self, part: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
        """Return `clipped_gradient` of each column of inputs."""
        return (compiled_gradients.clipped if self.job.compiled else clipped_gradient)(part, grad)

    def all(self) -> tuple[Tensor | None, ...]:
        """Return the gradients of inputs, trained weights, ranges and factors."""
        if self.for_w is not None:
            self.for_w /= self.job.product.grid.expand_columns(self.job.scale)
        for_ranges = None
        if self.clipped is not None and self.ranges is not None:
            clipped, unclipped = self.clipped
            for_ranges = range_gradient(clipped, unclipped, self.ranges, *self.job.decay)
        return self.for_x, self.for_w, for_ranges, self.for_factor


def _of(grad: Tensor, block: Block) -> Tensor:
    """Return a block's part of the gradient of all outputs."""
    return grad if block.column is None else grad[:, block.columns]


def _first(values: Tensor, like: Tensor) -> Tensor:
    """Return values `[outputs]` in a shape that broadcasts to a tile's weights."""
    return values.view(-1, *[1] * (like.ndim - 1))


def clipped_gradient(x: Tensor, grad_x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradient of the input range from clipped inputs, and their number.

    The gradient is relative to the size of the range:
    sum over x = 1 of min(g, 0) - sum over x = -1 of max(g, 0).

    Args:
        x: Inputs in units of the range, clamped to [-1, 1], `[samples, inputs, *space]`;
            overwritten.
        grad_x: Gradient of the inputs in own units, same shape.

    Returns:
        The gradient and the number of clipped values, for each input: `[inputs]`.
    """
    others = [axis for axis in range(x.ndim) if axis != 1]
    sides = x.trunc_()  # 0 inside, else the sign of the input
    clipped = sides.abs().sum(others)
    return sides.mul_(grad_x).clamp_max_(0.0).sum(others), clipped


def range_gradient(
    clipped: Tensor, unclipped: Tensor, ranges: Tensor, decay: float, min_unclipped: float
) -> Tensor:
    """Return the gradient of learned input ranges.

    It is range * (gradient from clipped inputs, plus decay while more than `min_unclipped` of the
    inputs are inside the range).

    Args:
        clipped: Sums of `clipped_gradient`, per range.
        unclipped: Share of inputs inside the range.
        ranges: The ranges.
        decay: Rate of the decay.
        min_unclipped: Least share of inputs inside the range for decay.

    Source: aihwkit InputRangeParameter.
    """
    return (clipped + decay * (unclipped > min_unclipped)) * ranges
