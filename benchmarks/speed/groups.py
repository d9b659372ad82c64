"""Groups: the sides of a work, measured together and alternated in one process."""

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
    """The settings of a measurement.

    Attributes:
        sizes: The sizes of models and inputs.
        device: The device of models and inputs.
        aihwkit: Whether aihwkit and aihwkit-lightning are measured besides the native engine.
        goals: Sizes of whole studies that differ from `goals.SIZES`.
        times: Times of sweeps.
        say: Called with a line of text as the measurement goes on.
    """

    sizes: Sizes
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    aihwkit: bool = True
    goals: dict[str, int] = field(default_factory=dict)
    times: tuple[str | float, ...] = TIMES
    say: Say = lambda text: None

    @property
    def on_gpu(self) -> bool:
        """Return whether the device is a GPU."""
        return self.device.type == "cuda"

    @property
    def cpp(self) -> bool:
        """Return whether aihwkit's C++ tile is measured; its wheels have no CUDA."""
        return self.aihwkit and not self.on_gpu

    @property
    def draw_on(self) -> str:
        """Return where native chips are drawn; see `sides.draw_on`."""
        return sides.draw_on(self.device)


@dataclass
class Group:
    """The sides of a work with all their repeats.

    Attributes:
        name: The name of the group, such as "wrn-forward".
        work: What the work is, in words.
        unit: What the work consists of, in the plural: "images".
        size: Units of the whole work; sides of other sizes are scaled to it.
        sides: The measured sides.
        skipped: One line per missing side that says why it is missing.
        about: Other facts that the numbers depend on.
    """

    name: str
    work: str
    unit: str
    size: float
    sides: list[Measured]
    skipped: list[str] = field(default_factory=list)
    about: dict[str, Any] = field(default_factory=dict)

    def of(self, name: str) -> list[Measured]:
        """Return the runs of a side: one, or several of different sizes.

        Args:
            name: The name of the side.
        """
        return [side for side in self.sides if side.name == name]


class Collected:
    """The sides of a group; for a side that cannot be built, a line that says why.

    Attributes:
        found: The sides.
        skipped: The lines.
        say: Called with each line too.
    """

    def __init__(self, say: Say) -> None:
        """Start with no sides.

        Args:
            say: Called with a line of text for each side that is skipped.
        """
        self.found: list[Side] = []
        self.skipped: list[str] = []
        self.say = say

    def add(self, name: str, build: Callable[[], Iterable[Side] | Side | None]) -> None:
        """Build a side and add it, or note why it cannot be built.

        Errors of the native engine and of the digital model are raised: these must run.

        Args:
            name: The name of the side.
            build: Returns the side, several sides, or None for no side.
        """
        try:
            built = build()
        except (AimcError, RuntimeError, ImportError, AttributeError, TypeError) as problem:
            if name.startswith("native") or name == targets.DIGITAL:
                raise  # these two must run
            built = None
            text = " ".join(str(problem).split()) or type(problem).__name__
            self.skip(f"{name}: {text[:200]}")
        if isinstance(built, Side):
            self.found.append(built)
        elif built is not None:
            self.found += built

    def skip(self, line: str) -> None:
        """Note that a side is missing.

        Args:
            line: The name of the side, and why it is missing.
        """
        self.skipped.append(line)
        self.say(f"  skipped {line}")


CPP_LEFT_OUT = "nothing left out"
_TORCH_LEFT_OUT = f"left out: {', '.join(sides.DROPPED)}"
NO_CPP = f"{targets.CPP}: its wheels run on the CPU only"
_NO_LIGHTNING = f"{targets.LIGHTNING}: not installed (pip install aihwkit-lightning)"
_PCM = "PCM_NOISE injected as `train` does"
_GAUSSIAN = "Gaussian weight noise instead of PCM_NOISE, no drop-connect"


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
    """Add the C++ tile at two small sizes, from which the whole is extrapolated."""
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
    """Measure the collected sides, alternated, as a group.

    Args:
        name: The name of the group.
        work: What the work is, in words.
        unit: What the work consists of.
        size: Units of the whole work.
        found: The collected sides.
        setting: How to measure.
        **about: Other facts that the numbers depend on.
    """
    measured = alternate(found.found, setting.sizes.rounds, setting.device, setting.say)
    return Group(name, work, unit, size, measured, found.skipped, about)


def wrn_forward(setting: Setting) -> Group:
    """Measure a forward pass of the WRN: digital, native, aihwkit.

    The native engine runs with more and with less physics.

    Args:
        setting: How to measure.
    """
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
    notes = {
        targets.LIGHTNING: "its layers in training mode, the only one in which they have noise",
        targets.LIGHTNING_CONVERTERS: "in evaluation mode",
    }

    def lightning(name: str) -> Side | None:
        noisy = name == targets.LIGHTNING
        model = sides.lightning(work, noisy=noisy, device=setting.device)
        more = {"note": notes[name], "most": slow}
        return _forward_side(name, model, work, work.size, setting, **more)

    for name in notes:
        collected.add(name, partial(lightning, name))


def wrn_training(setting: Setting) -> Group:
    """Measure a training step of the WRN: digital, native, aihwkit.

    Args:
        setting: How to measure.
    """
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
        step = sides.Step(sides.lightning(work, training=True, device=device), work, n, device)
        note = "DAC/ADC, output noise, Gaussian weight noise"
        return Side(targets.LIGHTNING, step, size=n, note=note, **slow)  # type: ignore[arg-type]

    def gaussian() -> Side:
        spec = sides.ALL.training[work.recipe].change(
            why="speed: the noise that aihwkit-lightning has",
            noise_type="gaussian",
            drop_connect=0.0,
        )
        step = sides.analog_step(work, sides.OUTPUT, n, device=device, spec=spec)
        return Side(targets.GAUSSIAN, step, size=n, note=_GAUSSIAN, memory=False)

    collected.add(targets.TORCH, torch_tile)
    if sides.lightning_installed():
        collected.add(targets.GAUSSIAN, gaussian)
        collected.add(targets.LIGHTNING, lightning)
    else:
        collected.skip(_NO_LIGHTNING)


def _small_forward(setting: Setting, name: str, work: Work, text: str) -> Group:
    work = work.to(setting.device)
    collected = Collected(setting.say)
    collected.add(
        targets.DIGITAL,
        lambda: _forward_side(targets.DIGITAL, work.model, work, work.size, setting),
    )
    _native_forwards(collected, work, setting, {targets.NATIVE: sides.ALL})
    return done(name, f"{work.name} forward, {text}", work.unit, work.size, collected, setting)


def cnn_forward(setting: Setting) -> Group:
    """Measure a forward pass of a small convolutional network: digital, native.

    Args:
        setting: How to measure.
    """
    batch, side = setting.sizes.cnn_batches[0], setting.sizes.wrn_side
    work = works.cnn(setting.sizes, batch)
    return _small_forward(setting, "cnn-forward", work, f"batch {batch} of {side} x {side}")


def cnn_forward_many(setting: Setting) -> Group:
    """Measure `cnn_forward` with more images per batch.

    Args:
        setting: How to measure.
    """
    batch, side = setting.sizes.cnn_batches[1], setting.sizes.wrn_side
    work = works.cnn(setting.sizes, batch)
    return _small_forward(setting, "cnn-forward-many", work, f"batch {batch} of {side} x {side}")


def mlp_forward(setting: Setting) -> Group:
    """Measure a forward pass of an MLP: digital, native.

    Args:
        setting: How to measure.
    """
    work = works.mlp(setting.sizes)
    return _small_forward(setting, "mlp-forward", work, f"batch {work.size}")


def lstm_forward(setting: Setting) -> Group:
    """Measure a forward pass of the LSTM: digital, native, aihwkit's C++ tile.

    Args:
        setting: How to measure.
    """
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
    """Measure a forward pass of BERT: digital, native, aihwkit on a part of it.

    Args:
        setting: How to measure.
    """
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
    """Add aihwkit's tiles on one layer, scaled by layers and sentences."""
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
    """Return the names that at least one shell pattern matches, in their order.

    Args:
        patterns: Shell patterns.
        names: The names of all groups.

    Raises:
        UsageError: If a pattern matches no name.
    """
    from fnmatch import fnmatchcase

    names, patterns = list(names), list(patterns)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UsageError(f"--only {pattern}: no such group; there are: {', '.join(names)}")
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]
