"""Hardware-aware training: noise injection, ramp, clipping, learned ranges, distillation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from aimc_bridge import rng
from aimc_bridge.errors import SpecError, StateError, TrainingError, UsageError
from aimc_bridge.physics.injection import injected, ramped
from aimc_bridge.registry import Matrix, matrices_of, record_of
from aimc_bridge.spec import Preset, Source, TrainingSpec

if TYPE_CHECKING:
    import pandas as pd
    from torch.optim import Optimizer

Loss = Callable[[nn.Module, Any], Tensor]
Row = tuple[int, int, float, float, float]
_WRAPPED = ("forward", "_original_forward")


@dataclass(frozen=True)
class HWATraining:
    """A recipe: the TrainingSpec of a preset for one kind of model, possibly changed."""

    name: str
    spec: TrainingSpec

    @staticmethod
    def for_(preset: Preset, name: str) -> HWATraining:
        """The recipe of that name.

        Raises:  UnknownNameError that lists the recipes of the preset.
        """
        return HWATraining(f"{preset.name}/{name}", preset.training[name])

    def override(self, why: str = "override", **fields: Any) -> HWATraining:
        """A copy with other values; `why` becomes their source.

        Raises:  SpecError for an unknown field (it lists the fields) or a value out of range.
        """
        return replace(self, spec=self.spec.replace(Source("changed", why, self.name), **fields))


@contextmanager
def accelerate_state() -> Iterator[None]:
    """Forget what Accelerate set up meanwhile, in one process; also a decorator.

    Else the next training could not ask for another device or precision.
    """
    from accelerate.state import AcceleratorState, GradientState, is_initialized

    before = is_initialized()
    try:
        yield
    finally:
        if not before and is_initialized():
            AcceleratorState._reset_state(AcceleratorState().num_processes == 1)
            GradientState._reset_state()


@accelerate_state()
def train(
    model: nn.Module,
    loader: Iterable[Any],
    loss: Loss,
    *,
    recipe: HWATraining,
    teacher: nn.Module | None = None,
    optimizer: Optimizer | None = None,
    seed: int = 0,
    max_batches: int | None = None,
    progress: bool = True,
    **accelerate: Any,
) -> pd.DataFrame:
    """Train a converted model so that it bears its chip.

    In every mini-batch, from the first on, each weight matrix is replaced by a noisy copy (one draw
    a matrix and mini-batch) in forward and backward; the gradient goes to the clean weights. After
    the optimizer's step weights are clipped and, now and then, their columns scaled anew.

    Args:    model  a converted model, either engine, no chip programmed.
             loader  mini-batches, iterated anew each epoch.    loss  (model, batch) -> scalar.
             recipe  what to inject and how to train.    teacher  digital model for distillation,
             called with the arguments that `loss` calls the model with.
             optimizer  any, over all of `model.parameters()`: input ranges and column scales ask
             for gradients from here on only; default is the recipe's SGD (weight decay on weight
             matrices only).
             seed  of the injected noise (by layer, step and process) and of torch's default
             generator, which is seeded.    max_batches  stop after so many mini-batches.
             accelerate  arguments of `accelerate.Accelerator`: mixed_precision,
             gradient_accumulation_steps, cpu, ...
    Returns: DataFrame `step, epoch, loss, noise_scale, learning_rate`.
    Raises:  StateError (a chip is programmed), SpecError (distillation without teacher),
             TrainingError (empty loader, loss not finite).
    Source:  rasch2023 SI A.1, SI Table 3.
    """
    import pandas as pd
    from accelerate import Accelerator

    record = record_of(model)
    if not isinstance(recipe, HWATraining):
        raise UsageError(
            f"recipe is {recipe!r}; allowed: HWATraining.for_(preset, name), with the names "
            "of preset.training"
        )
    if record.chip is not None:
        raise StateError("train: the model holds a programmed chip; call restore(model) first")
    spec = recipe.spec
    if spec.distill_weight > 0 and teacher is None:
        raise SpecError(
            f"recipe {recipe.name!r} distils (distill_weight={spec.distill_weight}); pass "
            "teacher=digital_model or recipe.override(distill_weight=0.0)"
        )
    accelerator = Accelerator(**accelerate)
    torch.manual_seed(rng.derive(seed, "train", accelerator.process_index))
    modes = {module: module.training for module in model.modules()}
    model.train().to(accelerator.device)
    matrices = matrices_of(model)
    for matrix in matrices.values():
        matrix.prepare_training(spec)
    if optimizer is None:
        optimizer = default_optimizer(model, spec)
    if isinstance(loader, torch.utils.data.DataLoader):
        loader = accelerator.prepare_data_loader(loader)
    own = {key: model.__dict__[key] for key in _WRAPPED if key in model.__dict__}
    prepared, optimizer = accelerator.prepare(model, optimizer)
    base_rates = [group["lr"] for group in optimizer.param_groups]
    tutor = _Teacher(model, teacher, spec, accelerator.device) if teacher is not None else None
    history: list[Row] = []
    trained = 0
    optimizer.zero_grad()
    try:
        with _Progress(loader, spec, max_batches, progress) as report:
            for step, epoch, batch in _batches(loader, spec.epochs, max_batches):
                batch = _to_device(batch, accelerator.device)
                rate = learning_rate_factor(spec, step, epoch)
                for group, base in zip(optimizer.param_groups, base_rates, strict=True):
                    group["lr"] = base * rate
                scale = ramped(spec.noise_scale, step, spec.ramp_batches)
                with accelerator.accumulate(prepared):
                    for name, matrix in matrices.items():
                        names = ("inject", name, step, accelerator.process_index)
                        matrix.inject(noisy_weight(matrix, spec, scale, seed, names))
                    value = loss(prepared, batch)
                    if not isinstance(value, Tensor) or value.numel() != 1:
                        got = tuple(value.shape) if isinstance(value, Tensor) else type(value)
                        raise UsageError(f"loss gave {got}; allowed: a tensor of one number")
                    if tutor is not None:
                        value = tutor.mixed(value)
                    if not bool(torch.isfinite(value)):
                        raise TrainingError(
                            f"loss is {float(value.detach())} in mini-batch {step}; lower the "
                            "learning rate or the noise scale, or set grad_clip"
                        )
                    accelerator.backward(value)
                    for matrix in matrices.values():
                        matrix.inject(None)
                    if spec.grad_clip is not None and accelerator.sync_gradients:
                        accelerator.clip_grad_norm_(model.parameters(), spec.grad_clip)
                    optimizer.step()
                    optimizer.zero_grad()
                if accelerator.sync_gradients:
                    _after_step(matrices, spec, trained, step + 1)
                    trained = step + 1
                row = (step, epoch, float(value.detach()), scale, base_rates[0] * rate)
                history.append(row)
                report(row)
    finally:
        for matrix in matrices.values():
            matrix.inject(None)
        if tutor is not None:
            tutor.close()
        for module, mode in modes.items():
            module.training = mode
        for group, base in zip(optimizer.param_groups, base_rates, strict=True):
            group["lr"] = base
        for key in _WRAPPED:  # mixed precision wraps the forward of the model itself
            model.__dict__.pop(key, None)
        model.__dict__.update(own)
    columns = ["step", "epoch", "loss", "noise_scale", "learning_rate"]
    return pd.DataFrame(history, columns=columns)


def noisy_weight(
    matrix: Matrix, spec: TrainingSpec, scale: float, seed: int, names: tuple[object, ...]
) -> Tensor:
    """Normalised weights of one mini-batch, `[out, in]`: noise and drop-connect.

    The draws come from the stream (seed, *names), on the device of the weights.
    """
    weight = matrix.normalised_weight()
    grid = matrix.grid
    generator = rng.stream(seed, *names, device=weight.device)
    shape = tuple(weight.shape)
    if spec.noise_type != "none" and scale > 0.0:
        largest = grid.expand_columns(grid.expand_tiles(grid.tile_amax(weight)))
        largest = torch.where(largest > 0, largest, torch.ones_like(largest))
        eps = rng.normal(shape, generator, weight.device, weight.dtype)
        eps_read = eps
        if spec.noise_type == "pcm":
            eps_read = rng.normal(shape, generator, weight.device, weight.dtype)
        weight = injected(weight, largest, matrix.preset.pcm, spec, scale, eps, eps_read)
    if spec.drop_connect > 0.0:
        kept = rng.uniform(shape, generator, weight.device) >= spec.drop_connect
        weight = weight * kept
    return weight


def default_optimizer(model: nn.Module, spec: TrainingSpec) -> Optimizer:
    """SGD of the recipe; weight decay on weights of two or more dimensions of the layers only."""
    periphery = (".out_scale", ".input_range")
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decays = parameter.ndim >= 2 and not f".{name}".endswith(periphery)
            groups[decays].append(parameter)
    return torch.optim.SGD(
        [
            {"params": groups[True], "weight_decay": spec.weight_decay},
            {"params": groups[False], "weight_decay": 0.0},
        ],
        lr=spec.learning_rate,
        momentum=spec.momentum,
    )


def learning_rate_factor(spec: TrainingSpec, step: int, epoch: int) -> float:
    """Factor on the learning rate in mini-batch `step` of all, epoch `epoch` (both from 0)."""
    drops = sum(epoch >= at for at in spec.lr_drop_epochs)
    warm = spec.warmup_factor if step < spec.warmup_batches else 1.0
    factor: float = warm * spec.lr_drop_factor**drops
    return factor


def _after_step(matrices: dict[str, Matrix], spec: TrainingSpec, before: int, now: int) -> None:
    """Clip, and remap where a multiple of `remap_every` lies in (before, now] mini-batches."""
    every = spec.remap_every
    for matrix in matrices.values():
        if spec.clip_type == "fixed":
            matrix.clip(torch.tensor(spec.clip_value))
        elif spec.clip_type == "layer_gaussian":
            weight, grid = matrix.normalised_weight(), matrix.grid
            mean = grid.tile_mean(weight)
            variance = grid.tile_mean(weight.square()) - mean.square()
            bound = variance.clamp_min(0.0).sqrt() * spec.clip_value
            matrix.clip(grid.expand_columns(grid.expand_tiles(bound)))
        if every > 0 and now // every > before // every:
            matrix.remap()


def _batches(
    loader: Iterable[Any], epochs: int, max_batches: int | None
) -> Iterator[tuple[int, int, Any]]:
    step = 0
    for epoch in range(epochs):
        before = step
        for batch in loader:
            if max_batches is not None and step >= max_batches:
                return
            yield step, epoch, batch
            step += 1
        if step == before:
            raise TrainingError(
                f"the loader gave no mini-batch in epoch {epoch}; pass one that is not empty and "
                "can be iterated anew: a DataLoader or a list, not a generator"
            )


def _to_device(batch: Any, device: torch.device) -> Any:
    from accelerate.utils import send_to_device

    return send_to_device(batch, device)


def logits_of(output: Any) -> Tensor:
    """The logits of what a model returns: a tensor, an object with `.logits`, or a tuple."""
    if isinstance(output, Tensor):
        return output
    logits = getattr(output, "logits", None)
    if logits is None and isinstance(output, tuple):
        logits = output[0]
    if not isinstance(logits, Tensor):
        raise SpecError(
            f"distillation finds no logits in a {type(output).__name__}; allowed: a tensor, an "
            "object with .logits, or a tuple that begins with them"
        )
    return logits


class _Teacher:
    """Watches what `loss` asks of the student, asks the teacher the same, mixes the two losses."""

    def __init__(
        self, student: nn.Module, teacher: nn.Module, spec: TrainingSpec, device: torch.device
    ) -> None:
        self.modes = {module: module.training for module in teacher.modules()}
        self.teacher = teacher.to(device).eval()
        self.weight, self.temperature = spec.distill_weight, spec.distill_temperature
        self.seen: tuple[Any, Any, Any] | None = None
        self.hook = student.register_forward_hook(self._watch, with_kwargs=True)

    def _watch(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        self.seen = (args, kwargs, output)

    def close(self) -> None:
        self.hook.remove()
        for module, mode in self.modes.items():
            module.training = mode

    def mixed(self, value: Tensor) -> Tensor:
        """(1 - w) loss + w T^2 KL(teacher || student), both softened by T."""
        if self.weight == 0.0 or self.seen is None:
            return value
        args, kwargs, output = self.seen
        with torch.no_grad():
            target = logits_of(self.teacher(*args, **kwargs)) / self.temperature
        student = logits_of(output) / self.temperature
        classes = student.shape[-1]
        follow = functional.kl_div(
            functional.log_softmax(student.reshape(-1, classes), dim=-1),
            functional.log_softmax(target.reshape(-1, classes), dim=-1),
            reduction="batchmean",
            log_target=True,
        )
        return (1.0 - self.weight) * value + self.weight * self.temperature**2 * follow


class _Progress:
    """A live bar with loss, noise scale and learning rate, or nothing."""

    def __init__(
        self, loader: Iterable[Any], spec: TrainingSpec, max_batches: int | None, show: bool
    ) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        try:
            total: int | None = len(loader) * spec.epochs  # type: ignore[arg-type]
        except TypeError:
            total = None
        if max_batches is not None:
            total = max_batches if total is None else min(total, max_batches)
        self.bar = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[now]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not show,
        )
        self.task = self.bar.add_task("training", total=total, now="")
        self.mean = 0.0

    def __enter__(self) -> Callable[[Row], None]:
        self.bar.start()
        return self._report

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def _report(self, row: Row) -> None:
        step, epoch, loss, scale, rate = row
        self.mean = loss if step == 0 else 0.98 * self.mean + 0.02 * loss
        now = f"epoch {epoch} loss {self.mean:.4f} noise {scale:.2f} lr {rate:.2e}"
        self.bar.update(self.task, advance=1, now=now)
