"""What is measured together: sides of one work, alternated in one process."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from aimc_bridge.errors import AimcError, UsageError
from aimc_bridge.spec import Preset
from benchmarks.speed import sides, targets, works
from benchmarks.speed.timing import Measured, Say, Side, alternate
from benchmarks.speed.works import Sizes, Work

TIMES = ("1s", "1h", "1d", "1y", "1min", "1w", "1month", "10y")
"""Times of sweeps; a sweep over n times takes the first n."""


@dataclass
class Setting:
    """How to measure: sizes, device, which engines besides ours, times, where to tell of it."""

    sizes: Sizes
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    aihwkit: bool = True
    goals: dict[str, int] = field(default_factory=dict)
    times: tuple[str | float, ...] = TIMES
    say: Say = lambda text: None

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    @property
    def cpp(self) -> bool:
        """Whether aihwkit's C++ tile is measured: its wheels have no CUDA."""
        return self.aihwkit and not self.on_gpu

    @property
    def draw_on(self) -> str:
        return sides.draw_on(self.device)


@dataclass
class Group:
    """The sides of a work with all their repeats.

    size      of the whole work, in `unit`s; what sides of other sizes are scaled to
    skipped   why a side is missing, a line each
    about     other facts that the numbers depend on
    """

    name: str
    work: str
    unit: str
    size: float
    sides: list[Measured]
    skipped: list[str] = field(default_factory=list)
    about: dict[str, Any] = field(default_factory=dict)

    def of(self, name: str) -> list[Measured]:
        """The runs of a side: one, or several of different sizes."""
        return [side for side in self.sides if side.name == name]


class Collected:
    """Collects sides; one that cannot be built becomes a line that says why."""

    def __init__(self, say: Say) -> None:
        self.found: list[Side] = []
        self.skipped: list[str] = []
        self.say = say

    def add(self, name: str, build: Callable[[], Iterable[Side] | Side | None]) -> None:
        try:
            built = build()
        except (AimcError, RuntimeError, ImportError, AttributeError, TypeError) as problem:
            if name.startswith("native") or name == targets.DIGITAL:
                raise  # ours must run
            built = None
            text = " ".join(str(problem).split()) or type(problem).__name__
            self.skip(f"{name}: {text[:200]}")
        if isinstance(built, Side):
            self.found.append(built)
        elif built is not None:
            self.found += built

    def skip(self, line: str) -> None:
        self.skipped.append(line)
        self.say(f"  skipped {line}")


CPP_LEFT_OUT = "nothing left out"
_TORCH_LEFT_OUT = f"left out: {', '.join(sides.DROPPED)}"
NO_CPP = f"{targets.CPP}: its wheels run on the CPU only"
_NO_LIGHTNING = f"{targets.LIGHTNING}: not installed (pip install aihwkit-lightning)"
_PCM = "PCM_NOISE injected as `train` does"


def _of(n: int, work: Work) -> str:
    return f"{n} of {work.size} {work.unit} a run, scaled"


def _line(few: tuple[int, int], work: Work) -> str:
    return f"{few[0]} and {few[1]} of {work.size} {work.unit} a run, extrapolated along a line"


def _forward_side(
    name: str, model: torch.nn.Module | None, work: Work, n: int, setting: Setting, **more: Any
) -> Side | None:
    if model is None:
        return None
    return Side(name, sides.forward(model, work, n, setting.device), size=n, **more)


def _native_forwards(
    collected: Collected, work: Work, setting: Setting, presets: dict[str, Preset]
) -> None:
    def build(name: str, preset: Preset) -> Side | None:
        model = sides.analog(work, preset, device=setting.device)
        return _forward_side(name, model, work, work.size, setting)

    for name, preset in presets.items():
        collected.add(name, partial(build, name, preset))


def _cpp_forwards(collected: Collected, work: Work, setting: Setting, few: tuple[int, int]) -> None:
    """The C++ tile at two small sizes, from which the whole is extrapolated."""
    if not setting.cpp:
        if setting.aihwkit:
            collected.skip(NO_CPP)
        return

    def build() -> list[Side]:
        model = sides.analog(work, sides.ALL, "aihwkit", calibrate_with=few[0])
        return [
            Side(
                targets.CPP,
                sides.forward(model, work, n, setting.device),
                size=n,
                note=f"{CPP_LEFT_OUT}; {_line(few, work)}",
                most=setting.sizes.slow_rounds,
                warm=int(n == few[0]),
                memory=False,
            )
            for n in few
        ]

    collected.add(targets.CPP, build)


def done(
    name: str, work: str, unit: str, size: float, found: Collected, setting: Setting, **about: Any
) -> Group:
    measured = alternate(found.found, setting.sizes.rounds, setting.device, setting.say)
    return Group(name, work, unit, size, measured, found.skipped, about)


def wrn_forward(setting: Setting) -> Group:
    """WRN: digital, native with more and less physics, aihwkit."""
    sizes = setting.sizes
    work = works.wrn(sizes).to(setting.device)
    collected = Collected(setting.say)
    collected.add(
        targets.DIGITAL,
        lambda: _forward_side(targets.DIGITAL, work.model, work, work.size, setting),
    )
    presets = {
        targets.NATIVE: sides.ALL,
        targets.WEIGHTS: sides.WEIGHTS,
        targets.CONVERTERS: sides.CONVERTERS,
        targets.OUTPUT: sides.OUTPUT,
    }
    _native_forwards(collected, work, setting, presets)
    half = sides.halved(sides.analog(work, sides.ALL, device=setting.device))
    collected.add(targets.HALF, lambda: _forward_side(targets.HALF, half, work, work.size, setting))
    _torch_and_lightning(collected, work, setting)
    _cpp_forwards(collected, work, setting, sizes.few)
    text = f"{work.name} forward, batch {work.size} of {sizes.wrn_side} x {sizes.wrn_side}"
    return done("wrn-forward", text, work.unit, work.size, collected, setting)


def _torch_and_lightning(collected: Collected, work: Work, setting: Setting) -> None:
    if not setting.aihwkit:
        return
    slow = setting.sizes.slow_rounds
    collected.add(
        targets.TORCH,
        lambda: _forward_side(
            targets.TORCH,
            sides.torch_tile(work, training=False, device=setting.device),
            work,
            work.size,
            setting,
            note=f"{_TORCH_LEFT_OUT}; never programmed; aihwkit's own conversion",
            most=slow,
        ),
    )
    if not sides.lightning_installed():
        collected.skip(_NO_LIGHTNING)
        return
    collected.add(
        targets.LIGHTNING,
        lambda: _forward_side(
            targets.LIGHTNING,
            sides.lightning(work, training=False, device=setting.device),
            work,
            work.size,
            setting,
            note="DAC/ADC and output noise only",
            most=slow,
        ),
    )


def wrn_training(setting: Setting) -> Group:
    """A training step of the WRN: digital, native, aihwkit."""
    sizes = setting.sizes
    work = works.wrn(sizes).to(setting.device)
    collected = Collected(setting.say)
    n, device = work.size, setting.device

    def digital() -> Side:
        return Side(targets.DIGITAL, sides.digital_step(work, n, device), size=n)

    collected.add(targets.DIGITAL, digital)

    def native(name: str, preset: Preset) -> Side:
        return Side(name, sides.analog_step(work, preset, n, device=device), size=n, note=_PCM)

    for name, preset in ((targets.NATIVE, sides.ALL), (targets.OUTPUT, sides.OUTPUT)):
        collected.add(name, partial(native, name, preset))
    if setting.aihwkit:
        _stock_steps(collected, work, setting)
    if setting.cpp:
        few = sizes.few
        collected.add(
            targets.CPP,
            lambda: [
                Side(
                    targets.CPP,
                    sides.analog_step(work, sides.ALL, part, "aihwkit", calibrate_with=few[0]),
                    size=part,
                    note=f"{CPP_LEFT_OUT}; {_PCM}; {_line(few, work)}",
                    most=sizes.slow_rounds,
                    warm=int(part == few[0]),
                    memory=False,
                )
                for part in few
            ],
        )
    elif setting.aihwkit:
        collected.skip(NO_CPP)
    text = f"{work.name} training step, batch {n} of {sizes.wrn_side} x {sizes.wrn_side}"
    return done("wrn-training", text, work.unit, n, collected, setting)


def _stock_steps(collected: Collected, work: Work, setting: Setting) -> None:
    n, device = work.size, setting.device
    part = max(1, n // 4)
    slow = {"most": setting.sizes.slow_rounds, "memory": False}

    def torch_tile() -> Side:
        step = sides.Step(sides.torch_tile(work, training=True, device=device), work, part, device)
        note = f"left out: {', '.join(sides.DROPPED_IN_TRAINING)}; {_of(part, work)}"
        return Side(targets.TORCH, step, size=part, note=note, **slow)  # type: ignore[arg-type]

    def lightning() -> Side:
        step = sides.Step(sides.lightning(work, training=True, device=device), work, part, device)
        note = f"DAC/ADC, output noise, Gaussian weight noise; {_of(part, work)}"
        return Side(targets.LIGHTNING, step, size=part, note=note, **slow)  # type: ignore[arg-type]

    collected.add(targets.TORCH, torch_tile)
    if sides.lightning_installed():
        collected.add(targets.LIGHTNING, lightning)
    else:
        collected.skip(_NO_LIGHTNING)


def lstm_forward(setting: Setting) -> Group:
    """The language model: digital, native, aihwkit's C++ tile."""
    sizes = setting.sizes
    work = works.lstm(sizes).to(setting.device)
    collected = Collected(setting.say)
    collected.add(
        targets.DIGITAL,
        lambda: _forward_side(targets.DIGITAL, work.model, work, work.size, setting),
    )
    _native_forwards(collected, work, setting, {targets.NATIVE: sides.ALL})
    if setting.aihwkit:
        collected.skip(f"{targets.TORCH}: aihwkit's conversion leaves nn.LSTM digital")
    _cpp_forwards(collected, work, setting, sizes.few)
    text = (
        f"{work.name} with decoder forward, {sizes.lstm_steps} steps of {sizes.lstm_streams}, "
        f"{sizes.lstm_words:,} words"
    )
    return done("lstm-forward", text, work.unit, work.size, collected, setting)


def bert_forward(setting: Setting) -> Group:
    """BERT: digital, native, aihwkit on a part of it."""
    sizes = setting.sizes
    work = works.bert(sizes).to(setting.device)
    collected = Collected(setting.say)
    collected.add(
        targets.DIGITAL,
        lambda: _forward_side(targets.DIGITAL, work.model, work, work.size, setting),
    )
    presets = {targets.NATIVE: sides.ALL, targets.OUTPUT: sides.OUTPUT}
    _native_forwards(collected, work, setting, presets)
    if setting.aihwkit:
        _bert_parts(collected, work, setting)
    text = f"{work.name} forward, {work.size} sentences of {sizes.bert_tokens} tokens"
    return done("bert-forward", text, work.unit, work.size, collected, setting)


def _bert_parts(collected: Collected, work: Work, setting: Setting) -> None:
    """aihwkit's tiles on one layer, scaled by layers and sentences."""
    sizes = setting.sizes
    part = works.bert(sizes, layers=1).to(setting.device)
    layers = f"1 of {sizes.bert_layers} layers"

    def torch_tile() -> Side:
        model = sides.torch_tile(part, training=False, device=setting.device)
        return Side(
            targets.TORCH,
            sides.forward(model, part, part.size, setting.device),
            size=part.size / sizes.bert_layers,
            note=f"{_TORCH_LEFT_OUT}; {layers}, scaled; aihwkit's own conversion",
            most=sizes.slow_rounds,
            memory=False,
        )

    def cpp() -> Side:
        model = sides.analog(part, sides.ALL, "aihwkit", calibrate_with=1)
        return Side(
            targets.CPP,
            sides.forward(model, part, 1, setting.device),
            size=1 / sizes.bert_layers,
            note=f"{CPP_LEFT_OUT}; {layers}, {_of(1, work)}",
            most=sizes.slow_rounds,
            memory=False,
        )

    collected.add(targets.TORCH, torch_tile)
    if setting.cpp:
        collected.add(targets.CPP, cpp)
    else:
        collected.skip(NO_CPP)


def chosen(patterns: Iterable[str], names: Iterable[str]) -> list[str]:
    """Names that a shell pattern matches, in their order.

    Raises:  UsageError for a pattern that matches none.
    """
    from fnmatch import fnmatchcase

    names, patterns = list(names), list(patterns)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UsageError(f"--only {pattern}: no such group; there are: {', '.join(names)}")
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]
