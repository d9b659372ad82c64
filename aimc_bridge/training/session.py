"""The steps of a training beside the optimizer: noise, clipping, remapping.

A mini-batch begins with a noisy copy of every weight matrix and ends with the clean weights. After
a step of the optimizer the weights are clipped and remapped. A `Session` does that. `train` calls
it around its own steps, and `watch` lets it follow a loop of the user's own. It knows nothing of
loaders, losses, epochs or files.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from typing import Any
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor, distributed, nn

from aimc_bridge import rng
from aimc_bridge.engines import unaware
from aimc_bridge.engines.base import Matrix
from aimc_bridge.errors import SpecError, StateError, UsageError
from aimc_bridge.physics.injection import ramped
from aimc_bridge.spec import TrainingSpec
from aimc_bridge.training.weights import clip_and_remap, noisy_weight

_RUNNING: WeakKeyDictionary[nn.Module, ref[Session]] = WeakKeyDictionary()


def running(model: nn.Module) -> Session | None:
    """Return the session that trains a model now, or None.

    Args:
        model: A model.
    """
    session = _RUNNING.get(model)
    return None if session is None else session()


class Session:
    """Noise, clipping and remapping around the optimizer's steps of one training.

    The order is: `prepare` once, then `begin`. In each mini-batch `start`, forward and backward
    passes, and `end`. After each step of an optimizer `stepped`. At the end, or after an error,
    `close`.

    Attributes:
        model: The model that is trained.
        matrices: Its weight matrices on tiles, by the name of the layer.
        spec: The recipe.
        seed: Seed of the noise.
        process: Index of this process among those that train together.
        processes: Number of these processes.
        seed_torch: Whether torch's default generator is seeded at the start of each mini-batch.
        started: Number of mini-batches that were started.
        followed: Number of mini-batches that were started at each optimizer's last step.
        noisy: The noisy weights of this mini-batch, by the name of the layer; empty between two
            mini-batches.
        leave: Closes the session of a trainer that was interrupted and could not close it; None if
            whoever opened it does.
    """

    def __init__(
        self,
        model: nn.Module,
        matrices: Mapping[str, Matrix],
        spec: TrainingSpec,
        seed: int,
        process: int = 0,
        processes: int = 1,
        seed_torch: bool = True,
    ) -> None:
        """Remember the model as it is; nothing changes before `prepare`.

        Args:
            model: The model that is trained.
            matrices: Its weight matrices on tiles, by the name of the layer. If there are none, as
                in a digital model, no step changes anything.
            spec: The recipe.
            seed: Seed of the noise. Every layer, mini-batch and process has noise of its own.
            process: Index of this process among those that train together.
            processes: Number of these processes.
            seed_torch: Whether torch's default generator is seeded at the start of each mini-batch,
                so that dropout and the noise of products depend on seed, mini-batch and process
                alone.
        """
        self.model, self.matrices, self.spec, self.seed = model, matrices, spec, seed
        self.process, self.processes, self.seed_torch = process, processes, seed_torch
        self.started = 0
        self.followed = [0]
        self.noisy: dict[str, Tensor] = {}
        self.leave: Callable[[], None] | None = None
        self._before: Untrained | None = Untrained(model)

    def prepare(self, restart_ranges: bool = True) -> None:
        """Tell every matrix what the recipe learns and how input ranges start.

        Args:
            restart_ranges: Whether ranges start again from data, if the recipe says so. False is
                for a training that goes on.

        Raises:
            SpecError: If the recipe asks for faults, and no device has any.
            StateError: If another session trains this model.
            CapabilityError: If the engine cannot train in that way.
        """
        if running(self.model) is not None:
            raise StateError(
                f"the {type(self.model).__name__} is in a training already: `train` and "
                "hardware_aware cannot be used inside each other, or twice at once, on one model; "
                "leave the first one"
            )
        devices = [matrix.preset.pcm for matrix in self.matrices.values()]
        if self.spec.faults != "none" and devices and not any(pcm.faults for pcm in devices):
            raise SpecError(
                f"the recipe trains with faults = {self.spec.faults!r}, but no device of the model "
                "has any: convert it with preset.change(faults=devices.Faults(...), why=...), or "
                'override faults="none"'
            )
        _RUNNING[self.model] = ref(self)
        spec = self.spec
        if not restart_ranges and spec.input_range_start == "data":
            spec = spec.change(why="the training goes on", input_range_start="calibrated")
        for matrix in self.matrices.values():
            matrix.prepare_training(spec)
            for weight in matrix.weight_parameters():
                unaware.hold(weight)

    def begin(self) -> None:
        """Declare the set-up finished: from here on `close` keeps what was learned."""
        self._before = None

    # --- a mini-batch ---

    @property
    def noise_scale(self) -> float:
        """Return the scale of the noise in the mini-batch that was started last."""
        return self.noise_scale_of(max(0, self.started - 1))

    def noise_scale_of(self, step: int) -> float:
        """Return the scale of the noise in a mini-batch; it grows with the recipe's ramp.

        Args:
            step: Number of the mini-batch, from 0.
        """
        return ramped(self.spec.noise_scale, step, self.spec.ramp_batches)

    @torch.no_grad()  # or gradient checkpointing counts what autograd keeps of the noise
    def start(self) -> None:
        """Start a mini-batch: seed torch's generator, and inject noise until `end`.

        Every matrix multiplies with a noisy copy of its weights.
        """
        step = self.started
        if self.seed_torch:
            # dropout and product noise of a mini-batch depend on (seed, step, process) alone
            torch.manual_seed(rng.derive(self.seed, "train", step, self.process))
        scale = self.noise_scale_of(step)
        for name, matrix in self.matrices.items():
            names = ("inject", name, step, self.process)
            self.noisy[name] = noisy_weight(matrix, self.spec, scale, self.seed, names)
            matrix.inject(self.noisy[name])
        self.started = step + 1

    def end(self) -> None:
        """End a mini-batch: every matrix multiplies with its clean weights again.

        While ranges start from data, each process sets them from its own data. The mean of all
        processes is taken then.
        """
        self.clear()
        if self.processes > 1 and 0 < self.started <= self.spec.input_range_init_batches:
            self._average_ranges()

    def clear(self) -> None:
        """Let every matrix multiply with its clean weights again."""
        for matrix in self.matrices.values():
            matrix.inject(None)
        self.noisy.clear()

    @torch.no_grad()
    def _average_ranges(self) -> None:
        """Set each input range to the mean over the processes."""
        for matrix in self.matrices.values():
            for parameter in matrix.periphery()["input_range"]:
                mean = parameter.detach().clone()
                distributed.all_reduce(mean)
                parameter.copy_(mean / self.processes)

    def stepped(self, optimizer: int = 0, names: Iterable[str] | None = None) -> None:
        """Clip the weights after a step of an optimizer, and remap them when it is time.

        Args:
            optimizer: Which optimizer it was, from 0.
            names: Names of the matrices that it trains; None means all.
        """
        trained = self.matrices
        if names is not None:
            trained = {name: self.matrices[name] for name in names}
        clip_and_remap(trained, self.spec, self.followed[optimizer], self.started)
        self.followed[optimizer] = self.started

    # --- its place in the training ---

    def state_dict(self) -> dict[str, Any]:
        """Return the place of the training, for a checkpoint of your own.

        Save it after a step of the optimizer, with the state of the model and the optimizers.

        Returns:
            Plain data that JSON can hold.
        """
        return {
            "seed": self.seed,
            "recipe": json.loads(json.dumps(self.spec.values())),  # lists for tuples
            "started": self.started,
            "followed": list(self.followed),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on at the place that `state_dict` described.

        Load the states of the model and the optimizers too, inside the `with` block: the beginning
        of a training may start input ranges again.

        Args:
            state: What `state_dict` returned.

        Raises:
            UsageError: If it is of a training with another seed, recipe or number of optimizers.
        """
        now = self.state_dict()
        theirs = {**state, "followed": len(state.get("followed", ()))}
        ours = {**now, "followed": len(self.followed), "started": theirs.get("started")}
        if theirs.keys() != ours.keys():
            raise UsageError(
                f"no state of a session: it has {', '.join(map(str, state)) or 'nothing'}; allowed "
                "is what session.state_dict() returned"
            )
        differs = [
            f"{name} {theirs[name]!r}, now {ours[name]!r}"
            for name in ("seed", "followed")
            if theirs[name] != ours[name]
        ]
        recipe = theirs["recipe"]
        differs += [
            f"{name} {recipe.get(name)!r}, now {value!r}"
            for name, value in ours["recipe"].items()
            if recipe.get(name) != value
        ]
        if differs:
            raise UsageError(
                f"the state is of another training ({'; '.join(differs)}); use the recipe, the "
                "seed and the optimizers of that training".replace(
                    "followed ", "number of optimizers "
                )
            )
        self.clear()
        self.started, self.followed = int(state["started"]), list(state["followed"])

    def close(self) -> None:
        """Clear the noise; restore a model whose training never began."""
        if running(self.model) is not self:
            return
        del _RUNNING[self.model]
        self.clear()
        for matrix in self.matrices.values():
            for weight in matrix.weight_parameters():
                unaware.release(weight)
        if self._before is not None:
            self._before.put_back()


class Untrained:
    """A model as it was before a training was set up.

    It remembers which parameters require gradients, and the values of everything but the weights,
    which no set-up changes. (aihwkit keeps how a range was found in a parameter that requires
    gradients and gets none. A context of its tiles, which is a parameter of another class, shows
    weights and cannot be written to.)

    Attributes:
        asks: Parameters, and whether each requires gradients.
        values: Tensors and copies of their values.
    """

    def __init__(self, model: nn.Module) -> None:
        """Remember a model.

        Args:
            model: The model.
        """
        self.asks = [(p, p.requires_grad) for p in model.parameters()]
        tensors = chain(model.parameters(), model.buffers())
        small = (
            t
            for t in tensors
            if (t.ndim < 2 or not t.requires_grad)
            and (type(t) is nn.Parameter or not isinstance(t, nn.Parameter))
        )
        self.values = [(t, t.detach().clone()) for t in small]

    @torch.no_grad()
    def put_back(self) -> None:
        """Put the model back as it was."""
        for parameter, asks in self.asks:
            parameter.requires_grad_(asks)
        for tensor, value in self.values:
            tensor.copy_(value)
