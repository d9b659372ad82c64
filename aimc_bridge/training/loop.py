"""The training loop, on Accelerate: one CPU or GPU, or several of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from aimc_bridge.converted import record_of
from aimc_bridge.engines.base import Matrix
from aimc_bridge.errors import TrainingError, UsageError
from aimc_bridge.first_pass import measuring
from aimc_bridge.modes import modes_kept
from aimc_bridge.training.batches import MiniBatch, Order
from aimc_bridge.training.distillation import Teacher
from aimc_bridge.training.optimizers import refuse_closures
from aimc_bridge.training.options import Loss, Options, Validate
from aimc_bridge.training.progress import TrainingLog, table_of
from aimc_bridge.training.schedule import (
    HWATraining,
    check_optimizer,
    default_optimizer,
    learning_rate_factor,
    put_back,
    rates,
    set_rates,
)
from aimc_bridge.training.session import Session
from aimc_bridge.training.state import Kept

if TYPE_CHECKING:
    import pandas as pd

_WRAPPED = ("forward", "_original_forward")
_CHANCE = 0.99  # a mean loss above this share of a guess's loss is no better than guessing
_FEWEST = 50  # the fewest mini-batches over which such a mean is judged


class Run:
    """One training: its set-up, the loop, and what is put back at the end.

    Attributes:
        model: The model that is trained.
        matrices: Its weight matrices on tiles, by the name of the layer; none for a digital model.
        loss: As in `train`.
        spec: The recipe's values, for a training of this length.
        options: The options of `train`.
        accelerator: Accelerate's Accelerator.
        device: Where the training runs.
        process: Index of this process.
        processes: Number of processes.
        own: The forward functions that the model has itself, without Accelerate's wrappers.
        rates: The model's dropout rates before the training.
        order: The order of the mini-batches.
        total: Number of mini-batches; None if it is not known.
        bare_optimizer: The optimizer without Accelerate's wrapper.
        base_rates: The learning rate of each group before the schedule's factor.
        kept: The state and the checkpoints.
        session: The noise, clipping and remapping.
        tutor: The teacher, if the recipe distils.
        unmeasured: Whether no mini-batch has been run yet.
        undo: What is put back at the end.
        prepared: The model as Accelerate wraps it.
        optimizer: The optimizer as Accelerate wraps it.
    """

    def __init__(
        self,
        model: nn.Module,
        matrices: dict[str, Matrix],
        loader: Iterable[Any],
        loss: Loss,
        recipe: HWATraining,
        options: Options,
        accelerate: dict[str, Any],
    ) -> None:
        """Set the training up; after an error the model is as before.

        Args:
            model: The model that is trained.
            matrices: Its weight matrices on tiles, by the name of the layer; none for a digital
                model.
            loader: As in `train`.
            loss: As in `train`.
            recipe: The recipe.
            options: The options of `train`.
            accelerate: Arguments of the Accelerator.

        Raises:
            AimcError: As in `train`.
        """
        from accelerate import Accelerator

        self.model, self.matrices, self.loss = model, matrices, loss
        self.options = options
        if options.compile:
            backend = "inductor" if options.compile is True else options.compile
            accelerate = {**accelerate, "dynamo_backend": backend}
        self.accelerator = Accelerator(**accelerate)
        self.device = self.accelerator.device
        self.process, self.processes = (
            self.accelerator.process_index,
            self.accelerator.num_processes,
        )
        self.own = {key: model.__dict__[key] for key in _WRAPPED if key in model.__dict__}
        self.rates = rates(model)
        if isinstance(loader, DataLoader):
            loader = self.accelerator.prepare_data_loader(loader)
        self.order = Order(
            loader,
            recipe.spec.epochs,
            options.max_batches,
            options.seed,
            (self.process, self.processes),
            options.split,
        )
        self.total = self.order.total()
        self.spec = recipe.spec
        if self.total is None and self.spec.lr_schedule != "constant":
            raise UsageError(
                f"lr_schedule={self.spec.lr_schedule!r} ends with the run, and the loader has no "
                "length; pass max_batches="
            )
        self.spec = self.spec.of_length(self.total)
        # made now for the claim (its type and rates), and again once ranges and scales learn
        self.bare_optimizer = options.optimizer or default_optimizer(model, self.spec)
        self.base_rates = [group["lr"] for group in self.bare_optimizer.param_groups]
        self.kept = Kept(model, options, self.accelerator, self._claim())
        self.session = Session(
            model, matrices, self.spec, options.seed, self.process, self.processes
        )
        self.tutor: Teacher | None = None
        self.unmeasured = True
        self.undo = ExitStack()
        try:
            self._set_up()
        except BaseException:
            self._put_back()
            raise

    def _set_up(self) -> None:
        """Change the model into one that trains, after all checks that could refuse it."""
        options, model = self.options, self.model
        self.undo.enter_context(modes_kept(model))
        if options.compile:
            self._leave_products()
        model.to(self.device)
        self.session.prepare()
        if options.optimizer is None:
            self.bare_optimizer = default_optimizer(model, self.spec)
            if not any(group["params"] for group in self.bare_optimizer.param_groups):
                raise UsageError(
                    f"every parameter of the {type(model).__name__} is frozen, and the recipe "
                    "learns no input ranges or column scales: nothing to train; set "
                    "requires_grad of what should learn"
                )
        else:
            check_optimizer(options.optimizer, model)
            refuse_closures(options.optimizer)
        self.prepared, self.optimizer = self.accelerator.prepare(model, self.bare_optimizer)
        if options.teacher is not None and self.spec.distill_weight > 0:
            self.undo.enter_context(modes_kept(options.teacher))
            self.tutor = Teacher(self.prepared, options.teacher, self.spec, self.device)
            self.undo.callback(self.tutor.close)

    def _leave_products(self) -> None:
        """Keep the analog products out of the compiled code.

        Raises:
            CapabilityError: If the engine's products cannot be left out.
        """
        for matrix in self.matrices.values():
            matrix.keep_out_of_compile(True)

    def _claim(self) -> dict[str, Any]:
        """Return the arguments that must match for a resume."""
        return {
            "recipe": self.spec.values(),
            "seed": self.options.seed,
            "max_batches": self.options.max_batches,
            "validate_every": self.options.validate_every,
            "keep": self.options.keep,
            "optimizer": type(self.bare_optimizer).__name__,
            "learning_rates": self.base_rates,
            "processes": self.processes,
            "gradient_accumulation_steps": self.accelerator.gradient_accumulation_steps,
            "mixed_precision": self.accelerator.mixed_precision,
        }

    def go(self) -> pd.DataFrame:
        """Train the model.

        Its modes, dropout rates and forward are as before at the end, also after an error.

        Returns:
            As in `train`.

        Raises:
            AimcError: As in `train`.
        """
        try:
            self.accelerator.sync_gradients = True  # otherwise zero_grad does nothing
            self.optimizer.zero_grad()
            self.model.train()
            if self.spec.dropout is not None:
                set_rates(self.rates, self.spec.dropout)
            done, metrics, generators = self.kept.resume(self.bare_optimizer)
            self.session.started = self.kept.state.step
            self.session.followed = [self.kept.state.trained]
            self.session.begin()
            shown = self.options.progress and self.accelerator.is_main_process
            with TrainingLog(self.total, done, self.kept.path, shown, metrics) as log:
                state = self.kept.state
                for batch in self.order.from_(state.step, state.epoch, state.position, generators):
                    self._mini_batch(batch, log)
            self._finish()
        finally:
            self._put_back()
        return table_of(log.rows, log.metrics)

    # --- a mini-batch ---

    def _mini_batch(self, batch: MiniBatch, log: TrainingLog) -> None:
        """Do one mini-batch: step, validation, row of the log and checkpoint."""
        state, spec = self.kept.state, self.spec
        factor = learning_rate_factor(spec, batch.step, batch.epoch, self.total, state.stalls)
        for group, base in zip(self.bare_optimizer.param_groups, self.base_rates, strict=True):
            group["lr"] = base * factor
        self.session.start()
        final = batch.step + 1 == self.options.max_batches or (
            batch.last and batch.epoch == spec.epochs - 1
        )
        steps = self._steps(batch, final)
        value, task_loss = self._step(batch.step, _to_device(batch.data, self.device), steps)
        if steps and not self.optimizer.step_was_skipped:
            self.session.stepped()
            state.trained = batch.step + 1
        state.step = batch.step + 1
        state.epoch, state.position = batch.epoch, batch.position + 1
        if batch.last:
            state.epoch, state.position = batch.epoch + 1, 0
        state.epoch_loss += task_loss
        state.epoch_count += 1
        ended = batch.last or final
        mean = self._end_epoch(batch.epoch) if ended else None
        validation = self._validated(ended, final)
        if self.options.validate is None and mean is not None:
            self.kept.judge(mean, weights=False)
        row = {
            "step": batch.step,
            "epoch": batch.epoch,
            "loss": value,
            "noise_scale": self.session.noise_scale,
            "learning_rate": self.base_rates[0] * factor,
        }
        log.add(row, validation)
        if steps:
            self.kept.save(self.bare_optimizer, self.order, log, final=final)

    def _steps(self, batch: MiniBatch, final: bool) -> bool:
        """Return whether the optimizer steps after this mini-batch.

        Accelerate's own `accumulate` asks its DataLoader whether the epoch ends. That loader is
        read one mini-batch ahead here, and other loaders do not tell.
        """
        gradients = self.accelerator.gradient_state
        by_epoch = gradients.sync_with_dataloader
        place = batch.position if by_epoch else batch.step
        return final or (by_epoch and batch.last) or (place + 1) % gradients.num_steps == 0

    def _step(self, step: int, batch: Any, steps: bool) -> tuple[float, float]:
        """Do forward and backward pass and, if it `steps`, a step of the optimizer.

        Returns:
            The loss, and the loss before distillation.
        """
        accelerator = self.accelerator
        accelerator.sync_gradients = steps
        sync_each = accelerator.gradient_state.plugin_kwargs.get("sync_each_batch", False)
        with nullcontext() if steps or sync_each else accelerator.no_sync(self.prepared):
            if self.tutor is not None:
                self.tutor.forget()
            with self._measured(batch):
                value = self.loss(self.prepared, batch)
            if not isinstance(value, Tensor) or value.numel() != 1:
                got = tuple(value.shape) if isinstance(value, Tensor) else type(value)
                raise UsageError(f"loss gave {got}; allowed: a tensor of one number")
            total = value if self.tutor is None else self.tutor.mixed(value, step)
            task_loss, mixed = torch.stack([value.detach(), total.detach()]).float().tolist()
            if not math.isfinite(mixed):
                raise TrainingError(
                    f"loss is {mixed} in mini-batch {step}; lower the learning rate or the noise "
                    "scale, or set grad_clip"
                )
            if not total.requires_grad:
                raise UsageError(
                    f"loss of mini-batch {step} depends on nothing that learns: allowed is a "
                    "tensor with a gradient, of a model with weights that ask for one (aihwkit's "
                    "tiles learn no input ranges where all weights are frozen)"
                )
            accelerator.backward(total)
            self.session.end()
            if self.spec.grad_clip is not None and steps:
                accelerator.clip_grad_norm_(self.prepared.parameters(), self.spec.grad_clip)
            self.optimizer.step()
            self.optimizer.zero_grad()
        return mixed, task_loss

    def _measured(self, batch: Any) -> AbstractContextManager[Any]:
        """Return a block that measures what the first mini-batch does outside of the tiles.

        Compiled code is left for that mini-batch, unless the training is resumed: it was measured
        when it began, and the numbers of other code differ in their last bits.
        """
        first, self.unmeasured = self.unmeasured, False
        if not first or not self.matrices or record_of(self.model).measured:
            return nullcontext()
        if not self.options.compile:
            return measuring(self.model, batch)
        return nullcontext() if self.kept.state.step else torch.compiler.set_stance("force_eager")

    def _end_epoch(self, epoch: int) -> float:
        """Return the epoch's mean loss and begin the next sum.

        Raises:
            TrainingError: If the loss is no better than a guess.
        """
        state, chance = self.kept.state, self.options.chance_loss
        count, mean = state.epoch_count, state.epoch_loss / state.epoch_count
        state.epoch_loss, state.epoch_count = 0.0, 0
        if chance is not None and count >= _FEWEST and mean >= _CHANCE * chance:
            raise TrainingError(
                f"the loss of epoch {epoch} is {mean:.4f} in the mean of {count} mini-batches, "
                f"and a guess has {chance:.4f}: the model has learned nothing or forgotten all; "
                "lower the learning rate or the noise scale, lengthen ramp_batches, or set "
                "grad_clip"
            )
        return mean

    # --- validation ---

    def _validated(self, ended: bool, final: bool) -> dict[str, float] | None:
        """Return validation's numbers if it is time for them, the same on every replica."""
        validate, every = self.options.validate, self.options.validate_every
        step = self.kept.state.step
        due = final or (ended if every is None else step % every == 0)
        if validate is None or not due:
            return None
        shared = [self._numbers(validate)] if self.accelerator.is_main_process else [{}]
        if self.processes > 1:
            from accelerate.utils import broadcast_object_list

            broadcast_object_list(shared, from_process=0)
        numbers: dict[str, float] = shared[0]
        if not math.isfinite(numbers["loss"]):
            raise TrainingError(
                f"validation's loss is {numbers['loss']} after {step} mini-batches; lower "
                "the learning rate or the noise scale"
            )
        self.kept.judge(numbers["loss"], weights=True)
        return numbers

    def _numbers(self, validate: Validate) -> dict[str, float]:
        """Return validation's numbers, measured without Accelerate's wrappers."""
        wrapped = {
            key: self.model.__dict__.pop(key) for key in _WRAPPED if key in self.model.__dict__
        }
        self.model.__dict__.update(self.own)  # in float32, as the model will be judged
        try:
            with modes_kept(self.model), torch.no_grad():
                result = validate(self.model.eval())
        finally:
            self.model.__dict__.update(wrapped)
        named = result if isinstance(result, Mapping) else {"loss": result}
        if "loss" not in named:
            raise UsageError(
                f"validate returned {', '.join(named) or 'nothing'}; allowed: a number, or a dict "
                'with "loss" in it'
            )
        return {str(name): float(value) for name, value in named.items()}

    # --- the end ---

    def _finish(self) -> None:
        """Choose the weights to keep, and make the replicas equal."""
        self.kept.choose()
        if self.processes > 1:
            from accelerate.utils import broadcast

            # until here each replica has its own statistics of a batch normalisation
            with torch.no_grad():
                for buffer in self.model.buffers():
                    buffer.copy_(broadcast(buffer.detach().clone(), from_process=0))

    def _put_back(self) -> None:
        """Put back what the set-up changed."""
        self.undo.close()
        put_back(self.rates)
        for group, base in zip(self.bare_optimizer.param_groups, self.base_rates, strict=True):
            group["lr"] = base
        for matrix in self.matrices.values():
            if self.options.compile:
                matrix.keep_out_of_compile(False)
        for key in _WRAPPED:  # mixed precision wraps the forward of the model itself
            self.model.__dict__.pop(key, None)
        self.model.__dict__.update(self.own)
        self.session.close()


def _to_device(batch: Any, device: torch.device) -> Any:
    """Move the tensors of a batch to a device."""
    from accelerate.utils import send_to_device

    return send_to_device(batch, device)
