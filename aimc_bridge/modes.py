"""A block that leaves the training mode of every module as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


@contextmanager
def modes_kept(model: nn.Module) -> Iterator[None]:
    """Restore the training mode of every module at the end of the block.

    The modules of a model may be in different modes, such as frozen batch normalisations in a model
    that trains. `model.train(mode)` would lose that. The modes are restored after an error too.

    Args:
        model: The model. In the block its modules may change between training and evaluation.
    """
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
