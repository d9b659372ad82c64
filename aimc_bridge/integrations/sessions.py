"""The sessions of a trainer of another library: one for each converted model that it trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from aimc_bridge import rng
from aimc_bridge.converted import is_converted, matrices_of
from aimc_bridge.errors import UsageError
from aimc_bridge.training.optimizers import parameters_of
from aimc_bridge.training.options import check_recipe
from aimc_bridge.training.own_loop import Follower
from aimc_bridge.training.schedule import HWATraining
from aimc_bridge.training.session import Untrained, running


class Sessions:
    """The sessions that a callback opens when a training begins, and closes at its end.

    Attributes:
        recipe: The recipe.
        seed: Seed of the noise.
        followers: The open sessions, by the name of the converted model inside of the whole.
        progress: Where each of them is or was at the end, as `Session.state_dict` says.
    """

    def __init__(self, recipe: HWATraining, seed: int) -> None:
        """Check the recipe.

        Args:
            recipe: The recipe.
            seed: Seed of the noise. If there are several converted models, each has noise of its
                own.

        Raises:
            UsageError: If the recipe is none.
        """
        check_recipe(recipe)
        self.recipe, self.seed = recipe, seed
        self.followers: dict[str, Follower] = {}
        self.progress: dict[str, Any] = {}

    def ask_for_gradients(self, whole: nn.Module) -> None:
        """Let what the recipe learns ask for gradients, before optimizers are made.

        Nothing else of the models changes yet.

        Args:
            whole: The module that the trainer trains.

        Raises:
            UsageError: If no converted model is in it.
            CapabilityError: If the engine cannot train so.
        """
        for model in converted_in(whole).values():
            before = Untrained(model)
            matrices = matrices_of(model).values()
            for matrix in matrices:
                matrix.prepare_training(self.recipe.spec)
            learned = [
                p
                for matrix in matrices
                for parameters in matrix.periphery().values()
                for p in parameters
                if p.requires_grad
            ]
            before.put_back()
            for parameter in learned:
                parameter.requires_grad_(True)

    def open(
        self,
        whole: nn.Module,
        optimizers: Sequence[Optimizer],
        batches: int | None,
        progress: Mapping[str, Any] | None,
    ) -> None:
        """Inject noise into all converted models that the optimizers train.

        Args:
            whole: The module that the trainer trains.
            optimizers: Its optimizers.
            batches: Number of mini-batches of the whole training; None if it is not known.
            progress: Where the training was, if it goes on.

        Raises:
            AimcError: As in `hardware_aware`; or if `progress` is of another training.
        """
        models = converted_in(whole)
        chosen = {
            name: [o for o in optimizers if _trains(o, model)] for name, model in models.items()
        }
        if not any(chosen.values()):
            chosen = {name: list(optimizers) for name in models}  # for the error that says so
        for model in models.values():
            stale = running(model)
            if stale is not None and stale.leave is not None:
                stale.leave()  # an interrupted training left it
        try:
            for name, theirs in chosen.items():
                if theirs:
                    self._open_one(name, models, theirs, batches, progress)
        except BaseException:
            self.close()
            raise

    def _open_one(
        self,
        name: str,
        models: Mapping[str, nn.Module],
        optimizers: list[Optimizer],
        batches: int | None,
        progress: Mapping[str, Any] | None,
    ) -> None:
        """Open the session of one converted model."""
        seed = self.seed if len(models) == 1 else rng.derive(self.seed, "model", name)
        follower = Follower(models[name], self.recipe, seed=seed, batches=batches)
        follower.session.leave = self.close
        self.followers[name] = follower
        follower.prepare(restart_ranges=not progress)
        follower.follow(optimizers)
        if progress:
            if name not in progress:
                raise UsageError(
                    f"the checkpoint knows the converted models {', '.join(map(repr, progress))}, "
                    f"and not {name!r}; train the same modules with the same optimizers"
                )
            follower.session.load_state_dict(progress[name])

    def now(self) -> dict[str, Any]:
        """Return where the sessions are, or were when they were closed; JSON can hold it."""
        if self.followers:
            self.progress = {n: f.session.state_dict() for n, f in self.followers.items()}
        return self.progress

    def close(self) -> None:
        """Close all sessions."""
        self.now()
        for follower in self.followers.values():
            follower.close()
        self.followers = {}


def converted_in(whole: nn.Module) -> dict[str, nn.Module]:
    """Return the converted models inside of a module, or the module itself, by name.

    Args:
        whole: The module.

    Raises:
        UsageError: If there is none.
    """
    models = {name: module for name, module in whole.named_modules() if is_converted(module)}
    if not models:
        raise UsageError(
            f"no converted model is in the {type(whole).__name__} that is trained; give the "
            "trainer what convert(model, preset) returned, or a module that holds it"
        )
    return models


def _trains(optimizer: Optimizer, model: nn.Module) -> bool:
    """Return whether an optimizer holds a trainable parameter of a model."""
    trainable = {id(p) for p in model.parameters() if p.requires_grad}
    return any(id(p) in trainable for p in parameters_of(optimizer))
