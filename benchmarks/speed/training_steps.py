"""The group of a training step: digital, native, aihwkit's tiles, aihwkit-lightning."""

from __future__ import annotations

from functools import partial

from aimc_bridge.spec import Preset
from benchmarks.speed import sides, targets, works
from benchmarks.speed.groups import (
    CPP_LEFT_OUT,
    NO_CPP,
    NO_LIGHTNING,
    Collected,
    Group,
    Setting,
    done,
    extrapolated_from,
    scaled_from,
)
from benchmarks.speed.timing import Side
from benchmarks.speed.works import Work

_PCM = "PCM_NOISE injected as `train` does"
_GAUSSIAN = "Gaussian weight noise instead of PCM_NOISE, no drop-connect"


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
                    note=f"{CPP_LEFT_OUT}; {_PCM}; {extrapolated_from(few, work)}",
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
        note = f"left out: {', '.join(sides.DROPPED_IN_TRAINING)}; {scaled_from(part, work)}"
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
        collected.skip(NO_LIGHTNING)
