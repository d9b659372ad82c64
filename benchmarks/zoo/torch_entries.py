"""Entries of torch itself: its recurrent layers and its transformer."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.zoo.entry import Entry, random, tokens


class Sequence(nn.Module):
    """A recurrent language model: embedding, recurrent layer, decoder."""

    def __init__(self, layer: Callable[..., nn.Module], **options: Any) -> None:
        """Make the layers.

        Args:
            layer: The recurrent layer.
            **options: Its options.
        """
        super().__init__()
        self.embedding = nn.Embedding(64, 16)
        self.recurrent = layer(16, 32, batch_first=True, **options)
        width = options.get("proj_size", 0) or 32
        self.decoder = nn.Linear(width * (2 if options.get("bidirectional") else 1), 64)

    def forward(self, ids: Tensor) -> Tensor:
        """Return the logits of the next token at every place.

        Args:
            ids: Tokens, [samples, places].
        """
        outputs: Tensor = self.decoder(self.recurrent(self.embedding(ids))[0])
        return outputs


class Translator(nn.Module):
    """`nn.Transformer` with one layer on either side."""

    def __init__(self) -> None:
        """Make the layers."""
        super().__init__()
        self.transformer = nn.Transformer(32, 2, 1, 1, 48, dropout=0.0, batch_first=True)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Return the states of the decoder.

        Args:
            source: The encoder's inputs, [samples, places, 32].
            target: The decoder's inputs, [samples, places, 32].
        """
        outputs: Tensor = self.transformer(source, target)
        return outputs


def _quantised() -> nn.Module:
    """Return layers that `torch.ao` has quantised, with weights that are no parameters."""
    from torch.ao.quantization import quantize_dynamic

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.ao is deprecated
        layers = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))
        quantised: nn.Module = quantize_dynamic(layers, {nn.Linear})
    return quantised


ENTRIES = (
    Entry("torch", "RNN", lambda: Sequence(nn.RNN, num_layers=2), tokens),
    Entry(
        *("torch", "LSTM, two directions, projected"),
        lambda: Sequence(nn.LSTM, bidirectional=True, proj_size=8),
        tokens,
        aihwkit=True,
        everyday=True,
    ),
    Entry("torch", "GRU, two layers", lambda: Sequence(nn.GRU, num_layers=2), tokens, aihwkit=True),
    Entry(
        *("torch", "Transformer"),
        Translator,
        lambda: (random(2, 7, 32), random(2, 5, 32)),
        aihwkit=True,
        everyday=True,
    ),
    Entry(
        *("torch", "TransformerEncoder"),
        lambda: nn.TransformerEncoder(
            nn.TransformerEncoderLayer(32, 2, 48, dropout=0.0, batch_first=True), 2
        ),
        lambda: random(2, 7, 32),
    ),
    Entry(
        *("torch", "dynamically quantised layers"),
        _quantised,
        lambda: random(2, 16),
        refused="multiplies with quantised weights",
        why="the weights are packed integers; convert the model before quantising it",
    ),
    Entry(
        *("torch", "scripted model"),
        lambda: torch.jit.script(nn.Sequential(nn.Linear(16, 4))),
        lambda: random(2, 16),
        refused="holds packed weights",
        why="TorchScript packs code and weights; convert the model before scripting it",
    ),
)
