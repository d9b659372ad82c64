"""The base class of a benchmark task, and the recipe of its digital model.

A task is a model, its data, its metric, and how much of it runs.
"""

import contextlib
import inspect
import json
import shlex
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from aimc_bridge.converted import matches
from aimc_bridge.errors import CheckpointError, DataError, UsageError
from benchmarks.option_words import MODEL
from benchmarks.tasks.data import DataSet, Loader, PackagedModel
from benchmarks.tasks.models import load_weights, moved
from benchmarks.tasks.plan import LadderSizes, Plan
from benchmarks.tasks.published import Published

PROFILES = ("embedded", "real", "gpu", "paper")

Split = Literal["test", "validation"]


@dataclass(frozen=True)
class DigitalRecipe:
    """The training recipe of a task's digital model.

    Attributes:
        epochs: Epochs; a fraction is allowed.
        batch_size: Samples per batch.
        learning_rate: The highest learning rate.
        optimizer: "sgd" or "adamw".
        schedule: How the learning rate falls after the warm-up: "cosine" or "linear".
        warmup: The share of all steps in which the learning rate rises.
        weight_decay: Weight decay of the optimizer.
        momentum: Momentum of "sgd".
        grad_clip: The largest norm of the gradient; None does not clip it.
    """

    epochs: float
    batch_size: int
    learning_rate: float
    optimizer: Literal["sgd", "adamw"] = "adamw"
    schedule: Literal["cosine", "linear"] = "cosine"
    warmup: float = 0.1
    weight_decay: float = 0.0
    momentum: float = 0.9
    grad_clip: float | None = None


class Task(ABC):
    """A model, its data and its metric: all that commands know of a benchmark.

    A subclass and its model are one file; docs/tasks.md has a worked example. Whatever a subclass
    must set has no default here, or an empty one.

    A batch is a tensor, a tuple or a dict that `accelerate.utils.send_to_device` can move.
    `logits`, `loss` and `evaluate` move batches themselves. Nothing here reads the test split
    except `evaluate(split="test")`.

    Attributes:
        name: What commands, folders and records call the task: letters, digits, "-" and "_".
        model_name: What tables call the model.
        dataset: What tables call the data.
        metric: "accuracy" or "perplexity".
        unit: What one sample is, in the plural.
        n_classes: The number of classes, or of words.
        recipe: The training recipe of the preset that hardware-aware training starts from, such as
            "wrn16".
        digital: How the digital model is trained.
        exclude: Names and patterns of modules that stay digital; one that no module of the model
            has is no error (see `digital_names`).
        option_types: The options of `-o KEY=VALUE`, and the type of each: str, int, float or bool.
        plans: The profiles that the task has, and what each of them runs.
        ladder: How much of the task `benchmarks.ladder` runs.
        data_sets: The files that the task reads, for `benchmarks.doctor`.
        packaged: The pretrained models in Python packages that it reads.
        published: The results that others have published for this task, for the README.
        only_by_name: Whether commands leave it out unless it is named.
        word: What a command line calls the task; `find` sets it if it is not the name.
        profile: The profile that the task was made for, set by `get`.
        options: The options that the task was made with, set by `get`.
    """

    name: str = ""
    model_name: str
    dataset: str
    metric: Literal["accuracy", "perplexity"] = "accuracy"
    unit: str = "samples"
    n_classes: int
    recipe: str = ""
    digital: DigitalRecipe
    exclude: tuple[str, ...] = ()
    option_types: Mapping[str, type] = MappingProxyType({})
    plans: Mapping[str, Plan] = MappingProxyType({})
    ladder: LadderSizes = LadderSizes()
    data_sets: tuple[DataSet, ...] = ()
    packaged: tuple[PackagedModel, ...] = ()
    published: tuple[Published, ...] = ()
    only_by_name: bool = False
    word: str = ""
    profile: str = "embedded"
    options: Mapping[str, Any] = MappingProxyType({})
    _right: list[Tensor] | None = None
    _data_dir: Path | None = None  # the folder that the user names, set by `get`

    # `*_` stays empty; it is there so that type checkers let a subclass name its own options
    @classmethod
    def make(cls, profile: str, folder: Path | None, *_: Any, **options: Any) -> "Task":
        """Make the task of a profile; `get` calls this and checks the arguments first.

        Args:
            profile: A key of `plans`.
            folder: The data folder that the user names, with --data-dir or AIMC_BRIDGE_DATA; or
                None. Whether it exists, `data.data_dir(folder)` checks.
            *_: Not used; see the comment above.
            **options: Values for names in `option_types`, as far as the user gives them.

        Returns:
            The task.

        Raises:
            UsageError: If the class lacks a method that a task must have.
        """
        if inspect.isabstract(cls):
            lacks = ", ".join(sorted(cls.__abstractmethods__))
            raise UsageError(f"task {cls.name!r}: its class {cls.__name__} lacks {lacks}")
        return cls(profile, folder, **options)

    def __init__(self, profile: str, folder: Path | None, **options: Any) -> None:  # noqa: B027
        """Read the data; a subclass names its options here, each with a default.

        Args:
            profile: A key of `plans`.
            folder: The data folder that the user names, or None.
            **options: Values for names in `option_types`.
        """

    @classmethod
    def plans_for(cls, options: Mapping[str, Any]) -> Mapping[str, Plan]:
        """Return the plans for some options; by default `plans`, whatever the options.

        Args:
            options: The task's options, by name. A value may be wrong: `make` refuses it.

        Returns:
            A plan for each profile of `plans`.
        """
        return cls.plans

    @classmethod
    def plan_of(cls, profile: str, options: Mapping[str, Any] = MappingProxyType({})) -> Plan:
        """Return the plan of a profile: how much of the task it runs.

        Args:
            profile: One of PROFILES.
            options: The task's options, by name.

        Raises:
            UsageError: If there is no such profile, or the task does not have it.
        """
        if profile not in PROFILES:
            raise UsageError(f"unknown profile {profile!r}; one of {', '.join(PROFILES)}")
        if profile not in cls.plans:
            has = ", ".join(cls.plans)
            raise UsageError(f"task {cls.name!r} has no profile {profile!r}; it has {has}")
        return cls.plans_for(options)[profile]

    @property
    def chance_error(self) -> float:
        """Return the error of a guess: 1 - 1/K for K classes or words."""
        return 1.0 - 1.0 / self.n_classes

    @abstractmethod
    def build(self, seed: int, *, dropout: float | None = None) -> nn.Module:
        """Return a new digital model.

        It neither sets nor uses the global random state.

        Args:
            seed: Decides the initial weights.
            dropout: The dropout rate; None is the task's own, 0.0 switches it off.
        """

    def skeleton(self) -> nn.Module:
        """Return a model to load a checkpoint into; its weights do not matter."""
        return self.build(0)

    def digital_names(self, model: nn.Module) -> list[str]:
        """Return what stays digital when a model of the task is converted.

        A task may have models of several kinds. So a pattern in `exclude` that matches nothing in
        this one is left out.

        Args:
            model: A digital model of the task.

        Returns:
            Names and patterns, as `aimc_bridge.convert` takes them in `exclude`.
        """
        names = [
            name
            for named in (model.named_modules, model.named_parameters)
            for name, _ in named(remove_duplicate=False)
        ]
        return [p for p in self.exclude if any(matches(name, p) for name in names)]

    def place(self, device: torch.device) -> None:  # noqa: B027
        """Move the data to the device of the model, if batches are made faster there.

        Args:
            device: The device that the model will be on.
        """

    @abstractmethod
    def train_loader(self, batch_size: int, seed: int) -> Loader:
        """Return augmented training batches.

        Args:
            batch_size: Samples per batch.
            seed: Together with the epoch it decides order and augmentation.
        """

    @abstractmethod
    def calibration_batches(self, n: int, batch_size: int = 32) -> list[Any]:
        """Return model inputs (no labels) from the training data, without augmentation.

        They set input ranges and batch-norm statistics. They are never the data that the chips are
        judged by (a test takes the test split away).

        Args:
            n: The number of batches.
            batch_size: Samples per batch.
        """

    def part(self, batch: Any, index: int, count: int) -> Any:
        """Return the part of a training batch that belongs to one replica.

        These are the samples index, index + count, index + 2 count and so on.

        Args:
            batch: A training batch.
            index: The number of the replica, from 0.
            count: The number of replicas.
        """
        if isinstance(batch, Tensor):
            return batch[index::count]
        if isinstance(batch, dict):
            return {key: self.part(value, index, count) for key, value in batch.items()}
        return type(batch)(self.part(value, index, count) for value in batch)

    @abstractmethod
    def count(self, split: str) -> int:
        """Return the number of samples (lstm: words) in a split.

        Args:
            split: "train", "validation" or "test".
        """

    @abstractmethod
    def batches(self, split: Split, subset: int | None = None) -> Iterator[Any]:
        """Yield held-out batches in a fixed order.

        Args:
            split: "test" or "validation".
            subset: The number of samples (lstm: words); None is all of the split.
        """

    def logits(self, model: nn.Module, batch: Any) -> Tensor:
        """Return the scores of one batch; this one expects a batch (inputs, labels).

        Args:
            model: The digital or the converted model.
            batch: A batch of any device.

        Returns:
            The scores, shape (n, n_classes), on the device of the model.
        """
        scores: Tensor = model(moved(batch[0], model))
        return scores

    def targets(self, batch: Any) -> Tensor:
        """Return the classes of one batch; this one expects a batch (inputs, labels).

        Args:
            batch: A batch of any device.

        Returns:
            The classes, shape (n,).
        """
        labels: Tensor = batch[1]
        return labels

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """Return the mean cross-entropy of a batch: hardware-aware training minimises it.

        Args:
            model: The digital or the converted model.
            batch: A batch of any device.

        Returns:
            The loss in nats.
        """
        scores = self.logits(model, batch)
        return nn.functional.cross_entropy(scores, self.targets(batch).to(scores.device))

    def digital_loss(self, model: nn.Module, batch: Any) -> Tensor:
        """Return the loss that digital training minimises; by default it is `loss`.

        Args:
            model: The digital model.
            batch: A batch of `digital_loader`.
        """
        return self.loss(model, batch)

    def digital_loader(self, batch_size: int, seed: int) -> Loader:
        """Return the batches of digital training; by default those of `train_loader`.

        Args:
            batch_size: Samples per batch.
            seed: As in `train_loader`.
        """
        return self.train_loader(batch_size, seed)

    def carried(self, model: nn.Module) -> dict[str, Tensor]:
        """Return what the next training batch needs from the last one.

        It is empty for all models that are not recurrent.

        Args:
            model: The model in training.

        Returns:
            Tensors by name, which a checkpoint of the training stores.
        """
        return {}

    def carry(self, model: nn.Module, state: dict[str, Tensor]) -> None:  # noqa: B027
        """Put back what `carried` returned, after a resume.

        Args:
            model: The model in training.
            state: The tensors by name.
        """

    @contextlib.contextmanager
    def recording(self) -> Iterator[list[Tensor]]:
        """Keep which samples the evaluations in this block get right.

        Yields:
            A list; each batch of an evaluation adds a tensor of bool, one per sample, in the order
            of `batches`. The order must be the same for every model. If a task has an `evaluate` of
            its own that does not call this one, the list stays empty.
        """
        before, self._right = self._right, []
        try:
            yield self._right
        finally:
            self._right = before

    @torch.no_grad()
    def evaluate(
        self,
        model: nn.Module,
        subset: int | None = None,
        split: Split = "test",
        *,
        probability: bool = False,
    ) -> dict[str, float]:
        """Measure a model on held-out data, with dropout off.

        Args:
            model: The digital or the converted model.
            subset: The number of samples (lstm: words) from the start of the split; None is all.
            split: "test" or "validation".
            probability: Whether the result has `probability` too, the mean probability that the
                model gives to the right class. It varies less between chips than a count of right
                answers.

        Returns:
            The metric, `error` in [0, 1] and `loss` in nats, by name.

        Raises:
            DataError: If there is nothing to evaluate on.
            UsageError: For an unknown split, or a subset below 1.
        """
        if split not in ("test", "validation"):
            raise UsageError(f'unknown split {split!r}; one of "test", "validation"')
        if subset is not None and subset < 1:
            raise UsageError(f"subset={subset}: must be at least 1, or None for all")
        training = model.training
        model.eval()
        total_loss = wrong = right = count = 0.0
        try:
            for batch in self.batches(split, subset):
                scores = self.logits(model, batch).float()
                targets = self.targets(batch).to(scores.device)
                total_loss += nn.functional.cross_entropy(scores, targets, reduction="sum").item()
                right_ones = scores.argmax(-1) == targets
                wrong += (~right_ones).sum().item()
                if self._right is not None:
                    self._right.append(right_ones.flatten().cpu())
                if probability:
                    probabilities = scores.softmax(-1).gather(-1, targets.unsqueeze(-1))
                    right += probabilities.double().sum().item()
                count += targets.numel()
        finally:
            model.train(training)
        if not count:
            raise DataError(f"{self.dataset}: the {split} split is empty; nothing to evaluate on")
        metrics = self._scores(total_loss / count, wrong / count)
        return metrics | ({"probability": right / count} if probability else {})

    def _scores(self, loss: float, error: float) -> dict[str, float]:
        return {"accuracy": 1.0 - error, "error": error, "loss": loss}

    def load(self, path: str | Path) -> nn.Module:
        """Load a trained digital model.

        Args:
            path: The folder of a run, or its `model.safetensors`.

        Returns:
            The model in evaluation mode.

        Raises:
            CheckpointError: If the file is missing, damaged or of another model.
        """
        file = Path(path) / MODEL if Path(path).is_dir() else Path(path)
        if not file.is_file():
            raise CheckpointError(f"no checkpoint at {file}; {self._way_to(Path(path))}")
        model = self.skeleton()
        load_weights(model, file, f"{self.model_name} for {self.dataset}")
        return model.eval()

    def _way_to(self, path: Path) -> str:
        """Return what makes a checkpoint that `load` finds at a path."""
        if path.name == MODEL:
            path = path.parent
        if (path / "checkpoint.json").is_file():
            return (
                "its training is not finished; go on with it: the command that began it, with "
                f"--resume, such as {self.command(path)} --resume"
            )
        if path.suffix == ".safetensors":  # a training calls its model in another way
            way = f"train one, which is called {MODEL}, and name its folder"
            return f"{way}: {self.command(path.parent)}"
        return f"train one: {self.command(path)}"

    def command(self, out: Path) -> str:
        """Return the command that trains this task's digital model.

        Args:
            out: The folder that the model goes into.
        """
        words = ["python", "-m", "benchmarks.digital", self.word or self.name]
        words += ["--profile", self.profile]
        if self._data_dir is not None:
            words += ["--data-dir", str(self._data_dir)]
        for name, value in self.options.items():
            text = value if isinstance(value, str) else json.dumps(value)
            words += ["-o", f"{name}={text}"]
        return shlex.join([*words, "--out", str(out)])
