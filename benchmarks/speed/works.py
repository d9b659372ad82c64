"""The models whose speed is measured, and their sizes.

They have random weights and random inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from aimc_bridge.training import logits_of


@dataclass(frozen=True)
class Sizes:
    """The sizes of models and inputs, and the numbers of repeats.

    Attributes:
        name: The name of these sizes, an option of the command.
        wrn_depth: Depth of the WRN.
        wrn_width: Width of the WRN.
        wrn_side: Side of the images, pixels.
        wrn_batch: Images per batch.
        bert_layers: Layers of BERT.
        bert_width: Width of BERT; heads are 64 wide, the layers between 4 times this width.
        bert_sentences: Sentences per batch.
        bert_tokens: Tokens of each sentence.
        bert_words: Words of BERT's vocabulary.
        lstm_width: Width of both layers of the LSTM.
        lstm_words: Words of the LSTM's vocabulary.
        lstm_steps: Steps per batch.
        lstm_streams: Parallel streams per batch.
        cnn_widths: Channels of the small convolutional network, whose images are as the WRN's.
        cnn_batches: Its images per batch, in two groups.
        mlp_width: Width of the two hidden layers of the MLP; it has 784 inputs.
        mlp_batch: Its vectors per batch.
        rounds: Repeats of a side.
        slow_rounds: Repeats of a side that takes long.
        few: Two sizes for aihwkit's C++ tile, from which the whole is extrapolated: images
            (forward, training step), and steps of the LSTM.
        part: The part of BERT that aihwkit programs: the number of layers, and patterns of their
            modules that are left out.
        sweep: The numbers of chips and of times.
    """

    name: str
    wrn_depth: int = 16
    wrn_width: int = 4
    wrn_side: int = 32
    wrn_batch: int = 64
    bert_layers: int = 12
    bert_width: int = 768
    bert_sentences: int = 8
    bert_tokens: int = 64
    bert_words: int = 30_522
    lstm_width: int = 650
    lstm_words: int = 10_000
    lstm_steps: int = 35
    lstm_streams: int = 20
    cnn_widths: tuple[int, ...] = (32, 64, 128, 128)
    cnn_batches: tuple[int, int] = (32, 128)
    mlp_width: int = 512
    mlp_batch: int = 32
    rounds: int = 9
    slow_rounds: int = 3
    few: tuple[int, int] = (2, 6)
    part: tuple[int, tuple[str, ...]] = (1, ())
    sweep: tuple[int, int] = (25, 4)


_ATTENTION_ONLY = ("*intermediate*", "*layer.?.output*")
FULL = Sizes("full")
QUICK = Sizes(
    "quick",
    wrn_batch=24,
    bert_layers=2,
    bert_width=384,
    lstm_steps=7,
    rounds=3,
    slow_rounds=1,
    few=(1, 2),
    part=(1, _ATTENTION_ONLY),
    sweep=(2, 2),
)
TINY = Sizes(
    "tiny",
    wrn_depth=10,
    wrn_width=1,
    wrn_side=8,
    wrn_batch=4,
    bert_layers=2,
    bert_width=64,
    bert_sentences=2,
    bert_tokens=4,
    bert_words=50,
    lstm_width=6,
    lstm_words=12,
    lstm_steps=3,
    lstm_streams=2,
    cnn_widths=(4, 6),
    cnn_batches=(2, 3),
    mlp_width=8,
    mlp_batch=2,
    rounds=2,
    slow_rounds=1,
    few=(1, 2),
    part=(1, _ATTENTION_ONLY),
    sweep=(2, 2),
)
SIZES = {sizes.name: sizes for sizes in (FULL, QUICK, TINY)}


@dataclass
class Work:
    """A model and what runs through it.

    Attributes:
        name: What tables call the model.
        model: The digital model.
        unit: What a batch consists of, in the plural: "images".
        size: Units of one whole batch.
        batch: Makes a batch of a number of units.
        targets: Makes the class of every output row of such a batch.
        recipe: The preset's training recipe for this kind of model.
        exclude: Patterns of modules that stay digital.
    """

    name: str
    model: nn.Module
    unit: str
    size: int
    batch: Callable[[int], Any]
    targets: Callable[[int], Tensor]
    recipe: str
    exclude: tuple[str, ...] = ()

    def to(self, device: torch.device) -> Work:
        """Move the model; batches are moved by `on`.

        Args:
            device: The device.

        Returns:
            The work itself.
        """
        self.model.to(device)
        return self


def on(device: torch.device, batch: Any) -> Any:
    """Return a batch on a device.

    Args:
        device: The device.
        batch: A tensor, or a dict of tensors.
    """
    if isinstance(batch, dict):
        return {key: value.to(device) for key, value in batch.items()}
    return batch.to(device)


def outputs(model: nn.Module, batch: Any) -> Tensor:
    """Return the scores of a model for a batch, classes last.

    Args:
        model: Any model.
        batch: A tensor, or a dict of arguments.
    """
    return logits_of(model(**batch) if isinstance(batch, dict) else model(batch))


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _integers(most: int, *shape: int) -> Tensor:
    return torch.randint(most, shape, generator=torch.Generator().manual_seed(0))


def _seeded(build: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build()


def images(n: int, side: int) -> Tensor:
    """Return N(0, 1) images, channels last in memory.

    Args:
        n: The number of images.
        side: Their side, pixels.
    """
    return _random(n, 3, side, side).contiguous(memory_format=torch.channels_last)


def wrn(sizes: Sizes) -> Work:
    """Return the WideResNet with 100 classes, channels last in memory.

    Its batch norms have the statistics of the images.

    Args:
        sizes: How large it is.
    """
    from benchmarks.tasks.wrn import WideResNet

    model = _seeded(lambda: WideResNet(sizes.wrn_depth, sizes.wrn_width, 100))
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # the plain mean over batches
    with torch.no_grad():
        model.train()(images(max(16, sizes.wrn_batch), sizes.wrn_side))
    for norm in norms:
        norm.momentum = 0.1
    return Work(
        f"WRN-{sizes.wrn_depth}-{sizes.wrn_width}",
        model.eval(),
        "images",
        sizes.wrn_batch,
        lambda n: images(n, sizes.wrn_side),
        lambda n: _integers(100, n),
        "wrn16",
    )


def bert(sizes: Sizes, layers: int | None = None) -> Work:
    """Return BERT with two classes; pooler and classifier stay digital.

    Args:
        sizes: How large it is.
        layers: The number of layers, for a part of it; None is all of them.
    """
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=sizes.bert_words,
        hidden_size=sizes.bert_width,
        num_hidden_layers=sizes.bert_layers if layers is None else layers,
        num_attention_heads=max(1, sizes.bert_width // 64),
        intermediate_size=4 * sizes.bert_width,
    )
    model = _seeded(lambda: BertForSequenceClassification(config)).eval()
    return Work(
        "BERT-base" if sizes.bert_width == 768 and sizes.bert_layers == 12 else "BERT, reduced",
        model,
        "sentences",
        sizes.bert_sentences,
        lambda n: {"input_ids": _integers(config.vocab_size, n, sizes.bert_tokens)},
        lambda n: _integers(2, n),
        "bert_glue",
        ("*pooler*", "*classifier*"),
    )


def lstm(sizes: Sizes) -> Work:
    """Return an LSTM of two layers and a decoder; its embedding stays digital.

    Args:
        sizes: How large it is.
    """
    from benchmarks.tasks.word_lstm import WordLSTM

    width, words = sizes.lstm_width, sizes.lstm_words
    return Work(
        f"LSTM 2 x {width}",
        _seeded(lambda: WordLSTM(words, width, 0.0, tied=False)).eval(),
        "steps",
        sizes.lstm_steps,
        lambda n: _integers(words, n, sizes.lstm_streams),
        lambda n: _integers(words, n, sizes.lstm_streams),
        "lstm",
    )


def cnn(sizes: Sizes, batch: int) -> Work:
    """Return a small convolutional network with 10 classes, channels last in memory.

    It has convolutions of 3 x 3 with batch norm and ReLU, each but the first with max pooling
    behind it; then the mean over the image and a linear layer.

    Args:
        sizes: How large it is.
        batch: Images per batch.
    """

    def build() -> nn.Module:
        layers: list[nn.Module] = []
        channels = 3
        for index, width in enumerate(sizes.cnn_widths):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
            layers += [nn.MaxPool2d(2)] if index else []
            channels = width
        return nn.Sequential(
            *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10)
        )

    model = _seeded(build).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Work(
        f"CNN {'-'.join(map(str, sizes.cnn_widths))}",
        model.eval(),
        "images",
        batch,
        lambda n: images(n, sizes.wrn_side),
        lambda n: _integers(10, n),
        "wrn16",
    )


def mlp(sizes: Sizes) -> Work:
    """Return an MLP with 784 inputs, two hidden layers and 10 classes.

    Args:
        sizes: How large it is.
    """
    width = sizes.mlp_width

    def build() -> nn.Module:
        hidden = [nn.Linear(784, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()]
        return nn.Sequential(*hidden, nn.Linear(width, 10))

    return Work(
        f"MLP 784-{width}-{width}-10",
        _seeded(build).eval(),
        "vectors",
        sizes.mlp_batch,
        lambda n: _random(n, 784),
        lambda n: _integers(10, n),
        "wrn16",
    )
