"""The cross-check as one call: plan, parts, report."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from aimc_bridge.chip import restore
from aimc_bridge.conversion import convert
from aimc_bridge.equivalence import capture, contrast, custom, device, layer, plan, task
from aimc_bridge.equivalence.capture import Layer
from aimc_bridge.equivalence.plan import Choice, Cost
from aimc_bridge.equivalence.progress import Bar, Job
from aimc_bridge.equivalence.report import LEVELS, Part, Report
from aimc_bridge.equivalence.side import AIHWKIT, COMPILED, NATIVE, Setting
from aimc_bridge.equivalence.store import Store, digest
from aimc_bridge.errors import UsageError
from aimc_bridge.registry import engine as find_engine
from aimc_bridge.registry import record_of
from aimc_bridge.rng import derive
from aimc_bridge.spec import Preset
from aimc_bridge.sweeps import Evaluate
from aimc_bridge.times import seconds

Times = Iterable[str | float] | str | float


def crosscheck(
    model: nn.Module | None,
    preset: Preset,
    inputs: Any = None,
    times: Times | None = None,
    chips: int | None = None,
    *,
    against: Preset | None = None,
    physics: object | None = None,
    trained: nn.Module | None = None,
    evaluate: Evaluate | None = None,
    task_chips: int | None = None,
    seed: int = 0,
    levels: Sequence[str] | str | None = None,
    layers: Sequence[str] | str | None = None,
    exclude: Sequence[str] | str = (),
    targets: Sequence[float] = device.TARGETS,
    samples: int = device.SAMPLES,
    budget: str | float | None = None,
    compiled: bool = False,
    device: str = "cpu",
    resume: str | os.PathLike[str] | None = None,
    workers: int = 1,
    progress: bool = True,
) -> Report:
    """Where two sides agree within margins stated in advance, and where they do not.

    By default the native engine against aihwkit under one preset. `against`: two presets on the
    native engine. `physics`: a user's object with `program(weights, generator) -> state` and
    `read(state, t_inference, generator) -> weights` against aihwkit's device laws, weights
    `[out, in]` scaled to [-1, 1].

    Args:    model  a digital model; None where only devices are compared.
             inputs  one batch (a tensor, a tuple of arguments, a dict) or a list of them: they set
             the input ranges and are what the layers see.
             times  seconds, or texts such as "1h"; by default those of each level.
             chips  of each side, of every layer and of the task (where task_chips does not say
             other); None: as many as a pilot finds to be needed, of the task 10 at least and what
             takes 10 minutes at most.
             trained  `model` after hardware-aware training: converted to the native engine under
             `preset`; its weights, scales and input ranges are compared, those of `model` are not.
             evaluate  `model -> float | dict`, the task level.
             levels  of "device", "layer", "task"; by default all that can be done.
             layers  names or patterns; None: up to two of each kind.    exclude  as in `convert`.
             targets, samples  of devices.
             budget  wall time, such as "20m": the part that it pays for is done, and named.
             compiled  layers and task of the native engine as `native.compiled` runs them.
             device  "cuda": the native engine's layers and task there, convolutions in full float32
             (torch's default on a GPU rounds their inputs to 10 bits); aihwkit stays on the CPU.
             resume  a folder: parts found in it are not done again.    workers  processes.
    Returns: Report: `table`, `passed`, `summary()`, `save(folder)`.
    Raises:  UsageError, ShapeError (inputs that do not fit), ConversionError (no analog layer),
             CapabilityError (aihwkit cannot run the preset), VersionError, DataError (resume).
    """
    check = _Check(preset, against, physics, evaluate, seed, samples, workers, progress)
    check.ours(compiled, device)
    check.levels(levels, model, inputs)
    check.numbers(times, chips, task_chips, targets, budget)
    check.model(model, trained, inputs, exclude, layers)
    folder = None if resume is None else Path(resume)
    claim = check.claim(model if trained is None else trained, inputs, exclude, layers)
    store = Store(folder, claim)
    return check.run(store)


class _Check:
    def __init__(
        self,
        preset: Preset,
        against: Preset | None,
        physics: object | None,
        evaluate: Evaluate | None,
        seed: int,
        samples: int,
        workers: int,
        progress: bool,
    ) -> None:
        for name, given in (("preset", preset), ("against", against)):
            if given is not None and not isinstance(given, Preset):
                raise UsageError(
                    f"{name} is {given!r}; allowed: a Preset, such as presets.get('rasch2023')"
                )
        if against is not None and physics is not None:
            raise UsageError("against and physics are two questions; give one of them")
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise UsageError(f"seed={seed!r}; allowed: an integer")
        if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
            raise UsageError(f"workers={workers!r}; allowed: an integer >= 1")
        self.preset, self.against, self.evaluate = preset, against, evaluate
        self.physics = None if physics is None else custom.checked(physics)
        self.seed, self.samples, self.workers, self.progress = seed, samples, workers, progress
        if against is None:
            cpu = torch.device("cpu")
            find_engine("aihwkit").check(preset, cpu, torch.float32)

    # --- what is asked ---

    def ours(self, compiled: bool, where: str = "cpu") -> None:
        if not isinstance(compiled, bool):
            raise UsageError(f"compiled={compiled!r}; allowed: True or False")
        if compiled and self.physics is not None:
            raise UsageError("compiled is of the native engine; physics is compared without it")
        self.native_side = COMPILED if compiled else NATIVE
        if where not in ("cpu", "cuda"):
            raise UsageError(f"device={where!r}; allowed: 'cpu', 'cuda'")
        if where == "cuda" and not torch.cuda.is_available():
            raise UsageError("device='cuda': torch sees no CUDA device here; leave it at 'cpu'")
        if where != "cpu" and self.physics is not None:
            raise UsageError("device is of the native engine; physics is compared on the CPU")
        self.where = where

    def levels(self, levels: Sequence[str] | str | None, model: Any, inputs: Any) -> None:
        if levels is None:
            chosen = ["device"] + (["layer"] if model is not None else [])
            chosen += ["task"] if self.evaluate is not None and self.physics is None else []
        else:
            chosen = [levels] if isinstance(levels, str) else list(levels)
        unknown = [name for name in chosen if name not in LEVELS]
        if unknown or not chosen:
            raise UsageError(f"levels={levels!r}; allowed: some of {', '.join(LEVELS)}")
        if "task" in chosen and self.physics is not None:
            raise UsageError(
                "physics has no task level: it holds weights only; levels=('device', 'layer')"
            )
        if "task" in chosen and self.evaluate is None:
            raise UsageError("the task level needs evaluate=: model -> a number, or a dict of them")
        if model is None and chosen != ["device"]:
            raise UsageError(f"levels {', '.join(chosen)} need a model; without: levels='device'")
        if model is not None and inputs is None and chosen != ["device"]:
            raise UsageError("a model needs inputs: one batch as it takes them, or a list of those")
        self.chosen = [name for name in LEVELS if name in chosen]

    def numbers(
        self,
        times: Times | None,
        chips: int | None,
        task_chips: int | None,
        targets: Sequence[float],
        budget: str | float | None,
    ) -> None:
        usual: dict[str, Sequence[str]] = {
            "device": device.TIMES,
            "layer": layer.TIMES,
            "task": task.TIMES,
        }
        self.times: dict[str, tuple[float, ...]] = {}
        for level in LEVELS:
            given = usual[level] if times is None else times
            listed = (given,) if isinstance(given, str | float | int) else tuple(given)
            self.times[level] = tuple(sorted({seconds(t) for t in listed}))
        if not self.times["device"]:
            raise UsageError("no times; allowed: one or more, such as times=('1s', '1y')")
        for name, count, fewest in (("chips", chips, 4), ("task_chips", task_chips, 2)):
            if count is None:
                continue
            if isinstance(count, bool) or not isinstance(count, int) or count < fewest:
                raise UsageError(
                    f"{name}={count!r}; allowed: an integer >= {fewest}, or None for as many as "
                    "are needed"
                )
        self.chips, self.task_chips = chips, task_chips
        self.targets = list(dict.fromkeys(float(x) for x in targets))
        device.check(self.targets, self.samples)
        if "device" in self.chosen and not self.targets:
            raise UsageError("targets is empty; allowed: one or more numbers in [0, 1]")
        self.budget = None if budget is None else seconds(budget)

    def model(
        self,
        model: nn.Module | None,
        trained: nn.Module | None,
        inputs: Any,
        exclude: Sequence[str] | str,
        wanted: Sequence[str] | str | None,
    ) -> None:
        self.layers: list[Layer] = []
        self.digital, self.exclude = model, exclude
        if trained is not None and (model is None or self.against is not None):
            raise UsageError(
                "trained is compared on two engines under one preset: give the digital model that "
                "it was converted from, and no `against`"
            )
        if model is None or self.chosen == ["device"]:
            return
        self.batches = capture.batches_of(inputs)
        presets = [self.preset] + ([self.against] if self.against is not None else [])
        self.native = []
        for preset in presets:
            if trained is not None:
                native = self._copy_of(trained)
            else:
                native = convert(model, preset, exclude=exclude).eval()
                capture.calibrated(native, self.batches)
            self.native.append(native)
        if self.against is None:
            parameter = next(model.parameters())
            find_engine("aihwkit").check(self.preset, parameter.device, parameter.dtype)
        if "layer" in self.chosen:
            # input ranges of the preset that has some
            ranged = [p.crossbar.input_range != "none" for p in presets]
            base = self.native[ranged.index(True) if any(ranged) else 0]
            every = capture.layers_of(base, model, self.batches)
            names = [wanted] if isinstance(wanted, str) else wanted
            self.layers = capture.chosen(every, names)

    def _copy_of(self, trained: nn.Module) -> nn.Module:
        """The trained model, clean.

        Raises:  UsageError where it is not of the native engine or of another preset.
        """
        record = record_of(trained)
        if record.engine != "native" or record.preset != self.preset:
            raise UsageError(
                f"trained is on engine {record.engine!r}, preset {record.preset}; allowed: "
                f"converted to the native engine under {self.preset}"
            )
        native = copy.deepcopy(trained).eval()
        restore(native)
        return native

    def claim(
        self, model: nn.Module | None, inputs: Any, exclude: Any, layers: Any
    ) -> dict[str, Any]:
        """What must be the same for a cross-check to go on."""
        state = {} if model is None else model.state_dict()
        return {
            "preset": self.preset.to_dict(),
            "against": None if self.against is None else self.against.to_dict(),
            "physics": None if self.physics is None else custom.name_of(self.physics),
            "model": digest(state),
            "inputs": digest(inputs),
            "levels": self.chosen,
            "times": {name: list(at) for name, at in self.times.items()},
            "targets": self.targets,
            "samples": self.samples,
            "chips": [self.chips, self.task_chips],
            "seed": self.seed,
            "native side": [self.native_side, self.where],
            "exclude": [exclude] if isinstance(exclude, str) else list(exclude),
            "layers": layers if layers is None or isinstance(layers, str) else list(layers),
            "budget": self.budget,
        }

    # --- doing it ---

    def run(self, store: Store) -> Report:
        with Bar(self.progress) as bar:
            choice, costs = self._planned(store, bar)
            jobs = self._jobs(choice, costs)
            parts: dict[str, Part] = {}
            for job in jobs:
                if (kept := store.get(job.key)) is not None:
                    parts[job.key] = Part.from_dict(kept)
            todo = [job for job in jobs if job.key not in parts]
            a_task = costs["task"]
            total = sum(job.cost for job in jobs) + choice.task * a_task
            bar.start(total, sum(job.cost for job in jobs if job.key in parts))
            for key, part in self._done(todo, bar):
                store.put(key, part.to_dict())
                parts[key] = part
            ordered = [parts[job.key] for job in jobs]
            if choice.task:
                ordered.append(self._task(choice.task, store, bar, a_task))
        return self._report(ordered, choice)

    def _planned(self, store: Store, bar: Bar) -> tuple[Choice, dict[str, float]]:
        """What will be done, as an interrupted run had planned it, and what each part costs."""
        kept = store.get("plan")
        if kept is not None:
            bar.say("going on with " + str(store.folder))
            return Choice(**kept["choice"]), kept["costs"]
        bar.say("predicting what it costs")
        began = time.monotonic()
        targets = self.targets if "device" in self.chosen else []
        a_target = self._target_cost() if targets else 0.0
        layers = {}
        for one in self.layers:
            setting = self._setting(1)
            cost = self._layer_cost(one, setting)
            chips = self.chips or plan.USUAL_CHIPS
            if self.chips is None and self.against is None and self.physics is None:
                needed = plan.chips_needed(one, self.preset, setting)
                most = max(plan.USUAL_CHIPS, int(plan.LAYER_SECONDS / cost.a_chip))
                chips = needed if self.budget is not None else min(needed, most)
                if chips < needed or needed == plan.MOST_CHIPS:
                    bar.say(f"{one.name}: {chips} chips may be too few to decide every row")
            layers[one.name] = (one, chips, cost)
        jobs = None
        if "task" in self.chosen:
            cost = self._task_cost()
            jobs = (self.task_chips or self.chips or self._task_needed(cost), cost)
        budget = None if self.budget is None else self.budget * self.workers
        spent = (time.monotonic() - began) * self.workers
        choice = plan.choose(budget, spent, targets, self.samples, a_target, layers, jobs)
        for note in choice.notes:
            bar.say(note)
        costs = {f"layer/{name}": layers[name][2].of(n) for name, n in choice.layers.items()}
        costs |= {"device": a_target, "task": 0.0 if jobs is None else jobs[1].a_chip}
        store.put("plan", {"choice": choice.to_dict(), "costs": costs})
        return choice, costs

    def _setting(self, chips: int) -> Setting:
        return Setting(
            self.times["layer"], chips, self.seed, ours=self.native_side, device=self.where
        )

    def _target_cost(self) -> float:
        few = min(self.samples, 20_000)
        job = self._device_job(1.0 if 1.0 in self.targets else self.targets[-1], few, 0.0)
        return plan.timed(job) * self.samples / few

    def _layer_cost(self, one: Layer, setting: Setting) -> Cost:
        if self.against is None and self.physics is None:
            return plan.layer_cost(one, self.preset, setting)
        few = self._setting(4)
        taken = plan.timed(self._layer_job(one, few, 0.0))
        return Cost(0.0, taken / 4)

    def _device_job(self, x: float, samples: int, cost: float) -> Job:
        at = self.times["device"]
        rest = (x, at, samples, self.seed)
        key = f"device/{x:g}"
        if self.against is not None:
            args: tuple[Any, ...] = (self.preset, self.against, *rest)
            return Job(key, cost, 1, contrast.contrast_device_part, args, False)
        if self.physics is not None:
            args = (self.physics, self.preset, *rest)
            return Job(key, cost, 1, custom.custom_device_part, args, False)
        return Job(key, cost, 1, device.device_part, (self.preset, *rest), False)

    def _layer_job(self, one: Layer, setting: Setting, cost: float) -> Job:
        key, steps = f"layer/{one.name}", 2 * setting.chips
        if self.against is not None:
            args: tuple[Any, ...] = (one, self.preset, self.against, setting)
            return Job(key, cost, steps, contrast.contrast_layer_part, args, True)
        if self.physics is not None:
            args = (self.physics, one, self.preset, setting)
            return Job(key, cost, steps, custom.custom_layer_part, args, True)
        return Job(key, cost, steps, layer.layer_part, (one, self.preset, setting), True)

    def _jobs(self, choice: Choice, costs: dict[str, float]) -> list[Job]:
        a_target = costs["device"] * choice.samples / self.samples
        jobs = [self._device_job(x, choice.samples, a_target) for x in choice.targets]
        for one in self.layers:
            if one.name in choice.layers:
                setting = self._setting(choice.layers[one.name])
                jobs.append(self._layer_job(one, setting, costs[f"layer/{one.name}"]))
        return jobs

    def _done(self, jobs: list[Job], bar: Bar) -> Iterator[tuple[str, Part]]:
        if self.workers == 1 or len(jobs) < 2:
            for job in jobs:
                with bar.part(job) as advance:
                    found = job(advance)
                yield found
            return
        from joblib import Parallel, delayed

        costs = {job.key: job.cost for job in jobs}
        jobs = sorted(jobs, key=lambda job: -job.cost)  # the longest first
        pool = Parallel(n_jobs=self.workers, return_as="generator_unordered", batch_size=1)
        for key, part in pool(delayed(job)() for job in jobs):
            bar.done(key, costs[key])
            yield key, part

    # --- task ---

    def _sides(self) -> list[tuple[str, task.Model]]:
        assert self.digital is not None
        if self.against is not None:
            presets = (self.preset, self.against)
            return [
                (
                    f"side {i}",
                    task.Model(self.digital, native, p, self.native_side, self.exclude, self.where),
                )
                for i, (native, p) in enumerate(zip(self.native, presets, strict=True))
            ]
        return [
            (
                engine,
                task.Model(
                    self.digital, self.native[0], self.preset, engine, self.exclude, self.where
                ),
            )
            for engine in (self.native_side, AIHWKIT)
        ]

    def _task_cost(self) -> Cost:
        assert self.evaluate is not None
        (_, first), (_, second) = self._sides()
        return plan.task_cost(
            first.fresh(), second.fresh, self.batches[0], self.evaluate, len(self.times["task"])
        )

    def _task(self, chips: int, store: Store, bar: Bar, cost: float) -> Part:
        assert self.evaluate is not None
        values: list[list[list[task.Value]]] = []
        for side, model in self._sides():
            mine = []
            for chip in range(chips):
                key = f"task/{side}/{chip}"
                kept = store.get(key)
                if kept is None:
                    kept = model.chip(self.evaluate, self.times["task"], chip, self.seed, side)
                    store.put(key, kept)
                mine.append([(float(t), str(m), float(v)) for t, m, v in kept])
                bar.done(key, cost / 2)
            values.append(mine)
        reference = "aihwkit" if self.against is None else str(self.against)
        return task.compare(values[0], values[1], reference, type(self.digital).__name__)

    def _task_needed(self, cost: Cost) -> int:
        assert self.evaluate is not None
        seed = derive(self.seed, "pilot")
        pilot = [
            self._sides()[0][1].chip(self.evaluate, self.times["task"], chip, seed, "pilot")
            for chip in range(task.PILOT)
        ]
        most = task.MOST_CHIPS if self.budget is not None else int(task.SECONDS / cost.a_chip)
        return max(task.CHIPS, min(most, plan.task_chips_needed(pilot)))

    # --- result ---

    def _report(self, parts: list[Part], choice: Choice) -> Report:
        sides = ("native", "aihwkit")
        causes = None
        notes = [f"preset {self.preset}, seed {self.seed}", *choice.notes]
        if self.native_side == COMPILED:
            notes.append("layers and task of the native engine: compiled passes")
        if self.where != "cpu":
            notes.append(f"layers and task of the native engine: on {self.where}, in float32")
        if choice.targets:
            notes.append(f"devices: {choice.samples} samples a cell, twice that for a target of 0")
        notes += [f"layer {name}: {n} chips of each side" for name, n in choice.layers.items()]
        if choice.task:
            notes.append(f"task: {choice.task} chips of each side")
        if self.physics is not None:
            sides = (custom.name_of(self.physics), "aihwkit")
        if self.against is not None:
            second = str(self.against)
            sides = (str(self.preset), second)
            causes = contrast.causes(self.preset, self.against)
        report = Report.of(parts, sides, notes, causes)
        if self.against is None:
            return report
        more = (*report.notes, *contrast.because(report.table, sides))
        return Report(report.table, sides, more, causes, report.quantiles)
