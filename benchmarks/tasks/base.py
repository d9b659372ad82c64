"""What a benchmark task is: a model, its data, its metric, and how much of it runs."""

import inspect
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import torch
from accelerate.utils import send_to_device
from safetensors import SafetensorError
from safetensors.torch import load_model
from torch import Tensor, nn

from aimc_bridge.errors import CheckpointError, DataError, UsageError
from benchmarks.tasks.data import DataSet, Loader, PackagedModel
from benchmarks.tasks.plan import LadderSizes, Plan
from benchmarks.tasks.published import Published

PROFILES = ("embedded", "real", "paper")

Split = Literal["test", "validation"]


@dataclass(frozen=True)
class DigitalRecipe:
    """How a task's digital model is trained. `warmup` is the part of all steps with rising rate."""

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
    """A model, its data and its metric: everything that the commands know of a benchmark.

    A subclass and its model are one file; docs/tasks.md has a worked example. What a subclass must
    set has no default here, or an empty one.

    A batch is a tensor, a tuple or a dict that `accelerate.utils.send_to_device` can move, which
    `logits`, `loss` and `evaluate` do themselves. Nothing here reads the test split except
    `evaluate(split="test")`.

    Attributes:
        name: What commands, folders and records call the task: letters, digits, "-" and "_".
        model_name: What tables call the model.
        dataset: What tables call the data.
        metric: "accuracy" or "perplexity".
        unit: What a sample is, in the plural.
        n_classes: The number of classes, or of words.
        recipe: The preset's training recipe that hardware-aware training starts from, "wrn16".
        digital: How the digital model is trained.
        exclude: Names and patterns of modules that stay digital.
        option_types: The options of `-o KEY=VALUE`, and the type of each: str, int, float or bool.
        plans: The profiles that the task has, and what each of them runs.
        ladder: How much of the task `benchmarks.ladder` runs.
        data_sets: The files that the task reads, for `benchmarks.doctor`.
        packaged: The pretrained models in Python packages that it reads.
        published: What others have published of this task, for the README.
        word: What a command line calls the task; `find` sets it if that is not the name.
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
    word: str = ""
    profile: str = "embedded"
    options: Mapping[str, Any] = MappingProxyType({})

    # `*_`, which nothing is given: type checkers then let a subclass name its own options
    @classmethod
    def make(cls, profile: str, folder: Path | None, *_: Any, **options: Any) -> "Task":
        """Make the task of a profile; `get` calls this after it has checked the arguments.

        Args:
            profile: A key of `plans`.
            folder: The data folder that the user names, or None; `data.data_dir(folder)` looks at
                AIMC_BRIDGE_DATA too.
            options: Values of `option_types`, as far as the user gives them.

        Raises:
            UsageError: If the class lacks a method that a task must have.
        """
        if inspect.isabstract(cls):
            lacks = ", ".join(sorted(cls.__abstractmethods__))
            raise UsageError(f"task {cls.name!r}: its class {cls.__name__} lacks {lacks}")
        return cls(profile, folder, **options)

    def __init__(self, profile: str, folder: Path | None, **options: Any) -> None:  # noqa: B027
        """Read the data; a subclass names its options here, each with a default."""

    @classmethod
    def plan_of(cls, profile: str) -> Plan:
        """Return what a profile of the task runs.

        Raises:
            UsageError: If there is no such profile, or the task does not have it.
        """
        if profile not in PROFILES:
            raise UsageError(f"unknown profile {profile!r}; one of {', '.join(PROFILES)}")
        if profile not in cls.plans:
            has = ", ".join(cls.plans)
            raise UsageError(f"task {cls.name!r} has no profile {profile!r}; it has {has}")
        return cls.plans[profile]

    @property
    def chance_error(self) -> float:
        """Error of a guess: 1 - 1/K for K classes or words."""
        return 1.0 - 1.0 / self.n_classes

    @abstractmethod
    def build(self, seed: int, *, dropout: float | None = None) -> nn.Module:
        """A new digital model; `dropout=None` is the task's own, 0.0 switches it off.

        Neither sets nor uses the global random state.
        """

    def skeleton(self) -> nn.Module:
        """Return a model to load a checkpoint into, whatever its weights."""
        return self.build(0)

    def place(self, device: torch.device) -> None:  # noqa: B027
        """Keep the data where the model will be, where batches are made faster there."""

    @abstractmethod
    def train_loader(self, batch_size: int, seed: int) -> Loader:
        """Augmented training batches; order and augmentation are a function of (seed, epoch)."""

    @abstractmethod
    def calibration_batches(self, n: int, batch_size: int = 32) -> list[Any]:
        """`n` model inputs (no labels) from the training data, without augmentation.

        They set input ranges and batch-norm statistics: never the data that the chips are judged by
        (a test takes the test split away).
        """

    def part(self, batch: Any, index: int, count: int) -> Any:
        """The samples index, index + count, ... of a training batch: one replica's part."""
        if isinstance(batch, Tensor):
            return batch[index::count]
        if isinstance(batch, dict):
            return {key: self.part(value, index, count) for key, value in batch.items()}
        return type(batch)(self.part(value, index, count) for value in batch)

    @abstractmethod
    def count(self, split: str) -> int:
        """How many samples (words: lstm) "train", "validation" or "test" holds."""

    @abstractmethod
    def batches(self, split: Split, subset: int | None = None) -> Iterator[Any]:
        """The held-out batches in a fixed order; `subset` is a number of samples (lstm: words)."""

    def logits(self, model: nn.Module, batch: Any) -> Tensor:
        """Return the scores of one batch, (n, n_classes); here of a batch (inputs, labels)."""
        scores: Tensor = model(moved(batch[0], model))
        return scores

    def targets(self, batch: Any) -> Tensor:
        """Return the class indices of one batch, (n,); here of a batch (inputs, labels)."""
        labels: Tensor = batch[1]
        return labels

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """Mean cross-entropy of a batch, nats: what hardware-aware training minimises."""
        scores = self.logits(model, batch)
        return nn.functional.cross_entropy(scores, self.targets(batch).to(scores.device))

    def digital_loss(self, model: nn.Module, batch: Any) -> Tensor:
        """What digital training minimises, where that differs from `loss`."""
        return self.loss(model, batch)

    def digital_loader(self, batch_size: int, seed: int) -> Loader:
        """What digital training reads, where that differs from `train_loader`."""
        return self.train_loader(batch_size, seed)

    def carried(self, model: nn.Module) -> dict[str, Tensor]:
        """What the next training batch needs from the last one; empty but for recurrent models."""
        return {}

    def carry(self, model: nn.Module, state: dict[str, Tensor]) -> None:  # noqa: B027
        """Puts back what `carried` gave, after a resume."""

    @torch.no_grad()
    def evaluate(
        self,
        model: nn.Module,
        subset: int | None = None,
        split: Split = "test",
        *,
        probability: bool = False,
    ) -> dict[str, float]:
        """Metric, `error` in [0, 1] and `loss` in nats on held-out data, dropout off.

        Args:    subset  number of samples (lstm: words) from the start of the split; all if None.
                 probability  whether `probability`, the mean of what the model gives the right
                 class, is wanted too: it varies less between chips than a count of right answers.
        Raises:  DataError where there is nothing to evaluate on; UsageError for an unknown split.
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
                wrong += (scores.argmax(-1) != targets).sum().item()
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
        """A trained digital model from a run's folder or its `model.safetensors`.

        Raises:  CheckpointError where the file is missing, damaged or of another model.
        """
        file = Path(path) / "model.safetensors" if Path(path).is_dir() else Path(path)
        if not file.is_file():
            raise CheckpointError(
                f"no checkpoint at {file}; train one: {self.command(file.parent)}"
            )
        model = self.skeleton()
        try:
            load_model(model, file)
        except SafetensorError as error:
            raise CheckpointError(f"{file} is damaged or cut short ({error})") from None
        except RuntimeError as error:
            line = str(error).splitlines()[-1].strip()
            raise CheckpointError(
                f"{file} holds another model than {self.model_name} for {self.dataset}: {line}"
            ) from None
        for key, value in model.state_dict().items():
            if value.is_floating_point() and not value.isfinite().all():
                raise CheckpointError(f"{file}: {key} holds NaN or infinite values")
        return model.eval()

    def command(self, out: Path) -> str:
        """The command that trains this task's digital model into `out`."""
        word = self.word or self.name
        return f"python -m benchmarks.digital {word} --profile {self.profile} --out {out}"


def device_of(model: nn.Module) -> torch.device:
    """Where a model lives: the device of its first parameter or buffer."""
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return torch.device("cpu")


def bare(model: nn.Module) -> nn.Module:
    """The model inside what data parallelism and torch.compile wrap around it."""
    while True:
        inner = model._modules.get("_orig_mod")  # torch.compile's
        if isinstance(model, nn.parallel.DistributedDataParallel):
            inner = model.module
        if inner is None:
            return model
        model = inner


def moved(batch: Any, model: nn.Module) -> Any:
    """A batch on the model's device."""
    return send_to_device(batch, device_of(model))


def read_info(path: str | Path) -> dict[str, Any]:
    """The `info.json` beside a checkpoint; empty where there is none."""
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    try:
        info: dict[str, Any] = json.loads((folder / "info.json").read_text())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise CheckpointError(f"{folder / 'info.json'} is damaged ({error})") from None
    if not isinstance(info, dict):
        raise CheckpointError(f"{folder / 'info.json'} is damaged: it holds no table")
    return info
