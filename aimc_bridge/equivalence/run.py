"""The cross-check as one call: it plans, does the parts and reports."""

from __future__ import annotations

import dataclasses
import functools
import os
import pickle
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import nn

from aimc_bridge.arguments import path
from aimc_bridge.equivalence import comparison, plan, prediction, task
from aimc_bridge.equivalence.capture import Layer
from aimc_bridge.equivalence.device import MARGINS, SAMPLES, TARGETS, check
from aimc_bridge.equivalence.device import TIMES as DEVICE_TIMES
from aimc_bridge.equivalence.measuring import AIHWKIT, COMPILED
from aimc_bridge.equivalence.plan import Choice
from aimc_bridge.equivalence.prediction import Cost
from aimc_bridge.equivalence.question import Question, TaskQuestion, ask
from aimc_bridge.equivalence.question_arguments import Times
from aimc_bridge.equivalence.report import Findings, Report
from aimc_bridge.equivalence.store import Store
from aimc_bridge.equivalence.task import TaskModel, Value
from aimc_bridge.equivalence.two_engines import TwoEngines
from aimc_bridge.equivalence.work import WorkItem, work_with_bar
from aimc_bridge.errors import UsageError
from aimc_bridge.progress import ProgressBar
from aimc_bridge.rng import derive
from aimc_bridge.spec import Preset
from aimc_bridge.sweeps import Evaluate
from aimc_bridge.times import seconds


def crosscheck(
    model: nn.Module | None,
    preset: Preset,
    inputs: Any = None,
    times: Times | None = None,
    chips: int | None = None,
    *,
    against: Preset | None = None,
    physics: object | None = None,
    reference: str = AIHWKIT,
    trained: nn.Module | None = None,
    evaluate: Evaluate | None = None,
    task_chips: int | Sequence[int] | None = None,
    seed: int = 0,
    levels: Sequence[str] | str | None = None,
    layers: Sequence[str] | str | None = None,
    exclude: Sequence[str] | str = (),
    targets: Sequence[float] = TARGETS,
    samples: int = SAMPLES,
    margins: Mapping[str, float] | None = None,
    budget: str | float | None = None,
    compiled: bool = False,
    device: str = "cpu",
    resume: str | os.PathLike[str] | None = None,
    workers: int = 1,
    progress: bool = True,
) -> Report:
    """Compare two sides within margins that are stated in advance.

    The two sides are the native engine and aihwkit under one preset. With `against` they are two
    presets on the native engine. With `physics` they are a user's laws and aihwkit's. With
    `reference="lightning"` they are the native engine and aihwkit-lightning, at the layer level, in
    what both model.

    Args:
        model: A digital model; None if only devices are compared.
        preset: What the model is converted under.
        inputs: One batch (a tensor, a tuple of arguments, a dict) or a list of batches. They set
            the input ranges, and they are what the layers see.
        times: Seconds after programming, or texts such as "1h"; by default those of each level.
        chips: Chips of each side, of every layer, and of the task unless `task_chips` says
            otherwise. None takes as many as a pilot finds to be needed; of the task at least 10,
            and at most what takes 10 minutes.
        against: Another preset.
        physics: An object with `program(weights, generator) -> state` and `read(state, t_inference,
            generator) -> weights`; weights have the shape (out, in) and are scaled to [-1, 1].
        reference: "aihwkit", or "lightning" for aihwkit-lightning, which has converters, noise in
            training and learned input ranges, but neither chips nor times.
        trained: `model` after hardware-aware training, converted to the native engine under
            `preset`. Its weights, scales and input ranges are compared, not those of `model`.
        evaluate: `model -> float | dict`, for the task level; picklable if there are workers.
        task_chips: Chips of each side of the task, or a pair: of the first side, of the second.
            With four times as many of a native side, aihwkit needs five eighths of the equal
            number.
        seed: Decides all random numbers but those that aihwkit draws by itself.
        levels: Some of "device", "layer" and "task"; by default all that can be done.
        layers: Names or shell patterns of layers; None takes up to two of each kind.
        exclude: Modules that stay digital, as in `convert`.
        targets: Target conductances of devices over g_max.
        samples: Devices per cell.
        margins: Margins of the device level as shares, of "mean" or "sd" or both; by default
            0.01 and 0.02. With narrower ones it tells smaller differences apart, and needs more
            samples. A mean may always differ by 5e-4 of g_max.
        budget: Wall time, such as "20m". The part that it pays for is done, and the summary says
            which.
        compiled: Whether layers and task of the native engine run as `native.compiled` runs them.
        device: "cuda" runs the native engine's layers and task there, convolutions in full float32
            (by default torch rounds their inputs to 10 bits on a GPU). aihwkit stays on the CPU.
        resume: A folder for finished parts; those in it are not done again. Of `evaluate` it knows
            the name and, of a functools.partial, the plain arguments.
        workers: Processes, for parts and for chips of the task.
        progress: Whether a progress bar is shown on standard error.

    Returns:
        The report: `table`, `sides`, `passed`, `summary()`, `save(folder)`.

    Raises:
        UsageError: If an argument is not understood, or two of them do not fit.
        ShapeError: If the model does not take the inputs.
        ConversionError: If the model has no analog layer.
        CapabilityError: If the reference cannot run the preset.
        VersionError: If there is no working aihwkit, or no working aihwkit-lightning.
        DataError: If the folder of `resume` holds another cross-check, or is damaged.
    """
    question = ask(
        model,
        preset,
        inputs,
        times=times,
        chips=chips,
        against=against,
        physics=physics,
        reference=reference,
        trained=trained,
        evaluate=evaluate,
        task_chips=task_chips,
        seed=seed,
        levels=levels,
        layers=layers,
        exclude=exclude,
        targets=targets,
        samples=samples,
        margins=margins,
        budget=budget,
        compiled=compiled,
        device=device,
        workers=workers,
        progress=progress,
    )
    store = Store(None if resume is None else path("resume (or None)", resume), question.identity)
    with ProgressBar("planning", None, show=progress, counts=False) as bar:
        return _Check(question, store, bar).run()


def device_level(
    preset: Preset,
    times: Sequence[str | float] = DEVICE_TIMES,
    targets: Sequence[float] = TARGETS,
    samples: int = SAMPLES,
    seed: int = 0,
    progress: Callable[[str], None] = lambda text: None,
) -> Report:
    """Compare devices of the native engine with aihwkit's, and nothing else.

    These are the programmed, drifted and read conductance and the exponent of single devices, and
    weights of both signs, netted and not.

    Args:
        preset: What both engines run.
        times: Seconds after programming, or texts such as "1h".
        targets: Target conductances over g_max.
        samples: Devices per cell.
        seed: Decides all random numbers.
        progress: Called with a line of text per target.

    Returns:
        The report; means are in units of g_max (exponents as they are).

    Raises:
        UsageError: If a target lies outside [0, 1], or if there are fewer than 4 samples.
        VersionError: If there is no working aihwkit.
    """
    check(targets, samples)
    at = sorted({seconds(t) for t in times})
    parts = []
    for x in dict.fromkeys(targets):
        progress(f"{preset.name}: devices with target {x:g}, {samples} a cell")
        parts.append(comparison.device_findings(TwoEngines(preset), x, at, samples, seed))
    return Report.of(parts)


class _Check:
    """One cross-check: it plans, does the work or goes on with it, and reports."""

    def __init__(self, question: Question, store: Store, bar: ProgressBar) -> None:
        """Prepare the cross-check; nothing is done yet.

        Args:
            question: What is task_question.
            store: Where finished parts are kept.
            bar: A progress bar that counts predicted seconds.
        """
        self.question, self.store, self.bar = question, store, bar

    def run(self) -> Report:
        """Do what is not done yet and return the report."""
        choice, costs = self._plan()
        items = self._items(choice, costs)
        findings = {
            item.key: Findings.from_dict(stored)
            for item in items
            if (stored := self.store.get(item.key)) is not None
        }
        total = sum(item.cost for item in items) + choice.task * costs["task"]
        done = sum(item.cost for item in items if item.key in findings)
        self.bar.change(total=max(total, 1e-9), done=done)
        for key, outcome in self._work([item for item in items if item.key not in findings]):
            self.store.put(key, outcome.to_dict())
            findings[key] = outcome
        ordered = [findings[item.key] for item in items]
        if self.question.task is not None and choice.task:
            ordered.append(self._task(self.question.task, choice, costs["task"]))
        return self._report(ordered, choice)

    # --- plan ---

    def _plan(self) -> tuple[Choice, dict[str, float]]:
        """Return what will be done and what each part costs; an interrupted run keeps its plan."""
        question, bar = self.question, self.bar
        stored = self.store.get("plan")
        if stored is not None:
            bar.say(f"going on with {self.store.folder}")
            return Choice(**stored["choice"]), stored["costs"]
        bar.say("predicting what it costs")
        began = time.monotonic()
        targets = list(question.targets)
        a_target = self._target_cost() if targets else 0.0
        layers = {layer.name: self._layer_plan(layer) for layer in question.layers}
        task_plan = None
        if question.task is not None:
            cost = self._task_cost(question.task)
            pair = question.task.chips
            wanted = pair[1] if pair else question.chips or self._task_needed(question.task, cost)
            task_plan = (wanted, cost)
        budget = None if question.budget is None else question.budget * question.workers
        spent = (time.monotonic() - began) * question.workers
        choice = plan.choose(budget, spent, targets, question.samples, a_target, layers, task_plan)
        if question.task is not None and question.task.chips and choice.task:
            first, second = question.task.chips
            if first != second:  # a budget lessens both alike
                choice.first = max(2, choice.task * first // second)
        for note in choice.notes:
            bar.say(note)
        costs = {f"layer/{name}": layers[name][2].of(n) for name, n in choice.layers.items()}
        costs |= {"device": a_target, "task": 0.0 if task_plan is None else task_plan[1].a_chip}
        self.store.put("plan", {"choice": choice.to_dict(), "costs": costs})
        return choice, costs

    def _layer_plan(self, layer: Layer) -> tuple[Layer, int, Cost]:
        """Return the layer, how many chips it should get, and what it costs."""
        question = self.question
        sampling = question.sampling(1)
        cost = question.comparison.layer_cost(layer, sampling)
        if cost is None:
            cost = Cost(0.0, prediction.timed(self._layer_item(layer, 4, 0.0)) / 4)
        if question.chips is not None:
            return layer, question.chips, cost
        needed = question.comparison.chips_needed(layer, sampling)
        if needed is None:
            return layer, prediction.USUAL_CHIPS, cost
        most = max(prediction.USUAL_CHIPS, int(prediction.LAYER_SECONDS / cost.a_chip))
        chips = needed if question.budget is not None else min(needed, most)
        if chips < needed or needed == prediction.MOST_CHIPS:
            self.bar.say(f"{layer.name}: {chips} chips may be too few to decide every row")
        return layer, chips, cost

    def _target_cost(self) -> float:
        """Predict the seconds of one target with all samples from a few samples."""
        few = min(self.question.samples, 20_000)
        targets = self.question.targets
        item = self._device_item(1.0 if 1.0 in targets else targets[-1], few, 0.0)
        return prediction.timed(item) * self.question.samples / few

    def _task_cost(self, task_question: TaskQuestion) -> Cost:
        """Predict what the task costs."""
        first, second = task_question.models
        chips = task_question.chips or (1, 1)
        return prediction.task_cost(
            first.fresh(),
            second.fresh,
            task_question.batch,
            task_question.evaluate,
            len(self.question.times["task"]),
            chips[0] / chips[1],
        )

    def _task_needed(self, task_question: TaskQuestion, cost: Cost) -> int:
        """Return the chips of the task that a pilot finds to be needed and that time allows."""
        seed, times = derive(self.question.seed, "pilot"), self.question.times["task"]
        pilot = [
            task_question.models[0].chip(task_question.evaluate, times, chip, seed, "pilot")
            for chip in range(task.PILOT)
        ]
        most = task.MOST_CHIPS
        if self.question.budget is None:
            most = int(task.SECONDS / cost.a_chip)
        return max(task.CHIPS, min(most, prediction.task_chips_needed(pilot)))

    # --- devices and layers ---

    def _items(self, choice: Choice, costs: dict[str, float]) -> list[WorkItem]:
        """Return the targets and layers of a choice as items of work."""
        a_target = costs["device"] * choice.samples / self.question.samples
        items = [self._device_item(x, choice.samples, a_target) for x in choice.targets]
        for layer in self.question.layers:
            if layer.name in choice.layers:
                cost = costs[f"layer/{layer.name}"]
                items.append(self._layer_item(layer, choice.layers[layer.name], cost))
        return items

    def _device_item(self, x: float, samples: int, cost: float) -> WorkItem:
        """Return the comparison of devices with one target as an item of work."""
        times, seed = self.question.times["device"], self.question.seed
        margins = self.question.margins
        arguments = (self.question.comparison, x, times, samples, seed, margins)
        return WorkItem(f"device/{x:g}", cost, 0, comparison.device_findings, arguments)

    def _layer_item(self, layer: Layer, chips: int, cost: float) -> WorkItem:
        """Return the comparison of one layer as an item of work."""
        arguments = (self.question.comparison, layer, self.question.sampling(chips))
        key = f"layer/{layer.name}"
        return WorkItem(key, cost, 2 * chips, comparison.layer_findings, arguments)

    def _work(self, items: list[WorkItem]) -> Iterator[tuple[str, Findings]]:
        """Do the items here or in other processes; yield what each found, when it is done."""
        if self.question.workers == 1 or len(items) < 2:
            for item in items:
                yield work_with_bar(item, self.bar)
            return
        from joblib import Parallel, delayed

        costs = {item.key: item.cost for item in items}
        items = sorted(items, key=lambda item: -item.cost)  # the longest first
        pool = Parallel(n_jobs=self.question.workers, return_as="generator_unordered", batch_size=1)
        for key, findings in pool(delayed(item)() for item in items):
            self._advance(key, costs[key])
            yield key, findings

    def _advance(self, key: str, cost: float) -> None:
        """Move the bar by predicted seconds and show what they were spent on."""
        self.bar.change(description=key)
        self.bar.advance(cost)

    # --- task ---

    def _task(self, task_question: TaskQuestion, choice: Choice, cost: float) -> Findings:
        """Evaluate the chips that are not there yet, and compare the two sides."""
        values = []
        for model, chips in zip(task_question.models, choice.sides, strict=True):
            keys = {f"task/{model.label}/{chip}": chip for chip in range(chips)}
            of_chip = {key: self.store.get(key) for key in keys}
            todo = {key: chip for key, chip in keys.items() if of_chip[key] is None}
            for key, rows in self._task_chips(model, task_question.evaluate, todo):
                self.store.put(key, rows)
                of_chip[key] = rows
                self._advance(key, cost / 2 * choice.task / chips)
            values.append(
                [[(float(t), str(m), float(v)) for t, m, v in of_chip[key]] for key in keys]
            )
        cell = type(task_question.models[0].digital).__name__
        return task.compare(values[0], values[1], self.question.comparison.reference, cell)

    def _task_chips(
        self, model: TaskModel, evaluate: Evaluate, todo: dict[str, int]
    ) -> Iterator[tuple[str, list[Value]]]:
        """Yield the values of each chip, when they are there."""
        times, seed, workers = (
            self.question.times["task"],
            self.question.seed,
            self.question.workers,
        )
        one = functools.partial(task.keyed_chip, model, evaluate, times, seed)
        if workers == 1 or len(todo) < 2 or not model.travels:
            yield from (one(key, chip) for key, chip in todo.items())
            return
        from joblib import Parallel, delayed

        pool = Parallel(n_jobs=workers, return_as="generator_unordered", batch_size=1)
        try:
            yield from pool(delayed(one)(key, chip) for key, chip in todo.items())
        except pickle.PicklingError as cause:
            traceback = str(cause.__cause__ or cause).strip('"\n')
            raise UsageError(
                f"evaluate cannot be sent to other processes ({traceback.splitlines()[-1]}); "
                "give workers=1"
            ) from cause

    # --- result ---

    def _report(self, parts: list[Findings], choice: Choice) -> Report:
        """Return all parts as one report, with notes of what was done."""
        question, compared = self.question, self.question.comparison
        sides = compared.names
        notes = [f"preset {compared.presets[0]}, seed {question.seed}", *choice.notes]
        if question.native_engine == COMPILED:
            notes.append("layers and task of the native engine: compiled passes")
        if question.device != "cpu":
            notes.append(f"layers and task of the native engine: on {question.device}, in float32")
        if choice.targets:
            note = f"devices: {choice.samples} samples a cell"
            twice = compared.samples_at(0.0, choice.samples) > choice.samples
            notes.append(note + (", twice that for a target of 0" if twice else ""))
            if question.margins != MARGINS:
                at = ", ".join(f"{100 * v:g} % of {k}" for k, v in question.margins.items())
                notes.append(f"margins of devices: {at}")
        notes += [f"layer {name}: {n} chips of each side" for name, n in choice.layers.items()]
        if choice.task:
            chips = f"{choice.task} chips of each side"
            if choice.first is not None:
                chips = f"{choice.first} chips of {sides[0]}, {choice.task} of {sides[1]}"
            notes.append(f"task: {chips}")
        report = Report.of(parts, sides, notes, compared.causes())
        return dataclasses.replace(report, notes=(*report.notes, *compared.notes(report.table)))
