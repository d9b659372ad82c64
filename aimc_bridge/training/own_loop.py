"""Hardware-aware training in a loop of one's own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import distributed, nn
from torch.optim import Optimizer

from aimc_bridge.arguments import flag, integer
from aimc_bridge.converted import matrices_of, record_of
from aimc_bridge.errors import StateError
from aimc_bridge.training.optimizers import checked
from aimc_bridge.training.options import check_recipe
from aimc_bridge.training.schedule import HWATraining, put_back, rates, set_rates
from aimc_bridge.training.session import Session
from aimc_bridge.training.watch import Watch


@contextmanager
def hardware_aware(
    model: nn.Module,
    recipe: HWATraining,
    optimizers: Iterable[Optimizer] | Optimizer,
    *,
    seed: int = 0,
    batches: int | None = None,
    seed_torch: bool = True,
    alone: bool = False,
) -> Iterator[Session]:
    """Train a converted model in a loop of your own.

    Inside the `with` block, each mini-batch gets one noisy copy of every weight matrix, in forward
    and backward pass, and the gradient goes to the clean weights. After each step of an optimizer
    the weight matrices that it trains are clipped and, from time to time, their columns are scaled
    again. The noise grows with the recipe's ramp, and input ranges and column scales learn.

    A mini-batch begins with the first pass in training mode after a backward pass or a step. So
    several passes before one backward pass share their noise, and so do the passes that gradient
    checkpointing repeats. With gradient accumulation each backward pass has noise of its own.
    Layers in eval mode use their clean weights.

    The optimizer, its learning rates, the clipping of gradients and the loss are yours. If the
    recipe distils, so is the teacher's share of the loss (`aimc_bridge.training.distilled`). The
    recipe's values for these have no effect here.

    Args:
        model: A converted model of either engine, without a programmed chip.
        recipe: What noise is injected and how weights are clipped; see `HWATraining.for_`.
        optimizers: All optimizers that train the model, made over `model.parameters()` or some of
            them. What the recipe learns, input ranges and column scales, must be in one of them.
            Wrappers of Accelerate, Lightning and Fabric are fine.
        seed: Seed of the noise, per layer, mini-batch and process.
        batches: Number of mini-batches of the whole training, for recipes whose ramp is a share of
            it; None if it is not known.
        seed_torch: Whether torch's default generator is seeded at the start of each mini-batch, as
            in `train`. Dropout and the noise of products then depend on seed, mini-batch and
            process alone. False leaves the generator to you.
        alone: Whether this process trains by itself although torch.distributed runs.

    Yields:
        The session: its `state_dict` and `load_state_dict` are for checkpoints, `started` counts
        the mini-batches, and `noise_scale` is the present scale of the noise.

    Raises:
        StateError: If a chip is programmed, or the model is in another training.
        UsageError: If an optimizer trains nothing of the model or cannot be followed (LBFGS),
            learned ranges and scales are in none of them, or `batches` is no number of
            mini-batches.
        CapabilityError: If the model is not a converted one, or the engine cannot train so.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from aimc_bridge import HWATraining, calibrate, convert, hardware_aware
        >>> from presets import rasch2023
        >>> inputs, labels = torch.randn(64, 12), torch.randint(2, (64,))
        >>> analog = convert(nn.Linear(12, 2), rasch2023)
        >>> calibrate(analog, [inputs])
        >>> recipe = HWATraining.for_(rasch2023, "wrn16").override(ramp_batches=4)
        >>> optimizer = torch.optim.SGD(analog.parameters(), lr=0.1)
        >>> analog = analog.train()
        >>> with hardware_aware(analog, recipe, optimizers=[optimizer]) as session:
        ...     for _ in range(4):
        ...         loss = nn.functional.cross_entropy(analog(inputs), labels)
        ...         loss.backward()
        ...         optimizer.step()
        ...         optimizer.zero_grad()
        >>> session.started
        4

    Source: rasch2023 SI A.1.
    """
    follower = Follower(
        model, recipe, seed=seed, batches=batches, seed_torch=seed_torch, alone=alone
    )
    try:
        follower.prepare()
        follower.follow(optimizers)
        yield follower.session
    finally:
        follower.close()


class Follower:
    """A session with its hooks: what `hardware_aware` and the callbacks open and close.

    Attributes:
        session: The session.
    """

    def __init__(
        self,
        model: nn.Module,
        recipe: HWATraining,
        *,
        seed: int,
        batches: int | None = None,
        seed_torch: bool = True,
        alone: bool = False,
    ) -> None:
        """Make a session; the model does not change before `prepare`.

        Args:
            model: As in `hardware_aware`.
            recipe: As in `hardware_aware`.
            seed: As in `hardware_aware`.
            batches: As in `hardware_aware`.
            seed_torch: As in `hardware_aware`.
            alone: As in `hardware_aware`.

        Raises:
            StateError: If a chip is programmed.
            UsageError: If the recipe is none, or `batches` is no number of mini-batches.
            CapabilityError: If the model is not a converted one.
        """
        check_recipe(recipe)
        seed = integer("seed", seed)
        seed_torch, alone = flag("seed_torch", seed_torch), flag("alone", alone)
        if batches is not None:
            whole = "batches (mini-batches of the whole training, or None if it is not known)"
            batches = integer(whole, batches, least=1, most=2**62)
        if record_of(model).chip is not None:
            raise StateError(
                "hardware-aware training: the model holds a programmed chip; call restore(model) "
                "first"
            )
        together = not alone and distributed.is_available() and distributed.is_initialized()
        self.session = Session(
            model,
            matrices_of(model),
            recipe.spec.of_length(batches),
            seed,
            distributed.get_rank() if together else 0,
            distributed.get_world_size() if together else 1,
            seed_torch,
        )
        self._rates = rates(model)
        self._watch: Watch | None = None

    def prepare(self, restart_ranges: bool = True) -> None:
        """Make the model ready: what the recipe learns asks for gradients from now on.

        Args:
            restart_ranges: As in `Session.prepare`.

        Raises:
            AimcError: As in `Session.prepare`.
        """
        self.session.prepare(restart_ranges)

    def follow(self, optimizers: Iterable[Optimizer] | Optimizer) -> None:
        """Inject noise from now on, and follow the steps of the optimizers.

        Args:
            optimizers: As in `hardware_aware`.

        Raises:
            UsageError: As in `hardware_aware`.
        """
        session = self.session
        listed = checked(optimizers, session.model, session.matrices.values())
        session.followed = [session.started] * len(listed)
        self._watch = Watch(session, listed)
        if session.spec.dropout is not None:
            set_rates(self._rates, session.spec.dropout)
        session.begin()
        self._watch.open()

    def close(self) -> None:
        """Remove the hooks, and leave the model with its clean weights."""
        if self._watch is not None:
            self._watch.close()
            put_back(self._rates)
        self.session.close()
