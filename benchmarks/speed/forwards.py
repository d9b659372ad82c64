"""Groups of forward passes: digital, native, aihwkit's tiles, aihwkit-lightning."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

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

_TORCH_LEFT_OUT = f"left out: {', '.join(sides.DROPPED)}"


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
                note=f"{CPP_LEFT_OUT}; {extrapolated_from(few, work)}",
                most=setting.sizes.slow_rounds,
                warm=int(n == few[0]),
                memory=False,
            )
            for n in few
        ]

    collected.add(targets.CPP, build)


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
        collected.skip(NO_LIGHTNING)
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
    return _cnn_forward(setting, "cnn-forward", setting.sizes.cnn_batches[0])


def cnn_forward_many(setting: Setting) -> Group:
    """Measure `cnn_forward` with more images per batch.

    Args:
        setting: How to measure.
    """
    return _cnn_forward(setting, "cnn-forward-many", setting.sizes.cnn_batches[1])


def _cnn_forward(setting: Setting, name: str, batch: int) -> Group:
    """Measure a forward pass of the convolutional network with a batch of images."""
    side = setting.sizes.wrn_side
    work = works.cnn(setting.sizes, batch)
    return _small_forward(setting, name, work, f"batch {batch} of {side} x {side}")


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
            note=f"{CPP_LEFT_OUT}; {layers}, {scaled_from(1, work)}",
            most=sizes.slow_rounds,
            memory=False,
        )

    collected.add(targets.TORCH, torch_tile)
    if setting.cpp:
        collected.add(targets.CPP, cpp)
    else:
        collected.skip(NO_CPP)
