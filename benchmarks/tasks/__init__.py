"""The three benchmark tasks behind one small interface: model, data, metric, recipe."""

import importlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
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
from benchmarks.tasks.data import Loader

NAMES = ("wrn", "bert", "lstm")
PROFILES = ("embedded", "real", "paper")

Profile = Literal["embedded", "real", "paper"]
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
    """A model, its data and its metric.

    Batches are a tensor, a tuple or a dict that `accelerate.utils.send_to_device` can move;
    `logits`, `loss` and `evaluate` move them to the model's device themselves. Nothing here reads
    the test split except `evaluate(split="test")`.
    """

    name: str
    model_name: str
    dataset: str
    metric: Literal["accuracy", "perplexity"]
    recipe: str
    exclude: tuple[str, ...] = ()
    digital: DigitalRecipe
    n_classes: int
    unit: str  # what a sample is, plural
    profile: Profile = "embedded"
    options: Mapping[str, Any] = MappingProxyType({})  # as given to `get`

    @property
    def chance_error(self) -> float:
        """Error of a guess: 1 - 1/K for K classes or words."""
        return 1.0 - 1.0 / self.n_classes

    @abstractmethod
    def build(self, seed: int, *, dropout: float | None = None) -> nn.Module:
        """A new digital model; `dropout=None` is the task's own, 0.0 switches it off.

        Neither sets nor uses the global random state.
        """

    @abstractmethod
    def skeleton(self) -> nn.Module:
        """The model without its starting weights, for a checkpoint to be loaded into."""

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

    @abstractmethod
    def logits(self, model: nn.Module, batch: Any) -> Tensor:
        """Scores, (n, n_classes), of one batch."""

    @abstractmethod
    def targets(self, batch: Any) -> Tensor:
        """Class indices, (n,), of one batch."""

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

    def example_inputs(self) -> Any:
        """A small batch of inputs: `model(x)`, or `model(**x)` for a dict."""
        return self.calibration_batches(1, batch_size=4)[0]

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
                    given = scores.softmax(-1).gather(-1, targets.unsqueeze(-1))
                    right += given.double().sum().item()
                count += targets.numel()
        finally:
            model.train(training)
        if not count:
            raise DataError(f"{self.dataset}: the {split} split is empty; nothing to evaluate on")
        found = self._scores(total_loss / count, wrong / count)
        return found | ({"probability": right / count} if probability else {})

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
        return f"python -m benchmarks.digital {self.name} --profile {self.profile} --out {out}"


def get(
    name: str, profile: str = "embedded", data_dir: str | Path | None = None, **options: Any
) -> Task:
    """A task by name, on the data of a profile.

    Args:    name      "wrn", "bert" or "lstm".
             profile   "embedded" needs no files; "real" reads `data_dir` (or downloads); "paper" is
                       the paper's model and data.
             data_dir  folder with the data; None reads AIMC_BRIDGE_DATA, then downloads.
             options   the task's own: wrn dataset, depth, width, size, cutout; bert encoder,
                       dropout; lstm size, tied, samples, frequency_bias.
    Raises:  UsageError for an unknown name, profile or option; DataError for missing data.
    """
    if name not in NAMES:
        raise UsageError(f"unknown task {name!r}; one of {', '.join(NAMES)}")
    if profile not in PROFILES:
        raise UsageError(f"unknown profile {profile!r}; one of {', '.join(PROFILES)}")
    module = importlib.import_module(f"benchmarks.tasks.{name}")
    for key, value in options.items():
        if key not in module.OPTIONS:
            raise UsageError(
                f"unknown option {key!r} for task {name!r}; one of {', '.join(module.OPTIONS)}"
            )
        kind = module.OPTIONS[key]
        accepted = (int, float) if kind is float else kind
        if value is not None and (
            not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool)
        ):
            raise UsageError(f"option {key}={value!r} of task {name!r}; allowed: a {_KINDS[kind]}")
    task: Task = module.make(profile, Path(data_dir) if data_dir is not None else None, **options)
    task.profile = profile  # type: ignore[assignment]
    task.options = {key: value for key, value in options.items() if value is not None}
    return task


_KINDS = {str: "name", int: "whole number", float: "number", bool: "true or false"}


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


def limited(batches: Iterable[Any], sizes: Iterable[int], subset: int | None) -> Iterator[Any]:
    """Whole batches until `subset` samples are given; callers cut the last batch themselves."""
    given = 0
    for batch, size in zip(batches, sizes, strict=True):
        if subset is not None and given >= subset:
            return
        given += size
        yield batch


def parse_options(pairs: list[str]) -> dict[str, Any]:
    """Task options from `key=value` words; numbers and true/false become themselves."""
    options: dict[str, Any] = {}
    for pair in pairs:
        key, separator, text = pair.partition("=")
        if not separator or not key:
            raise UsageError(f"option {pair!r} is not KEY=VALUE")
        try:
            options[key] = json.loads(text)
        except ValueError:
            options[key] = text
    return options
