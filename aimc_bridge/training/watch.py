"""Hooks by which a session follows a training loop that knows nothing of it.

A mini-batch begins with the first pass in training mode after a backward pass or a step of an
optimizer. All further passes belong to it: several passes before one backward pass, several
backward passes through them, and the passes that gradient checkpointing repeats inside a backward
pass.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from aimc_bridge.errors import TrainingError
from aimc_bridge.first_pass import MeasuredLoop
from aimc_bridge.training.optimizers import parameters_of, several_passes
from aimc_bridge.training.session import Session
from aimc_bridge.watching import in_backward


class Watch:
    """The hooks of one session, on a model, its products, its parameters and its optimizers.

    Attributes:
        session: The session.
        optimizers: The optimizers that train the model.
        steps: Number of steps of the optimizers so far.
    """

    def __init__(self, session: Session, optimizers: list[Optimizer]) -> None:
        """Remember what to watch; no hook is set before `open`.

        Args:
            session: The session.
            optimizers: All optimizers that train its model.
        """
        self.session, self.optimizers = session, optimizers
        self.steps = 0
        self._over = True  # whether the next pass in training mode begins a mini-batch
        self._backward = False  # whether there was a backward pass
        self._handles: list[RemovableHandle] = []
        self._paused: set[str] = set()
        self._noisy: set[str] = set()  # layers that were used in training mode since the last step
        self._clean: set[str] = set()  # and in eval mode, with gradients
        self._warned = False
        self._measured = MeasuredLoop(session.model)
        self._probe: tuple[Tensor, Tensor] | None = None  # some weights, and their values

    def open(self) -> None:
        """Set the hooks."""
        model, keep = self.session.model, self._handles.append
        keep(model.register_forward_pre_hook(_Hook(self._root)))
        for name, matrix in self.session.matrices.items():
            for module, _ in matrix.product_modules():
                before, after = partial(self._before, name), partial(self._after, name)
                keep(module.register_forward_pre_hook(_Hook(before)))
                keep(module.register_forward_hook(_Hook(after), always_call=True))
        for module in self._measured.modules:
            keep(module.register_forward_pre_hook(_Hook(self._measure), prepend=True))
        # the contexts of aihwkit 1.2.0 answer functions of torch with another tensor, which has no
        # gradient
        with torch._C.DisableTorchFunctionSubclass():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    keep(parameter.register_post_accumulate_grad_hook(_Hook(self._gradient)))
        for index, optimizer in enumerate(self.optimizers):
            keep(optimizer.register_step_pre_hook(_Hook(self._before_step)))
            keep(optimizer.register_step_post_hook(_Hook(partial(self._after_step, index))))

    def close(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._measured.stop()

    # --- passes ---

    def _measure(self, module: nn.Module, args: Any) -> None:
        """Measure the loop from its first call of a part on; a hook before the part."""
        if in_backward():
            return
        if self._backward:
            self._measured.end()
        elif module.training:
            self._measured.begin(module, args)

    def _root(self, module: nn.Module, *_: Any) -> None:
        """Begin a mini-batch if it is time; a hook before the model's forward pass."""
        if module.training:
            self._training_pass()

    def _before(self, name: str, module: nn.Module, *_: Any) -> None:
        """Give a product the weights that it should have; a hook before the product."""
        if module.training:
            self._training_pass()
            self._noisy.add(name)
            return
        if torch.is_grad_enabled():
            self._clean.add(name)
        if name in self.session.noisy:
            self.session.matrices[name].inject(None)
            self._paused.add(name)

    def _after(self, name: str, *_: Any) -> None:
        """Put the noisy weights back after a product in eval mode; a hook."""
        if name in self._paused:
            self._paused.discard(name)
            self.session.matrices[name].inject(self.session.noisy[name])

    def _training_pass(self) -> None:
        """Begin a mini-batch unless one is under way.

        What gradient checkpointing repeats in a backward pass belongs to the mini-batch of that.
        """
        if self._over and not in_backward():
            if not self.steps:
                self._check_steps()
            if self.session.noisy:
                self.session.end()
            self._over = False
            self.session.start()
            if not self.steps:
                self._remember()

    def _gradient(self, parameter: Tensor) -> None:
        """Note that a backward pass has reached the model; a hook of its parameters."""
        self._over = self._backward = True

    # --- steps ---

    def _before_step(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Make the weights clean before an optimizer changes them; a hook.

        Lightning gives the optimizer a closure, which does the passes in the step.
        """
        itself, *rest = args
        closure = rest[0] if rest else kwargs.get("closure")
        if closure is None:
            self._end()
            return None
        once = _Once(closure, self._end, type(optimizer).__name__)
        return ((itself, once, *rest[1:]), kwargs) if rest else (args, {**kwargs, "closure": once})

    def _end(self) -> None:
        """End the mini-batch, because the weights are about to change."""
        if self.session.noisy:
            self.session.end()
        self._over = True
        self._measured.end()
        if not self.steps and self.session.processes > 1:
            self._check_processes()

    def _check_processes(self) -> None:
        """Raise an error if the processes have other gradients for what the recipe learns.

        DistributedDataParallel looks when it is made at which parameters ask for gradients.
        """
        parts = [
            p
            for matrix in self.session.matrices.values()
            for parameters in matrix.periphery().values()
            for p in parameters
            if p.requires_grad
        ]
        if not parts:
            return
        flat = torch.cat([(p if p.grad is None else p.grad).detach().flatten() for p in parts])
        largest = flat.clone()
        distributed.all_reduce(largest, distributed.ReduceOp.MAX)
        distributed.all_reduce(flat, distributed.ReduceOp.MIN)
        if bool(flat.isfinite().all()) and not torch.equal(flat, largest):
            raise TrainingError(
                "the processes have different gradients for the input ranges and column scales "
                "that the recipe learns; wrap the model inside the `with` block: "
                "DistributedDataParallel(model). If this process trains by itself: "
                "hardware_aware(..., alone=True)"
            )

    def _after_step(self, index: int, optimizer: Optimizer, *_: Any) -> None:
        """Clip and remap what an optimizer has changed; a hook."""
        # torch's GradScaler leaves a note on fused optimizers, which skip the step by themselves
        overflow = vars(optimizer).get("found_inf")
        self.steps += 1
        if overflow is None or not bool(overflow):
            held = self._held(optimizer)
            self._warn_of_eval_mode(held)
            self.session.stepped(index, held)
        self._noisy.clear()
        self._clean.clear()

    def _held(self, optimizer: Optimizer) -> list[str]:
        """Return the names of the matrices that an optimizer trains.

        Weights that are computed from other parameters may change in every step.
        """
        ids = {id(p) for p in parameters_of(optimizer)}
        return [
            name
            for name, matrix in self.session.matrices.items()
            if any(
                id(weight) in ids or not isinstance(weight, nn.Parameter)
                for weight in matrix.weight_parameters()
            )
        ]

    # --- what a user should know ---

    def _warn_of_eval_mode(self, held: list[str]) -> None:
        """Warn once of layers that were trained in eval mode, and so without noise."""
        layers = [
            name
            for name in held
            if name in self._clean
            and name not in self._noisy
            and any(w.grad is not None for w in self.session.matrices[name].weight_parameters())
        ]
        if layers and not self._warned:
            self._warned = True
            shown = ", ".join(repr(name) for name in layers[:4])
            warnings.warn(
                f"{len(layers)} analog layers are trained in eval mode ({shown}), in which no "
                "noise is injected; call model.train() before the pass, or freeze their weights",
                UserWarning,
                stacklevel=4,
            )

    def _remember(self) -> None:
        """Remember some weights as they are in this mini-batch, for `_check_steps`."""
        matrices = [m for m in self.session.matrices.values() if m.trainable()]
        if matrices:
            weights = [weight for matrix in matrices for weight in matrix.weight_parameters()]
            least = min(weights, key=Tensor.numel)
            self._probe = (least, least.detach().clone())

    def _check_steps(self) -> None:
        """Raise an error if the weights changed, but no optimizer was seen to step."""
        if self._probe is not None and not torch.equal(*self._probe):
            raise TrainingError(
                "the weights changed, and none of the optimizers given has stepped: clipping and "
                "remapping cannot follow. Pass the optimizer whose step() the loop calls; "
                "optimizers that step inside of another method, such as SAM, are not supported"
            )


class _Hook:
    """A hook that copies and pickles of what it is on do not keep.

    A copy of a model, such as an average of its weights, is not part of the session.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, *args: Any) -> Any:
        return self.function(*args)

    def __deepcopy__(self, memo: dict[int, Any]) -> Callable[..., None]:
        return _nothing

    def __reduce__(self) -> tuple[Callable[[], Callable[..., None]], tuple[()]]:
        return _inert, ()


def _nothing(*_: Any) -> None:
    """Do nothing; the hook of a copy."""


def _inert() -> Callable[..., None]:
    """Return the hook of a copy, for unpickling."""
    return _nothing


class _Once:
    """A closure that may be called once in a step."""

    def __init__(self, closure: Callable[[], Any], after: Callable[[], None], name: str) -> None:
        self.closure, self.after, self.name = closure, after, name
        self.called = False

    def __call__(self) -> Any:
        if self.called:
            raise several_passes(self.name)
        self.called = True
        result = self.closure()
        self.after()
        return result
