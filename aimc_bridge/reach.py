"""Warnings of analog layers that the first pass of a chip does not reach."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from torch import nn

from aimc_bridge.converted import matrices_of, record_of
from aimc_bridge.engines.base import Matrix
from aimc_bridge.watching import is_ordinary

_SHOWN = 12  # layers that a warning writes out


def watch_reach(model: nn.Module) -> None:
    """Let the first pass of a programmed model warn of analog layers that it does not reach.

    Args:
        model: A converted model that holds a chip.
    """
    hooked = any(hook is _reach_ends for hook in model._forward_hooks.values())
    if not record_of(model).reach_checked and not hooked:
        model.register_forward_pre_hook(_reach_begins)
        model.register_forward_hook(_reach_ends)


def _reach_begins(model: nn.Module, args: Any) -> None:
    """Forget what earlier passes reached; a forward pre-hook."""
    if is_ordinary(model):
        forget_reached(matrices_of(model))


def _reach_ends(model: nn.Module, args: Any, output: Any) -> None:
    """Warn of what the pass did not reach, once; a forward hook.

    A pass that reaches nothing is no pass of the chip: in `calibrate` no product sees it.
    """
    record, matrices = record_of(model), matrices_of(model)
    reached = any(matrix.reached.on for matrix in matrices.values())
    if record.chip is None or not reached or not is_ordinary(model):
        return
    if not record.reach_checked:
        record.reach_checked = True
        warn_unreached("this pass", matrices)
    for hooks in (model._forward_pre_hooks, model._forward_hooks):
        for key, hook in list(hooks.items()):
            if hook in (_reach_begins, _reach_ends):
                del hooks[key]


def forget_reached(matrices: Mapping[str, Matrix]) -> None:
    """Forget which matrices were reached so far.

    Args:
        matrices: The matrices, by the name of the layer.
    """
    for matrix in matrices.values():
        matrix.reached.on = False


def warn_unreached(what: str, matrices: Mapping[str, Matrix]) -> None:
    """Warn of the analog layers that no product reached since `forget_reached`.

    Args:
        what: What ran, such as "this pass".
        matrices: The matrices, by the name of the layer.
    """
    missed = [name for name, matrix in matrices.items() if not matrix.reached.on]
    if missed:
        more = f" and {len(missed) - _SHOWN} more" if len(missed) > _SHOWN else ""
        warnings.warn(
            f"{what} never reached these analog layers: {', '.join(missed[:_SHOWN])}{more}; other "
            "inputs may reach them (experts of a mixture), but where the model uses their weights "
            "in another way than by calling them, it sees no chip",
            stacklevel=3,
        )
