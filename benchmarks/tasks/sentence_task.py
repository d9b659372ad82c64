"""The base of the tasks on sentences: padding, batches, and the choice of analog layers.

Every Linear of the encoder layers is analog. Attention products, embeddings, pooler and classifier
stay digital.

Source: Rasch et al. 2023, SI A.1.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from aimc_bridge.errors import UsageError
from aimc_bridge.rng import stream
from benchmarks.tasks.base import Split, Task
from benchmarks.tasks.data import Loader
from benchmarks.tasks.models import moved
from benchmarks.tasks.plan import LadderSizes

OF_NO_LAYER = re.compile(r"embed|pool|_head(\.|$)")
"""In the names of a model's parts beside its layers: embeddings, pooler, head."""


class SentenceTask(Task):
    """Tokenised sentences, or pairs of them, with a label.

    Training batches have sentences of similar length, padded to the longest of the batch.
    """

    name = "bert"
    metric = "accuracy"
    recipe = "bert_glue"
    unit = "sentences"
    ladder = LadderSizes(subset=300, probe_samples=16, probe_inputs=128)
    pad_id = 0
    pad_segment = 0

    def __init__(
        self,
        splits: dict[str, tuple[list[list[int]], list[int]]],
        n_classes: int,
        segments: Mapping[str, list[list[int]]] | None = None,
    ) -> None:
        """Keep the data.

        Args:
            splits: Token ids of each sentence, and the labels, by split: "train", "validation",
                "test".
            n_classes: The number of classes.
            segments: The segment of each token, by split, such as 1 in the second sentence of a
                pair; None if the model is not told.
        """
        self.segments = segments or {}
        self.splits = splits  # "train", "validation", "test" -> token ids, labels
        self.at_once = 64  # sentences of an evaluation's batch
        self.n_classes = n_classes

    def pad_side(self) -> str:
        """Return the side of a sentence that its padding lies on: "left" or "right"."""
        return "right"

    def collate(
        self,
        tokens: Sequence[list[int]],
        segments: Sequence[list[int]] | None = None,
        side: str | None = None,
    ) -> dict[str, Tensor]:
        """Pad sentences to one length.

        Args:
            tokens: The token ids of each sentence.
            segments: The segment of each token, or None.
            side: The side that padding lies on, "left" or "right"; None means that of `pad_side`.

        Returns:
            The model inputs input_ids and attention_mask, both of shape (n, longest); with segments
            token_type_ids too.
        """

        def padded(rows: Sequence[list[int]], value: int) -> Tensor:
            return pad_sequence([torch.tensor(row) for row in rows], True, value, lies)

        lies = side or self.pad_side()
        inputs = {
            "input_ids": padded(tokens, self.pad_id),
            "attention_mask": padded([[1] * len(row) for row in tokens], 0),
        }
        if segments is not None:
            inputs["token_type_ids"] = padded(segments, self.pad_segment)
        return inputs

    def inputs(self, split: str, rows: Sequence[int]) -> dict[str, Tensor]:
        """Return the model inputs for sentences of a split.

        Args:
            split: "train", "validation" or "test".
            rows: Their indices in the split.
        """
        tokens, segments = self.splits[split][0], self.segments.get(split)
        return self.collate(
            [tokens[i] for i in rows], None if segments is None else [segments[i] for i in rows]
        )

    def digital_names(self, model: nn.Module) -> list[str]:
        """Return everything with a Linear outside of the encoder's layers: pooler and head.

        The layers are all in an `nn.ModuleList`, or in several, so names do not matter.

        Raises:
            UsageError: If a model of transformers has a Linear that is in no such list, and is no
                part of its embeddings, pooler or head.
        """
        lists = layer_lists(model)
        if not lists:
            return super().digital_names(model)
        names = list(outside(model, [layers for _, layers in lists]))
        prefix = str(getattr(model, "base_model_prefix", ""))
        for name in names:
            if prefix and name.startswith(f"{prefix}.") and not OF_NO_LAYER.search(name):
                raise UsageError(
                    f"{type(model).__name__}: whether {name} is a layer of the encoder cannot be "
                    "told, so neither whether it is analog; name another encoder"
                )
        return [*names, *super().digital_names(model)]

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
                **self.inputs("train", chosen),
                "labels": torch.tensor([labels[i] for i in chosen]),
            }

        return Loader(plan, batch, len(tokens) // batch_size, seed)

    def calibration_batches(self, n: int, batch_size: int = 32) -> list[dict[str, Tensor]]:
        """Return batches of random training sentences."""
        order = torch.randperm(self.count("train"), generator=stream(0, "calibration")).tolist()
        return [
            self.inputs("train", order[start : start + batch_size])
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
                **self.inputs(split, part),
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


def layer_lists(model: nn.Module) -> list[tuple[str, nn.ModuleList]]:
    """Return the lists of layers of a model and their names; lists inside of them are left out.

    Args:
        model: The model; of one of transformers, only what it shares with other tasks is looked at.
    """
    base = getattr(model, "base_model", model)
    lists: list[tuple[str, nn.ModuleList]] = []
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and any(part is module for part in base.modules()):
            inside = any(name.startswith(f"{outer}.") for outer, _ in lists)
            if not inside and any(map(has_matrix, module.modules())):
                lists.append((name, module))
    return lists


def has_matrix(module: nn.Module) -> bool:
    """Return whether a module multiplies by a matrix of its own.

    Args:
        module: The module; its parts are not looked at.
    """
    own = module.parameters(recurse=False)
    return not isinstance(module, nn.Embedding) and any(weight.ndim > 1 for weight in own)


def outside(model: nn.Module, layers: Sequence[nn.Module], prefix: str = "") -> Iterator[str]:
    """Yield the names of the modules with a Linear that neither hold nor are in some layers.

    Args:
        model: The model.
        layers: Modules of it.
        prefix: The name of the model in what it is a part of, with a point behind it.
    """
    for name, child in model.named_children():
        if any(child is one for one in layers):
            continue
        parts = list(child.modules())
        if any(part is one for part in parts for one in layers):
            yield from outside(child, layers, f"{prefix}{name}.")
        elif any(isinstance(part, nn.Linear) for part in parts):
            yield prefix + name
