"""bert: sentence classification with a BERT, fine-tuned or trained from scratch.

Every Linear of the encoder layers is analog. Attention products, embeddings, pooler and classifier
stay digital.

Source: Rasch et al. 2023, SI A.1.
"""

import dataclasses
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from aimc_bridge.errors import UsageError
from aimc_bridge.rng import stream
from benchmarks.tasks import published_rows
from benchmarks.tasks.base import DigitalRecipe, Task
from benchmarks.tasks.encoders import (
    MAX_LENGTH,
    MINILM,
    Mrpc,
    PretrainedTask,
    Sst2,
    packaged_minilm,
    silence,
    with_dropout,
)
from benchmarks.tasks.glue import MRPC, SST2
from benchmarks.tasks.plan import CLIPPED, ON_A_GPU, SMALL, Plan
from benchmarks.tasks.registry import register
from benchmarks.tasks.sentence_task import SentenceTask
from benchmarks.tasks.text import CHAPTERS, help_sentences

SHORT = {
    "batch_size": 32,
    "epochs": 100,
    "lr_schedule": "linear",
    "distill_weight": 0.9,
    "distill_temperature": 2.0,
    "clip_type": "column_gaussian",
    "clip_value": 2.5,
    "remap_every": 100,
    "input_range_init_batches": 20,
    "optimizer": "adamw",
    "weight_decay": 0.0,
}
"""What the trainings that are shorter than the paper's have in common."""
PLANS = {
    "embedded": Plan(
        why=SMALL,
        overrides={
            "batch_size": 32,
            "ramp_batches": 20,
            "epochs": 100,
            "learning_rate": 2e-4,
            "input_range_init_batches": 10,
            "optimizer": "adamw",
            "weight_decay": 0.0,
        },
        hwa_batches=80,
        validate_every=40,
        chips=5,
        slow_chips=3,
    ),
    "real": Plan(
        why=CLIPPED,
        overrides={**SHORT, "ramp_batches": 100, "learning_rate": 1e-4},
        hwa_batches=1855,
        validate_every=600,
        validation_subset=500,
        chips=5,
        slow_subset=64,
    ),
    "gpu": Plan(
        why=ON_A_GPU,
        overrides={**SHORT, "ramp_batches": 200, "learning_rate": 5e-5},
        hwa_batches=2000,
        validate_every=1000,
        validation_subset=500,
        slow_subset=64,
    ),
    "paper": Plan(slow_subset=32),
}
BASE_SIZE = dataclasses.replace(
    PLANS["real"],
    overrides={**SHORT, "ramp_batches": 50, "learning_rate": 5e-5, "remap_every": 50},
    hwa_batches=300,
    validate_every=150,
    validation_subset=200,
)
"""The plan of "real" for an encoder that the user names: a step of a base-size one takes seconds on
two cores."""
_PAIRS = {"drop_connect": 0.0, "grad_clip": 1.0, "lr_drop_epochs": ()}
PAIR_PLANS = {
    "real": dataclasses.replace(BASE_SIZE, overrides={**BASE_SIZE.overrides, **_PAIRS}),
    "gpu": dataclasses.replace(
        PLANS["gpu"], overrides={**PLANS["gpu"].overrides, **_PAIRS}, hwa_batches=1500
    ),
    "paper": Plan(slow_subset=32),
}
"""The plans of MRPC."""
DATASETS: dict[str, type[PretrainedTask]] = {"sst2": Sst2, "mrpc": Mrpc}


@register
class BertTask(SentenceTask):
    """Sentences with a label; the profile and the options decide on model and data."""

    option_types = {"encoder": str, "dataset": str, "dropout": float}
    plans = PLANS
    data_sets = (SST2, MRPC)
    packaged = (MINILM,)
    published = published_rows.BERT

    @classmethod
    def plans_for(cls, options: Mapping[str, Any]) -> Mapping[str, Plan]:
        """Return the plans of a data set, and those of a base-size encoder if one is named."""
        if options.get("dataset") == "mrpc":
            return MappingProxyType({**PLANS, **PAIR_PLANS})
        if options.get("encoder") is not None:
            return MappingProxyType({**PLANS, "real": BASE_SIZE})
        return cls.plans

    @classmethod
    def make(
        cls,
        profile: str,
        folder: Path | None,
        encoder: str | None = None,
        dataset: str | None = None,
        dropout: float | None = None,
    ) -> Task:
        """Make the task of a profile.

        Args:
            profile: A key of PLANS.
            folder: The data folder, or None.
            encoder: A hub id, or a folder with a checkpoint and its tokenizer; None is the
                profile's.
            dataset: A key of DATASETS; None is "sst2". The embedded profile has its own.
            dropout: The dropout rate of every training; None is the checkpoint's, and 0.3 with the
                embedded profile.

        Raises:
            UsageError: For a value that is not allowed.
            DataError: If the data or the encoder are missing or damaged.
        """
        if dropout is not None and not 0.0 <= dropout < 1.0:
            raise UsageError(f"option dropout={dropout}; allowed: 0 <= dropout < 1")
        if dataset is not None and (profile == "embedded" or dataset not in DATASETS):
            allowed = (
                "none with the embedded profile" if profile == "embedded" else ", ".join(DATASETS)
            )
            raise UsageError(f"option dataset={dataset!r}; allowed: {allowed}")
        if profile == "embedded":
            if encoder is not None:
                raise UsageError(
                    "the embedded profile trains its own small BERT; encoder needs real"
                )
            return HelpTopics(0.3 if dropout is None else dropout)
        if encoder is None:
            encoder = "bert-base-uncased" if profile == "paper" else packaged_minilm()
        return DATASETS[dataset or "sst2"](encoder, folder, dropout)


class HelpTopics(SentenceTask):
    """A BERT from scratch that tells the chapter of Python's reference.

    Its input is one sentence of Python's help topics.
    """

    dataset = "Python help topics, 4 chapters"
    model_name = "BERT 2x64, from scratch"
    digital = DigitalRecipe(
        epochs=12, batch_size=32, learning_rate=1e-3, weight_decay=0.1, grad_clip=1.0
    )

    def __init__(self, dropout: float) -> None:
        """Read the sentences and build the vocabulary from the training split.

        Args:
            dropout: The dropout rate of every training.
        """
        from transformers import BertConfig

        silence()
        sentences, labels = help_sentences()
        order = torch.randperm(len(labels), generator=stream(0, "help", "splits")).tolist()
        n_test, n_held = 400, 150
        parts = {
            "test": order[:n_test],
            "validation": order[n_test : n_test + n_held],
            "train": order[n_test + n_held :],
        }
        # words that come once in train count as unknown, so that the model learns to handle these
        counts = Counter(word for i in parts["train"] for word in sentences[i])
        read = {word for i in parts["train"] for word in sentences[i][: MAX_LENGTH - 2]}
        known = [word for word, n in counts.most_common() if n > 1 and word in read]
        self.vocabulary = {w: i for i, w in enumerate(("[PAD]", "[UNK]", "[CLS]", "[SEP]", *known))}
        super().__init__(
            {
                split: ([self.encoded(sentences[i]) for i in chosen], [labels[i] for i in chosen])
                for split, chosen in parts.items()
            },
            n_classes=len(CHAPTERS),
        )
        self.config = BertConfig(
            vocab_size=len(self.vocabulary),
            hidden_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=128,
            max_position_embeddings=MAX_LENGTH,
            num_labels=self.n_classes,  # type: ignore[call-arg] # the base class takes it
        )
        self.dropout = dropout

    def encoded(self, words: list[str]) -> list[int]:
        """Return the token ids of a sentence between [CLS] and [SEP].

        Args:
            words: The tokens of the sentence.
        """
        ids = [self.vocabulary.get(word, 1) for word in words[: MAX_LENGTH - 2]]
        return [2, *ids, 3]

    def build(self, seed: int, *, dropout: float | None = None) -> nn.Module:
        """Return a new small BERT."""
        from transformers import BertConfig, BertForSequenceClassification

        config = BertConfig(**self.config.to_dict())
        with_dropout(config, self.dropout if dropout is None else dropout)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return BertForSequenceClassification(config)
