"""The speed of chips: program, drift, sweep."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from aimc_bridge import drift, program, sweep
from benchmarks.speed import sides, targets, works
from benchmarks.speed.groups import CPP_LEFT_OUT, NO_CPP, Collected, Group, Setting, done
from benchmarks.speed.timing import Side, alternate
from benchmarks.speed.works import Work


def _numbered(model: torch.nn.Module, draw_on: str) -> Callable[[], None]:
    """Return a function that programs another chip at each call.

    Args:
        model: The converted model.
        draw_on: As in `program`.
    """
    seeds = iter(range(1, 10**9))
    return lambda: program(model, next(seeds), draw_on=draw_on)


def _native(setting: Setting) -> list[tuple[str, str, str]]:
    """Return the sides of the native engine: (name, draw_on, note) of each."""
    ways = {targets.NATIVE: setting.draw_on}
    if (eager := sides.draw_on(setting.device, eagerly=True)) != setting.draw_on:
        ways[targets.EAGER] = eager
    return [(name, draw_on, f"draw_on={draw_on!r}") for name, draw_on in ways.items()]


def wrn_chip(setting: Setting) -> Group:
    """Measure programming the WRN and drifting it once.

    Args:
        setting: How to measure.
    """
    return _chip(setting, "wrn-chip", works.wrn(setting.sizes))


def cnn_chip(setting: Setting) -> Group:
    """Measure programming a small convolutional network and drifting it once.

    Args:
        setting: How to measure.
    """
    return _chip(setting, "cnn-chip", works.cnn(setting.sizes, setting.sizes.cnn_batches[0]))


def mlp_chip(setting: Setting) -> Group:
    """Measure programming an MLP and drifting it once.

    Args:
        setting: How to measure.
    """
    return _chip(setting, "mlp-chip", works.mlp(setting.sizes))


def _chip(setting: Setting, name: str, work: Work) -> Group:
    work = work.to(setting.device)
    collected = Collected(setting.say)

    def side(side: str, draw_on: str, **more: Any) -> Side:
        engine, n = ("aihwkit", 1) if side == targets.CPP else ("native", None)
        model = sides.analog(
            work, sides.ALL, engine, device=setting.device, chip=False, calibrate_with=n
        )
        program_next = _numbered(model, draw_on)

        def run() -> None:
            program_next()
            drift(model, sides.HOUR)

        return Side(side, run, **more)

    for native, draw_on, note in _native(setting):
        collected.add(native, partial(side, native, draw_on, note=note))
    if setting.cpp:
        more = {"most": setting.sizes.slow_rounds, "warm": 0, "memory": False}
        collected.add(targets.CPP, lambda: side(targets.CPP, "cpu", note=CPP_LEFT_OUT, **more))
    elif setting.aihwkit:
        collected.skip(NO_CPP)
    return done(name, f"{work.name}, program and one drift", "chips", 1, collected, setting)


def bert_program(setting: Setting) -> Group:
    """Measure programming BERT.

    Args:
        setting: How to measure.
    """
    return _bert_chip(setting, "bert-program", "program", then_drift=False)


def bert_drift(setting: Setting) -> Group:
    """Measure one drift of BERT with measured compensation.

    Args:
        setting: How to measure.
    """
    return _bert_chip(setting, "bert-drift", "one drift", then_drift=True)


def _bert_chip(setting: Setting, name: str, what: str, then_drift: bool) -> Group:
    sizes = setting.sizes
    work = works.bert(sizes).to(setting.device)
    layers, left_out = sizes.part
    part = works.bert(sizes, layers=layers).to(setting.device)
    part.exclude += left_out
    collected = Collected(setting.say)
    weights = {}

    def side(name: str, draw_on: str, of: Work, **more: Any) -> Side:
        engine, n = ("aihwkit", 1) if name == targets.CPP else ("native", None)
        model = sides.analog(
            of, sides.ALL, engine, device=setting.device, chip=False, calibrate_with=n
        )
        count = sides.weights_on_tiles(model)
        weights[engine] = count
        program_next = _numbered(model, draw_on)
        run: Callable[[], object] = program_next
        if then_drift:
            program_next()
            run = lambda: drift(model, sides.HOUR)  # noqa: E731
        return Side(name, run, count, **more)

    for native, draw_on, draw_note in _native(setting):
        collected.add(native, partial(side, native, draw_on, work, note=draw_note))
    if setting.cpp:
        note = f"{CPP_LEFT_OUT}; a part of the model, scaled by its weights"
        more = {"most": max(1, sizes.slow_rounds - 1), "warm": 0, "memory": False}
        collected.add(targets.CPP, lambda: side(targets.CPP, "cpu", part, note=note, **more))
    elif setting.aihwkit:
        collected.skip(NO_CPP)
    text = f"{work.name} ({weights['native']:,} weights), {what}"
    return done(name, text, "weights", weights["native"], collected, setting, weights=weights)


def sweep_of_parts(setting: Setting) -> Group:
    """Measure a sweep of the WRN, and its parts both before and after it.

    Args:
        setting: How to measure.
    """
    sizes = setting.sizes
    chips, count = sizes.sweep
    work = works.wrn(sizes).to(setting.device)
    model = sides.analog(work, sides.ALL, device=setting.device)
    run = sides.forward(model, work, work.size, setting.device)
    batch = works.on(setting.device, work.batch(work.size))

    def evaluate(chip: torch.nn.Module) -> float:
        with torch.no_grad():
            return float(works.outputs(chip, batch).mean())

    def whole() -> None:
        sweep(
            model,
            evaluate,
            setting.times[:count],
            chips,
            draw_on=setting.draw_on,
            progress=False,
        )

    parts = [
        Side("program", _numbered(model, setting.draw_on), memory=False),
        Side("drift", lambda: drift(model, sides.HOUR), memory=False),
        Side("forward", run, memory=False),
    ]
    rounds = sizes.rounds
    before = alternate(parts, rounds, setting.device)
    (all_of_it,) = alternate([Side("sweep", whole, warm=0, memory=False)], 1, setting.device)
    program(model, 0, draw_on=setting.draw_on)
    after = alternate(parts, rounds, setting.device, setting.say)
    for first, second in zip(before, after, strict=True):
        first.seconds += second.seconds
    text = f"{work.name}, sweep of {chips} chips x {count} times, {work.size} images"
    about = {"chips": chips, "times": count}
    return Group("sweep", text, "runs", 1, [all_of_it, *before], about=about)
