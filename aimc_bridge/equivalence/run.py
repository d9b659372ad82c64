"""The cross-check as one call: plan, parts, report."""

from __future__ import annotations

import functools
import os
import pickle
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from aimc_bridge.equivalence import contrast, custom, device, layer, plan, task
from aimc_bridge.equivalence.capture import Layer
from aimc_bridge.equivalence.plan import Choice, Cost
from aimc_bridge.equivalence.progress import Bar, Job
from aimc_bridge.equivalence.question import Question, Times
from aimc_bridge.equivalence.report import Part, Report
from aimc_bridge.equivalence.side import AIHWKIT, COMPILED, Setting
from aimc_bridge.equivalence.store import Store
from aimc_bridge.errors import UsageError
from aimc_bridge.rng import derive
from aimc_bridge.spec import Preset
from aimc_bridge.sweeps import Evaluate


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
    task_chips: int | Sequence[int] | None = None,
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
             task_chips  of each side of the task, or (of the first side, of the second): with four
             times as many of a native side, aihwkit's need be five eighths of the equal number.
             trained  `model` after hardware-aware training: converted to the native engine under
             `preset`; its weights, scales and input ranges are compared, those of `model` are not.
             evaluate  `model -> float | dict`, the task level; picklable where there are workers.
             levels  of "device", "layer", "task"; by default all that can be done.
             layers  names or patterns; None: up to two of each kind.    exclude  as in `convert`.
             targets, samples  of devices.
             budget  wall time, such as "20m": the part that it pays for is done, and named.
             compiled  layers and task of the native engine as `native.compiled` runs them.
             device  "cuda": the native engine's layers and task there, convolutions in full float32
             (torch's default on a GPU rounds their inputs to 10 bits); aihwkit stays on the CPU.
             resume  a folder: parts found in it are not done again. Of `evaluate` it knows the name
             and, of a functools.partial, the plain arguments.    workers  processes, for parts and
             for chips of the task.
    Returns: Report: `table`, `passed`, `summary()`, `save(folder)`.
    Raises:  UsageError, ShapeError (inputs that do not fit), ConversionError (no analog layer),
             CapabilityError (aihwkit cannot run the preset), VersionError, DataError (resume).
    """
    asked = Question(preset, against, physics, evaluate, seed, samples, workers, progress)
    asked.ours(compiled, device)
    asked.levels(levels, model, inputs)
    asked.numbers(times, chips, task_chips, targets, budget)
    asked.model(model, trained, inputs, exclude, layers)
    folder = None if resume is None else Path(resume)
    claim = asked.claim(model if trained is None else trained, inputs, exclude, layers)
    return _Check(asked).run(Store(folder, claim))


class _Check:
    """Plans, does the parts and reports."""

    def __init__(self, asked: Question) -> None:
        self.asked = asked

    def run(self, store: Store) -> Report:
        with Bar(self.asked.progress) as bar:
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
                ordered.append(self._task(choice, store, bar, a_task))
        return self._report(ordered, choice)

    def _planned(self, store: Store, bar: Bar) -> tuple[Choice, dict[str, float]]:
        """What will be done, as an interrupted run had planned it, and what each part costs."""
        kept = store.get("plan")
        if kept is not None:
            bar.say("going on with " + str(store.folder))
            return Choice(**kept["choice"]), kept["costs"]
        bar.say("predicting what it costs")
        began = time.monotonic()
        targets = self.asked.targets if "device" in self.asked.chosen else []
        a_target = self._target_cost() if targets else 0.0
        layers = {}
        for one in self.asked.layers:
            setting = self._setting(1)
            cost = self._layer_cost(one, setting)
            chips = self.asked.chips or plan.USUAL_CHIPS
            if (
                self.asked.chips is None
                and self.asked.against is None
                and self.asked.physics is None
            ):
                needed = plan.chips_needed(one, self.asked.preset, setting)
                most = max(plan.USUAL_CHIPS, int(plan.LAYER_SECONDS / cost.a_chip))
                chips = needed if self.asked.budget is not None else min(needed, most)
                if chips < needed or needed == plan.MOST_CHIPS:
                    bar.say(f"{one.name}: {chips} chips may be too few to decide every row")
            layers[one.name] = (one, chips, cost)
        jobs = None
        if "task" in self.asked.chosen:
            cost = self._task_cost()
            sides = self.asked.task_chips
            wanted = sides[1] if sides else self.asked.chips or self._task_needed(cost)
            jobs = (wanted, cost)
        budget = None if self.asked.budget is None else self.asked.budget * self.asked.workers
        spent = (time.monotonic() - began) * self.asked.workers
        choice = plan.choose(budget, spent, targets, self.asked.samples, a_target, layers, jobs)
        if choice.task and self.asked.task_chips:
            first, second = self.asked.task_chips
            if first != second:  # a budget lessens both alike
                choice.first = max(2, choice.task * first // second)
        for note in choice.notes:
            bar.say(note)
        costs = {f"layer/{name}": layers[name][2].of(n) for name, n in choice.layers.items()}
        costs |= {"device": a_target, "task": 0.0 if jobs is None else jobs[1].a_chip}
        store.put("plan", {"choice": choice.to_dict(), "costs": costs})
        return choice, costs

    def _setting(self, chips: int) -> Setting:
        return Setting(
            self.asked.times["layer"],
            chips,
            self.asked.seed,
            ours=self.asked.native_side,
            device=self.asked.where,
        )

    def _target_cost(self) -> float:
        few = min(self.asked.samples, 20_000)
        job = self._device_job(
            1.0 if 1.0 in self.asked.targets else self.asked.targets[-1], few, 0.0
        )
        return plan.timed(job) * self.asked.samples / few

    def _layer_cost(self, one: Layer, setting: Setting) -> Cost:
        if self.asked.against is None and self.asked.physics is None:
            return plan.layer_cost(one, self.asked.preset, setting)
        few = self._setting(4)
        taken = plan.timed(self._layer_job(one, few, 0.0))
        return Cost(0.0, taken / 4)

    def _device_job(self, x: float, samples: int, cost: float) -> Job:
        at = self.asked.times["device"]
        rest = (x, at, samples, self.asked.seed)
        key = f"device/{x:g}"
        if self.asked.against is not None:
            args: tuple[Any, ...] = (self.asked.preset, self.asked.against, *rest)
            return Job(key, cost, 1, contrast.contrast_device_part, args, False)
        if self.asked.physics is not None:
            args = (self.asked.physics, self.asked.preset, *rest)
            return Job(key, cost, 1, custom.custom_device_part, args, False)
        return Job(key, cost, 1, device.device_part, (self.asked.preset, *rest), False)

    def _layer_job(self, one: Layer, setting: Setting, cost: float) -> Job:
        key, steps = f"layer/{one.name}", 2 * setting.chips
        if self.asked.against is not None:
            args: tuple[Any, ...] = (one, self.asked.preset, self.asked.against, setting)
            return Job(key, cost, steps, contrast.contrast_layer_part, args, True)
        if self.asked.physics is not None:
            args = (self.asked.physics, one, self.asked.preset, setting)
            return Job(key, cost, steps, custom.custom_layer_part, args, True)
        return Job(key, cost, steps, layer.layer_part, (one, self.asked.preset, setting), True)

    def _jobs(self, choice: Choice, costs: dict[str, float]) -> list[Job]:
        a_target = costs["device"] * choice.samples / self.asked.samples
        jobs = [self._device_job(x, choice.samples, a_target) for x in choice.targets]
        for one in self.asked.layers:
            if one.name in choice.layers:
                setting = self._setting(choice.layers[one.name])
                jobs.append(self._layer_job(one, setting, costs[f"layer/{one.name}"]))
        return jobs

    def _done(self, jobs: list[Job], bar: Bar) -> Iterator[tuple[str, Part]]:
        if self.asked.workers == 1 or len(jobs) < 2:
            for job in jobs:
                with bar.part(job) as advance:
                    found = job(advance)
                yield found
            return
        from joblib import Parallel, delayed

        costs = {job.key: job.cost for job in jobs}
        jobs = sorted(jobs, key=lambda job: -job.cost)  # the longest first
        pool = Parallel(n_jobs=self.asked.workers, return_as="generator_unordered", batch_size=1)
        for key, part in pool(delayed(job)() for job in jobs):
            bar.done(key, costs[key])
            yield key, part

    # --- task ---

    def _sides(self) -> list[tuple[str, task.Model]]:
        assert self.asked.digital is not None
        if self.asked.against is not None:
            presets = (self.asked.preset, self.asked.against)
            return [
                (
                    f"side {i}",
                    task.Model(
                        self.asked.digital,
                        native,
                        p,
                        self.asked.native_side,
                        self.asked.exclude,
                        self.asked.where,
                    ),
                )
                for i, (native, p) in enumerate(zip(self.asked.native, presets, strict=True))
            ]
        return [
            (
                engine,
                task.Model(
                    self.asked.digital,
                    self.asked.native[0],
                    self.asked.preset,
                    engine,
                    self.asked.exclude,
                    self.asked.where,
                ),
            )
            for engine in (self.asked.native_side, AIHWKIT)
        ]

    def _task_cost(self) -> Cost:
        assert self.asked.evaluate is not None
        (_, first), (_, second) = self._sides()
        chips = self.asked.task_chips or (1, 1)
        return plan.task_cost(
            first.fresh(),
            second.fresh,
            self.asked.batches[0],
            self.asked.evaluate,
            len(self.asked.times["task"]),
            chips[0] / chips[1],
        )

    def _task(self, choice: Choice, store: Store, bar: Bar, cost: float) -> Part:
        values = []
        for (side, model), chips in zip(self._sides(), choice.sides, strict=True):
            keys = {f"task/{side}/{chip}": chip for chip in range(chips)}
            kept = {key: store.get(key) for key in keys}
            todo = {key: chip for key, chip in keys.items() if kept[key] is None}
            for key, one in self._chips(side, model, todo):
                store.put(key, one)
                kept[key] = one
                bar.done(key, cost / 2 * choice.task / chips)
            values.append([[(float(t), str(m), float(v)) for t, m, v in kept[k]] for k in keys])
        reference = "aihwkit" if self.asked.against is None else str(self.asked.against)
        return task.compare(values[0], values[1], reference, type(self.asked.digital).__name__)

    def _chips(
        self, side: str, model: task.Model, todo: dict[str, int]
    ) -> Iterator[tuple[str, list[task.Value]]]:
        """Values of each chip, as they are found."""
        assert self.asked.evaluate is not None
        times, seed = self.asked.times["task"], self.asked.seed
        one = functools.partial(task.keyed, model, self.asked.evaluate, times, seed, side)
        if self.asked.workers == 1 or len(todo) < 2 or not model.travels:
            yield from (one(key, chip) for key, chip in todo.items())
            return
        from joblib import Parallel, delayed

        pool = Parallel(n_jobs=self.asked.workers, return_as="generator_unordered", batch_size=1)
        try:
            yield from pool(delayed(one)(key, chip) for key, chip in todo.items())
        except pickle.PicklingError as cause:
            why = (
                str(cause.__cause__ or cause).strip('"\n').splitlines()[-1]
            )  # a traceback's last line
            raise UsageError(
                f"evaluate cannot be sent to other processes ({why}); give workers=1"
            ) from cause

    def _task_needed(self, cost: Cost) -> int:
        assert self.asked.evaluate is not None
        seed = derive(self.asked.seed, "pilot")
        pilot = [
            self._sides()[0][1].chip(
                self.asked.evaluate, self.asked.times["task"], chip, seed, "pilot"
            )
            for chip in range(task.PILOT)
        ]
        most = task.MOST_CHIPS if self.asked.budget is not None else int(task.SECONDS / cost.a_chip)
        return max(task.CHIPS, min(most, plan.task_chips_needed(pilot)))

    # --- result ---

    def _report(self, parts: list[Part], choice: Choice) -> Report:
        sides = ("native", "aihwkit")
        causes = None
        notes = [f"preset {self.asked.preset}, seed {self.asked.seed}", *choice.notes]
        if self.asked.native_side == COMPILED:
            notes.append("layers and task of the native engine: compiled passes")
        if self.asked.where != "cpu":
            notes.append(f"layers and task of the native engine: on {self.asked.where}, in float32")
        if choice.targets:
            notes.append(f"devices: {choice.samples} samples a cell, twice that for a target of 0")
        notes += [f"layer {name}: {n} chips of each side" for name, n in choice.layers.items()]
        if self.asked.physics is not None:
            sides = (custom.name_of(self.asked.physics), "aihwkit")
        if self.asked.against is not None:
            second = str(self.asked.against)
            sides = (str(self.asked.preset), second)
            causes = contrast.causes(self.asked.preset, self.asked.against)
        if choice.task:
            chips = f"{choice.task} chips of each side"
            if choice.first is not None:
                chips = f"{choice.first} chips of {sides[0]}, {choice.task} of {sides[1]}"
            notes.append(f"task: {chips}")
        report = Report.of(parts, sides, notes, causes)
        if self.asked.against is None:
            return report
        more = (*report.notes, *contrast.because(report.table, sides))
        return Report(report.table, sides, more, causes, report.quantiles)
