"""The trial of an encoder: where padding changes no score, and which encoders are refused."""

from __future__ import annotations

import contextlib
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from aimc_bridge.errors import DataError
from benchmarks.tasks.encoder_trial import check_padding, scores_of
from tests.benchmarks.tasks.test_encoders import change, folder, made, replace, small

__all__ = ["folder"]  # the fixture


def change_tokenizer(folder: Path, **values: Any) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_padding_is_the_models_or_the_tokenizers(folder) -> None:
    for ours, models, expected in ((None, 6, 6), (None, None, 0), ("[UNK]", None, 1)):
        change(folder, pad_token_id=models)
        change_tokenizer(folder, pad_token=ours)
        assert made(folder).collate([[5], [5, 5]])["input_ids"].tolist() == [[5, expected], [5, 5]]


PADDED = {
    "Bert": small(),
    "Bloom": {"vocab_size": 9, "hidden_size": 16, "n_layer": 1, "n_head": 2, "pad_token_id": 7},
    "GPT2": {"vocab_size": 9, "n_embd": 16, "n_layer": 1, "n_head": 2, "pad_token_id": 7},
    "T5": {"vocab_size": 9, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2},
    "XLNet": {"vocab_size": 9, "d_model": 16, "n_layer": 1, "n_head": 2, "d_inner": 16},
}


@pytest.mark.parametrize("told", ["left", "right"])
@pytest.mark.parametrize("kind", sorted(PADDED))
def test_padding_changes_no_score(folder, kind, told) -> None:
    """XLNet's head reads the last token. Where padding is on the left, positions are others.

    GPT-2's head looks for the last token that is no padding, whose id is that of the configuration.
    Bloom can do with both sides.
    """
    import transformers

    more = {"pad_token_id": 0, "eos_token_id": 3, "decoder_start_token_id": 0}
    config = getattr(transformers, f"{kind}Config")(
        **PADDED[kind], **(more if kind == "T5" else {})
    )
    replace(folder, getattr(transformers, f"{kind}ForSequenceClassification")(config))
    change_tokenizer(folder, padding_side=told)
    task = made(folder)
    assert task.pad_side() == {"Bloom": told, "XLNet": "left"}.get(kind, "right")
    model = task.build(0).eval()
    rows = [[2, 4, 3], [2, 4, 8, 6, 3], [2, 3]]
    with torch.no_grad():
        together = model(**task.collate(rows)).logits
        alone = torch.cat([model(**task.collate([row])).logits for row in rows])
    torch.testing.assert_close(together, alone)


@pytest.mark.parametrize("kind", ["FNet", "ConvBert"])
def test_a_model_that_reads_padding_is_refused(folder, kind) -> None:
    """FNet has no mask, and convolutions over tokens reach into the padding behind them."""
    import transformers

    config = getattr(transformers, f"{kind}Config")(**small(num_hidden_layers=6, hidden_size=32))
    replace(folder, getattr(transformers, f"{kind}ForSequenceClassification")(config))
    with pytest.raises(DataError, match=f"padding changes the scores of {kind}") as caught:
        made(folder).collate([[5], [5, 5]])
    assert "-o encoder=NAME" in str(caught.value)


@pytest.mark.parametrize(
    ("together", "alone", "refused"),
    [(1.0, 1.0, False), (1.001, 1.0, True), (math.nan, 1.0, True), (math.nan, math.nan, False)],
)
def test_scores_that_are_no_numbers(together: float, alone: float, refused: bool) -> None:
    """Where a sentence by itself has none, nothing is said; else padded ones must have them."""
    scores = torch.tensor([[together, 0.5]]), torch.tensor([[alone, 0.5]])
    lost = torch.full((1, 2), math.nan)  # of another sentence
    with pytest.raises(DataError, match="padding") if refused else contextlib.nullcontext():
        check_padding(*(torch.cat([lost, part]) for part in scores), "Model", "encoder")


def test_a_model_without_a_table_of_tokens_is_tried_like_any(folder) -> None:
    """CANINE hashes characters, so that no id is too large for it."""
    from transformers import CanineConfig

    CanineConfig(**small()).save_pretrained(folder)
    assert made(folder).pad_side() == "right"


def test_a_model_of_other_scores_is_refused() -> None:
    """One that returns scores of each token cannot be trained to tell sentences apart."""
    model = nn.Module()
    ids = torch.zeros(2, 5, dtype=torch.long)
    model.forward = lambda input_ids: SimpleNamespace(logits=torch.zeros(*input_ids.shape, 2))
    with pytest.raises(DataError, match=r"scores of shape \(2, 5, 2\), not \(2, 2\)"):
        scores_of(model, {"input_ids": ids}, 2, "encoder")
