"""The trial of an encoder on small padded batches, which finds the side that padding goes to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from aimc_bridge.errors import DataError
from benchmarks.tasks.data import reason
from benchmarks.tasks.encoder_checks import NAME_ONE

if TYPE_CHECKING:
    from benchmarks.tasks.encoders import PretrainedTask

_LARGER = 4.0
"""The factor on random weights in the second part of a trial.

Small ones hide that ConvBERT reads padding (7e-6 of its scores); with large ones all of T5's
attention is on one token.
"""
_ROUNDING = 3e-4  # relative; rounding leaves up to 7e-5 of 24 layers, wrong padding 1e-3 and more


def side_of_padding(task: PretrainedTask) -> str:
    """Return the side on which padding changes no score; the tokenizer's, if there are two.

    A tokenizer is often told to pad on the left to write texts with. The encoder has random
    weights: what a model reads of the padding does not depend on their values.

    Args:
        task: The task; its data are tokenised.

    Returns:
        "left" or "right".

    Raises:
        DataError: If the encoder cannot do its work on a padded batch, or if there is no such side.
    """
    model, told = _random(task), task.tokenizer.padding_side
    sides = [told, "left" if told == "right" else "right"]
    for _ in range(2):
        sides = _harmless(sides, task, model)
        with torch.no_grad():
            for weight in model.parameters():
                weight.mul_(_LARGER if weight.ndim > 1 else 1.0)
    return sides[0]


def _random(task: PretrainedTask) -> nn.Module:
    """Return the encoder with random weights: no zeros, which would hide what they multiply."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = task.skeleton()
        for weight in model.parameters():
            if weight.ndim > 1 and not weight.any():
                nn.init.normal_(weight, std=0.02)
    return model


def _harmless(sides: Sequence[str], task: PretrainedTask, model: nn.Module) -> list[str]:
    """Return the sides on which padding changes no score of a model.

    Raises:
        DataError: If there is none; it is the error of the first side.
    """
    found, problems = [], []
    for side in sides:
        try:
            _try_out(side, task, model)
            found.append(side)
        except DataError as problem:
            problems.append(problem)
    if not found:
        raise problems[0]
    return found


def _try_out(side: str, task: PretrainedTask, model: nn.Module) -> None:
    """Try a model on small padded batches: the two shortest rows of the data, and the extremes.

    Raises:
        DataError: If it cannot do its work on them, or if padding changes its scores.
    """
    rows = [
        (ids[i], task.segments[split][i] if task.segments else None)
        for split, (ids, _) in task.splits.items()
        for i in range(len(ids))
    ]
    by_length = sorted(rows, key=lambda row: len(row[0]))

    def scores(rows: Sequence[tuple[list[int], list[int] | None]]) -> Tensor:
        segments = [told for _, told in rows if told is not None] or None
        inputs = task.collate([ids for ids, _ in rows], segments, side)
        return scores_of(model, inputs, task.n_classes, task.encoder)

    for few in (by_length[:2], [by_length[0], by_length[-1]]):
        model.train()
        scores(few)  # some can do it in one mode only
        model.eval()
        alone = torch.cat([scores([row]) for row in few])
        check_padding(scores(few), alone, type(model).__name__, task.encoder)


def scores_of(
    model: nn.Module, inputs: Mapping[str, Tensor], n_classes: int, encoder: str
) -> Tensor:
    """Return a model's scores of a padded batch, if it can do its work on one.

    Some cannot: they lack a padding token, or take one length only.

    Args:
        model: The model, in the mode that it is tried in.
        inputs: A batch of real tokens, of several sentences.
        n_classes: The number of scores of a sentence.
        encoder: The hub id or the folder.

    Returns:
        The scores, of shape (sentences, n_classes).

    Raises:
        DataError: If it fails, or does not return one row of scores per sentence.
    """
    shape, wanted = tuple(inputs["input_ids"].shape), (len(inputs["input_ids"]), n_classes)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            scores: Tensor = model(**inputs).logits
        if tuple(scores.shape) == wanted:
            return scores
        wrong = f"it returns scores of shape {tuple(scores.shape)}, not {wanted}"
    except Exception as error:  # noqa: BLE001 (a strange model raises anything)
        wrong = f"{type(error).__name__}: {reason(error)}"
    raise DataError(
        f"{encoder}: {type(model).__name__} cannot do its work on {shape[0]} sentences padded to "
        f"{shape[1]} tokens ({wrong}); {NAME_ONE}"
    )


def check_padding(together: Tensor, alone: Tensor, kind: str, encoder: str) -> None:
    """Check that the scores of a sentence are the same with padding and without.

    Otherwise they would depend on the other sentences of a batch. Models that count positions from
    the start of a row see others where padding is on the left; heads that read the last token of a
    row see padding where it is on the right.

    Args:
        together: Scores of padded sentences, in evaluation mode.
        alone: Scores of the same sentences, each by itself.
        kind: The class of the model.
        encoder: The hub id or the folder.

    Raises:
        DataError: If they differ by more than rounding.
    """
    known = alone.isfinite().all(-1)  # large random weights are too large for some: MobileBERT
    together, alone = together[known], alone[known]
    if not len(alone):
        return
    most = float((together - alone).abs().max())
    if not most <= _ROUNDING * float(alone.abs().max()):  # NaN is no agreement
        raise DataError(
            f"{encoder}: padding changes the scores of {kind} by {most:.2g}, of "
            f"{float(alone.abs().max()):.2g}, on the left and on the right, so they would depend "
            f"on the other sentences of a batch; {NAME_ONE}"
        )
