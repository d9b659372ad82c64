"""lstm: a two-layer word language model.

The embedding is digital; LSTM and decoder are analog.
"""

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from aimc_bridge.errors import UsageError
from benchmarks.tasks import published_rows
from benchmarks.tasks.base import DigitalRecipe, Split, Task
from benchmarks.tasks.data import Loader, data_dir
from benchmarks.tasks.models import bare, moved
from benchmarks.tasks.plan import CLIPPED, ON_A_GPU, SMALL, LadderSizes, Plan
from benchmarks.tasks.registry import register
from benchmarks.tasks.streams import STEPS, folded, window
from benchmarks.tasks.text import PTB, WIKITEXT2, help_text, penn_treebank, wikitext2
from benchmarks.tasks.word_lstm import State, WordLSTM, sampled_cross_entropy

SHORT = {
    "batch_size": 20,
    "epochs": 100,
    "learning_rate": 1e-3,
    "lr_schedule": "linear",
    "ir_drop_in_training": False,
    "noise_scale": 1.0,
    "dropout": 0.0,
    "distill_weight": 0.9,
    "distill_temperature": 1.0,
    "clip_type": "column_gaussian",
    "clip_value": 2.25,
    "lr_drop_on_stall": False,
    "input_range_init_batches": 20,
    "optimizer": "adamw",
    "weight_decay": 0.0,
}
"""What the trainings that are shorter than the paper's have in common."""
PLANS = {
    "embedded": Plan(
        why=SMALL,
        overrides={
            "batch_size": 20,
            "ramp_batches": 20,
            "epochs": 100,
            "learning_rate": 1e-3,
            "noise_scale": 1.5,
            "dropout": 0.0,
            "lr_drop_on_stall": False,
            "input_range_init_batches": 10,
            "optimizer": "adamw",
            "weight_decay": 0.0,
        },
        hwa_batches=200,
        validate_every=100,
        validation_subset=2000,
        chips=5,
        slow_chips=3,
    ),
    "real": Plan(
        why=f"{CLIPPED}, and by a teacher (docs/ablation.md)",
        overrides={**SHORT, "ramp_batches": 50, "remap_every": 20},
        method="std",
        out_percentile=99.99,
        recalibrate=True,
        hwa_batches=1000,
        validate_every=250,
        validation_subset=5000,
        subset=10000,
        chips=5,
        slow_subset=700,
    ),
    "gpu": Plan(
        why=f"{ON_A_GPU}, and by a teacher (docs/ablation.md)",
        overrides={**SHORT, "ramp_batches": 200, "remap_every": 50},
        method="std",
        out_percentile=99.99,
        recalibrate=True,
        hwa_batches=3000,
        validate_every=1000,
        validation_subset=20000,
        slow_subset=700,
    ),
    "paper": Plan(slow_subset=700),
}
DATASETS = {"wikitext2": (WIKITEXT2, wikitext2), "ptb": (PTB, penn_treebank)}
SIZES = {"tiny": 64, "small": 200, "paper": 650}  # width of both layers
STREAMS = 20  # parallel streams of an evaluation
UNKNOWN = "<unk>"


@register
class LanguageTask(Task):
    """Next-word prediction over contiguous streams of text."""

    name = "lstm"
    metric = "perplexity"
    recipe = "lstm"
    unit = "words"
    option_types = {
        "dataset": str,
        "size": str,
        "width": int,
        "tied": bool,
        "samples": int,
        "frequency_bias": bool,
        "dropout": float,
    }
    plans = PLANS
    ladder = LadderSizes(subset=2000, probe_samples=700, probe_inputs=128)
    data_sets = (WIKITEXT2, PTB)
    published = published_rows.LSTM

    def __init__(
        self,
        words: dict[str, list[str]],
        dataset: str,
        size: str | int,
        digital: DigitalRecipe,
        *,
        tied: bool,
        dropout: float,
        samples: int = 0,
        n_exact: int = 0,
        min_count: int = 1,
        frequency_bias: bool = True,
        evaluation_streams: int = STREAMS,
    ) -> None:
        """Build the vocabulary and turn the words into indices.

        Args:
            words: The words by split: "train", "validation", "test".
            dataset: What tables call the data.
            size: One of SIZES, or the width of both layers.
            digital: How the digital model is trained.
            tied: Whether embedding and decoder share one matrix.
            dropout: The dropout rate of every training.
            samples: How many rare words a sampled softmax draws in digital training; 0 for none.
            n_exact: The number of frequent words that the sampled softmax sums exactly.
            min_count: Words with fewer occurrences in train become the unknown word.
            frequency_bias: Whether the decoder's bias starts at the words' log frequency.
            evaluation_streams: Parallel streams of an evaluation.

        Raises:
            UsageError: For an unknown size or a negative number of samples.
        """
        if isinstance(size, str) and size not in SIZES:
            raise UsageError(f"unknown size {size!r}; one of {', '.join(SIZES)}")
        self.dataset, self.digital = dataset, digital
        self.width = SIZES[size] if isinstance(size, str) else size
        self.tied, self.dropout = tied, dropout
        self.evaluation_streams = evaluation_streams
        self.model_name = f"LSTM 2x{self.width}{' tied' if tied else ''}"
        self.samples = samples
        if samples < 0:
            raise UsageError(f"option samples={samples}; allowed: 0 (none) or more")
        # the vocabulary has the words of train, the commonest first
        counts = [(w, n) for w, n in Counter(words["train"]).most_common() if n >= min_count]
        self.vocabulary = {word: index for index, (word, _) in enumerate(counts)}
        unknown = self.vocabulary.setdefault(UNKNOWN, len(self.vocabulary))
        self.n_classes = len(self.vocabulary)
        self.streams = {
            split: torch.tensor([self.vocabulary.get(word, unknown) for word in text])
            for split, text in words.items()
        }
        frequency = self.streams["train"].bincount(minlength=self.n_classes).float()
        # If the decoder's bias starts at the words' log frequency, its weights need not learn which
        # words are rare. Without it the scores of the embedded model saturate the ADC: perplexity
        # is 88 digital and 150 on a chip at 1 s; with it 35.5 and 36.8.
        self.start_bias = (
            (frequency.clamp_min(1.0) / frequency.sum()).log() if frequency_bias else None
        )
        proposal = frequency[n_exact:].clamp_min(1.0) ** 0.75
        self.tail = proposal / proposal.sum()
        self._carried: WeakKeyDictionary[nn.Module, State] = WeakKeyDictionary()

    def __getstate__(self) -> dict[str, Any]:
        """Return what is pickled: all but the states that models carry from batch to batch."""
        return {**self.__dict__, "_carried": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take what was pickled; no model carries a state yet."""
        self.__dict__.update(state)
        self._carried = WeakKeyDictionary()

    def build(self, seed: int, *, dropout: float | None = None) -> nn.Module:
        """Return a new model; its decoder's bias starts at the log frequencies."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            rate = self.dropout if dropout is None else dropout
            model = WordLSTM(self.n_classes, self.width, rate, self.tied)
        if self.start_bias is not None:
            with torch.no_grad():
                model.decoder.bias.copy_(self.start_bias)
        return model

    def train_loader(self, batch_size: int, seed: int) -> Loader:
        """Return batches of STEPS words on parallel streams, in the order of the text.

        Each epoch starts at another word, so that the cuts of the back-propagation move.

        Args:
            batch_size: The number of streams.
            seed: Decides the first word of each epoch.
        """
        streams = folded(self.streams["train"], batch_size)
        size = (len(streams) - STEPS) // STEPS

        def plan(epoch: int, generator: torch.Generator) -> list[int]:
            offset = int(torch.randint(0, STEPS, (), generator=generator))
            return [offset + index * STEPS for index in range(size)]

        def batch(start: int, generator: torch.Generator, epoch: int) -> dict[str, Any]:
            return window(streams, start, carry=start >= STEPS)

        return Loader(plan, batch, size, seed)

    def part(self, batch: Any, index: int, count: int) -> Any:
        """Return streams index, index + count, ...: a replica keeps its own streams."""
        tokens, targets = batch["tokens"], batch["targets"]
        return {
            "tokens": tokens[:, index::count],
            "targets": targets[:, index::count],
            "carry": batch["carry"],
        }

    def calibration_batches(self, n: int, batch_size: int = 32) -> list[Tensor]:
        """Return windows of STEPS words, spread evenly over the text."""
        streams = folded(self.streams["train"], batch_size)
        starts = torch.linspace(0, len(streams) - STEPS, n).long().tolist()
        return [streams[start : start + STEPS] for start in starts]

    def count(self, split: str) -> int:
        """Return the number of words in a split."""
        return len(self.streams[split])

    def batches(self, split: Split, subset: int | None = None) -> Iterator[dict[str, Any]]:
        """Yield a split's first words on parallel streams; none is scored twice.

        The first word of each stream is not scored, because nothing stands before it. Words that do
        not fill all streams are not scored either. Together these are fewer than two per stream.

        Args:
            split: "test" or "validation".
            subset: The number of words; None is all of the split.
        """
        text = self.streams[split][: subset + 1 if subset is not None else None]
        streams = folded(text, max(1, min(self.evaluation_streams, len(text) // STEPS)))
        for start in range(0, len(streams) - 1, STEPS):
            yield window(streams, start, carry=start > 0)

    def encoded(self, model: nn.Module, batch: Any, part: Any) -> Tensor:
        """Run a part of the model on a batch, with the state of the batch before.

        The state after the batch is kept for the next one.

        Args:
            model: The model that the state belongs to.
            batch: A batch of `train_loader` or `batches`.
            part: (tokens, state) -> (output, state): the model itself or its `encode`.

        Returns:
            The output, with steps and streams as one dimension.
        """
        owner = bare(model)
        state = self._carried.get(owner) if batch["carry"] else None
        output, after = part(moved(batch["tokens"], model), state)
        self._carried[owner] = (after[0].detach(), after[1].detach())
        result: Tensor = output.flatten(0, 1)
        return result

    def logits(self, model: nn.Module, batch: Any) -> Tensor:
        """Return the scores of the next words, one row per step and stream."""
        return self.encoded(model, batch, model)

    def targets(self, batch: Any) -> Tensor:
        """Return the next words, one per step and stream."""
        targets: Tensor = batch["targets"]
        return targets.flatten()

    def digital_loss(self, model: nn.Module, batch: Any) -> Tensor:
        """Return the sampled cross-entropy if `samples` is not 0, else `loss`."""
        if not self.samples or not isinstance(model, WordLSTM):
            return self.loss(model, batch)
        hidden = self.encoded(model, batch, model.encode)
        return sampled_cross_entropy(
            hidden,
            model.decoder.weight,
            model.decoder.bias,
            self.targets(batch).to(hidden.device),
            self.tail.to(hidden.device),
            self.samples,
        )

    def evaluate(
        self,
        model: nn.Module,
        subset: int | None = None,
        split: Split = "test",
        *,
        probability: bool = False,
    ) -> dict[str, float]:
        """Measure a model; the state of a training in progress stays as it is."""
        # an evaluation between two training batches must change neither of them
        state_before = self._carried.pop(model, None)
        try:
            return super().evaluate(model, subset, split, probability=probability)
        finally:
            self._carried.pop(model, None)
            if state_before is not None:
                self._carried[model] = state_before

    def _scores(self, loss: float, error: float) -> dict[str, float]:
        return {"perplexity": math.exp(min(loss, 700.0)), "error": error, "loss": loss}

    def carried(self, model: nn.Module) -> dict[str, Tensor]:
        """Return the state after the last training batch."""
        state = self._carried.get(model)
        return {} if state is None else {"hidden": state[0], "cell": state[1]}

    def carry(self, model: nn.Module, state: dict[str, Tensor]) -> None:
        """Put back the state after the last training batch."""
        if state:
            self._carried[model] = (moved(state["hidden"], model), moved(state["cell"], model))

    @classmethod
    def make(
        cls,
        profile: str,
        folder: Path | None,
        dataset: str | None = None,
        size: str | None = None,
        width: int | None = None,
        tied: bool | None = None,
        samples: int | None = None,
        frequency_bias: bool = True,
        dropout: float | None = None,
    ) -> Task:
        """Make the task of a profile.

        Args:
            profile: A key of PLANS.
            folder: The data folder, or None.
            dataset: "wikitext2" (None is that) or "ptb"; the embedded profile has its own.
            size: One of SIZES; None is the profile's.
            width: The width of both layers, instead of a size; None takes the size.
            tied: Whether embedding and decoder share one matrix; None is the profile's.
            samples: How many rare words a sampled softmax draws; 0 for none, None is the profile's.
            frequency_bias: Whether the decoder's bias starts at the words' log frequency. It does
                so in every profile, because a decoder whose bias starts at 0 saturates the ADC.
                This includes the paper's profile, although the paper does not say how its bias
                starts.
            dropout: The dropout rate of every training, the hardware-aware one too; None is the
                profile's.

        Raises:
            UsageError: For a value that is not allowed.
            DataError: If the data are missing or damaged.
        """
        if dropout is not None and not 0.0 <= dropout < 1.0:
            raise UsageError(f"option dropout={dropout}; allowed: 0 <= dropout < 1")
        if dataset is not None and (profile == "embedded" or dataset not in DATASETS):
            allowed = (
                "none with the embedded profile" if profile == "embedded" else ", ".join(DATASETS)
            )
            raise UsageError(f"option dataset={dataset!r}; allowed: {allowed}")
        if width is not None and (width < 1 or size is not None):
            allowed = "1 or more" if size is None else f"one of size={size} and width, not both"
            raise UsageError(f"option width={width}; allowed: {allowed}")
        if profile == "embedded":
            recipe = DigitalRecipe(epochs=8, batch_size=20, learning_rate=1e-2, grad_clip=0.25)
            return cls(
                help_text(),
                "Python help topics",
                width or size or "tiny",
                recipe,
                tied=bool(tied),
                dropout=0.2 if dropout is None else dropout,
                samples=samples or 0,
                min_count=2,
                frequency_bias=frequency_bias,
                evaluation_streams=80,  # the calls for a step take longer than its products
            )
        files, read = DATASETS[dataset or "wikitext2"]
        words = read(data_dir(folder))
        if profile in ("gpu", "paper"):
            recipe = DigitalRecipe(epochs=40, batch_size=20, learning_rate=1e-3, grad_clip=0.25)
            return cls(
                words,
                files.name,
                width or size or "paper",
                recipe,
                tied=bool(tied),
                dropout=0.5 if dropout is None else dropout,
                samples=samples or 0,
                frequency_bias=frequency_bias,
            )
        recipe = DigitalRecipe(
            epochs=6,
            batch_size=32,
            learning_rate=3e-3,
            warmup=0.05,
            weight_decay=0.0,
            grad_clip=0.25,
        )
        return cls(
            words,
            files.name,
            width or size or "small",
            recipe,
            tied=True if tied is None else tied,
            dropout=0.2 if dropout is None else dropout,
            samples=2048 if samples is None else samples,
            n_exact=2048,
            frequency_bias=frequency_bias,
        )
