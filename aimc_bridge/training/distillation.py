"""Distillation: the loss also follows the outputs of the digital model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from aimc_bridge.errors import SpecError, TrainingError
from aimc_bridge.spec import TrainingSpec


def logits_of(output: Any) -> Tensor:
    """Return the logits of a model's output.

    Args:
        output: A tensor, an object with `.logits`, or a tuple that begins with the logits.

    Raises:
        SpecError: If the output is none of these.
    """
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


def distilled(value: Tensor, student: Any, teacher: Any, spec: TrainingSpec) -> Tensor:
    """Return (1 - w) loss + w T^2 KL(teacher || student), both softened by T.

    Args:
        value: The loss of the mini-batch.
        student: Output of the model that is trained: logits, an object with `.logits`, or a tuple
            that begins with the logits.
        teacher: Output of the digital model for the same inputs, without gradients.
        spec: The recipe's values, `recipe.spec`: `distill_weight` is w, `distill_temperature` is T.

    Raises:
        SpecError: If an output has no logits.
    """
    weight, temperature = spec.distill_weight, spec.distill_temperature
    target, logits = logits_of(teacher) / temperature, logits_of(student) / temperature
    classes = logits.shape[-1]
    follow = functional.kl_div(
        functional.log_softmax(logits.reshape(-1, classes), dim=-1),
        functional.log_softmax(target.reshape(-1, classes), dim=-1),
        reduction="batchmean",
        log_target=True,
    )
    return (1.0 - weight) * value + weight * temperature**2 * follow


class Teacher:
    """The digital model in a distillation; it gets the same inputs as the student.

    It watches the calls that `loss` makes to the student, calls the teacher with the same arguments
    and mixes the two losses.

    Attributes:
        teacher: The digital model, in eval mode.
        spec: The recipe, with the share of the teacher and the temperature.
        seen: Arguments and output of the student's last call in this mini-batch, or None.
        hook: The handle of the hook that watches the student.
    """

    def __init__(
        self, student: nn.Module, teacher: nn.Module, spec: TrainingSpec, device: torch.device
    ) -> None:
        """Move the teacher to the device and begin to watch the student.

        Args:
            student: The model that is trained.
            teacher: The digital model.
            spec: The recipe.
            device: Where the training runs.
        """
        self.teacher = teacher.to(device).eval()
        self.spec = spec
        self.seen: tuple[Any, Any, Any] | None = None
        self.hook = student.register_forward_hook(self._watch, with_kwargs=True)

    def _watch(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        """Remember a call of the student; a forward hook."""
        self.seen = (args, kwargs, output)

    def close(self) -> None:
        """Stop watching the student."""
        self.hook.remove()
        self.seen = None

    def forget(self) -> None:
        """Forget the calls of an earlier mini-batch or of validation."""
        self.seen = None

    def mixed(self, value: Tensor, step: int) -> Tensor:
        """Return the loss with the share of the teacher; see `distilled`.

        Args:
            value: The loss of the mini-batch.
            step: Number of the mini-batch, for the error.

        Raises:
            TrainingError: If the loss did not call the student in this mini-batch.
            SpecError: If an output has no logits.
        """
        if self.seen is None:
            raise TrainingError(
                f"loss never called the model in mini-batch {step}, so that the teacher cannot "
                "follow; call model(...) itself in it, not one of its methods or submodules, or "
                "train without distillation: recipe.override(distill_weight=0.0)"
            )
        args, kwargs, output = self.seen
        with torch.no_grad():
            target = self.teacher(*args, **kwargs)
        return distilled(value, output, target, self.spec)
