"""The training modes of the modules of a model, kept over a change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


@contextmanager
def modes_kept(model: nn.Module) -> Iterator[None]:
    """Give every module its training mode back at the end of the block, errors included.

    A model may hold modules in different modes, such as frozen batch normalisations in a model that
    trains: `model.train(mode)` would lose that.

    Args:
        model: The model whose modules may change between training and evaluation in the block.
    """
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
