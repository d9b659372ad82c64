"""Chips: program, drift, restore, save, load. One door for both engines."""

from __future__ import annotations

import hashlib
import json
import operator
import os
from typing import SupportsIndex

from torch import Tensor, nn

from aimc_bridge import files
from aimc_bridge.converted import ProgrammedChip, digital_state, engine_of, matrices_of, record_of
from aimc_bridge.engines.base import Matrix
from aimc_bridge.errors import CheckpointError, StateError, UsageError
from aimc_bridge.times import seconds

_FORMAT = 2
_RANGES = "input ranges"


def program(model: nn.Module, seed: int, *, draw_on: str = "cpu") -> None:
    """Program one chip: programming noise and drift exponents of every device.

    The same seed gives the same chip: on every run, and for a layer whatever other layers the model
    has. A chip that the model held before is gone.

    Args:    model  a converted model.    seed  any integer.    draw_on  "cpu": CPU and CUDA share
             the chip; "device": drawn where the weights are, faster, repeatable on that kind of
             device; "compiled": there too, inside passes of torch.compile, several times faster,
             by another generator (the aihwkit engine always draws on the CPU). The first chips
             take seconds, until everything is compiled.
    Raises:  UsageError, CapabilityError (not a converted model; torch.compile does not work).
    """
    seed = integer("seed", seed)
    check_draw_on(model, draw_on)
    record = record_of(model)
    for name, matrix in matrices_of(model).items():
        matrix.program(seed, name, draw_on)
    record.chip = ProgrammedChip(seed, draw_on)


def integer(name: str, value: SupportsIndex, least: int | None = None) -> int:
    """An integer of Python's, numpy's or any other kind; UsageError for anything else."""
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or (least is not None and number < least):
        bound = "" if least is None else f" >= {least}"
        raise UsageError(f"{name}={value!r}; allowed: an integer{bound}")
    return number


def check_draw_on(model: nn.Module, draw_on: str) -> None:
    """Check that the engine of a converted model knows this way to draw a chip.

    Raises:
        UsageError: If it does not.
        CapabilityError: If the model is not a converted one.
    """
    allowed = engine_of(model).draw_on
    if draw_on not in allowed:
        raise UsageError(f"draw_on={draw_on!r}; allowed: {', '.join(map(repr, allowed))}")


def drift(model: nn.Module, t_inference: float | str) -> None:
    """The programmed chip `t_inference` seconds after programming, read noise and compensation
    included. Any order of times: each starts from the programmed state.

    Args:    t_inference  seconds, or a text such as "1h".
    Raises:  StateError where no chip is programmed; UsageError for a time that is not understood;
             CapabilityError for a chip of draw_on="compiled" where torch.compile does not work.
    """
    t_s = seconds(t_inference)
    chip = _chip(model, "drift")
    for name, matrix in matrices_of(model).items():
        matrix.drift(t_s, chip.seed, name, chip.draw_on)
    chip.t_inference = t_s


def restore(model: nn.Module) -> None:
    """The clean trained weights again; the chip is forgotten."""
    record = record_of(model)
    for matrix in matrices_of(model).values():
        matrix.restore()
    record.chip = None


def _chip(model: nn.Module, caller: str) -> ProgrammedChip:
    chip = record_of(model).chip
    if chip is None:
        raise StateError(f"{caller}: no chip is programmed; call program(model, seed) first")
    return chip


def fingerprint(model: nn.Module, matrices: dict[str, Matrix], *also: object) -> str:
    """SHA-256 of all that outputs depend on but for the chip and the input ranges.

    That is the engine, of every matrix its name, preset, tiles, trained weights and scales, and all
    digital parameters and buffers; and `also`, by its text or, of tensors, by their values.
    """
    digest = hashlib.sha256(record_of(model).engine.encode())

    def add(name: str, *tensors: Tensor | None) -> None:
        digest.update(name.encode())
        for tensor in tensors:
            if tensor is None:
                digest.update(b"none")
                continue
            files.add_tensor(digest, tensor)

    for name, matrix in sorted(matrices.items()):
        preset = matrix.preset
        parts = {part: getattr(preset, part).values() for part in preset.PARTS}
        add(f"{(name, matrix.grid)!r} {json.dumps(parts, sort_keys=True)}")
        add("trained", matrix.clean_weight(), matrix.normalised_weight(), matrix.learned_scale())
        add("bias", matrix.bias())
    for name, value in sorted(digital_state(model, matrices).items()):
        add(name, value)
    for extra in also:
        add("", extra) if isinstance(extra, Tensor) else add(repr(extra))
    return digest.hexdigest()


def save_chip(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write the programmed chip, as it is now, to a safetensors file, input ranges included.

    The trained weights are not in it: `load_chip` wants the same converted model.

    Raises:  StateError where no chip is programmed; CheckpointError where it cannot be written.
    """
    chip = _chip(model, "save_chip")
    matrices = matrices_of(model)
    tensors: dict[str, Tensor] = {
        f"{name}/{key}": value
        for name, matrix in matrices.items()
        for key, value in matrix.chip_state().items()
    }
    for name, matrix in matrices.items():
        if (ranges := matrix.input_ranges()) is not None:
            tensors[f"{name}/{_RANGES}"] = ranges
    about = {
        "format": _FORMAT,
        "engine": record_of(model).engine,
        "model": fingerprint(model, matrices),
        "seed": chip.seed,
        "draw_on": chip.draw_on,
        "t_inference": chip.t_inference,
    }
    files.write_tensors(path, tensors, {"aimc_bridge_chip": json.dumps(about)})


def load_chip(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Make the model hold the chip of a file written by `save_chip`, with its input ranges.

    The outputs are those at the time of saving: bit for bit where the engine's products can be
    repeated.

    Raises:  CheckpointError where the file is missing, damaged, or the chip of another model; the
             model is then as it was, or restored where the damage was found late.
    """
    from safetensors import SafetensorError, safe_open

    matrices = matrices_of(model)
    states: dict[str, dict[str, Tensor]] = {name: {} for name in matrices}
    try:
        with safe_open(str(path), framework="pt") as file:
            about = json.loads((file.metadata() or {})["aimc_bridge_chip"])
            if about["format"] != _FORMAT or about["model"] != fingerprint(model, matrices):
                raise CheckpointError(
                    f"{path}: a chip of another model, engine or preset; load it into the model "
                    "it was programmed from, converted the same way, with the same weights"
                )
            for key in file.keys():  # noqa: SIM118 - not a mapping
                name, _, tensor = key.rpartition("/")
                states[name][tensor] = file.get_tensor(key)
            chip = ProgrammedChip(about["seed"], about["draw_on"], about["t_inference"])
    except CheckpointError:
        raise
    except FileNotFoundError as cause:
        raise CheckpointError(f"{path}: no such file") from cause
    except (SafetensorError, KeyError, TypeError, ValueError, OSError) as cause:
        raise CheckpointError(f"{path}: not a chip file, or damaged ({cause})") from cause
    ranges = {name: state.pop(_RANGES, None) for name, state in states.items()}
    try:
        for name, matrix in matrices.items():
            matrix.load_chip_state(states[name])
            if (saved := ranges[name]) is not None:
                matrix.set_input_ranges(saved)
    except CheckpointError:
        restore(model)
        raise
    record_of(model).chip = chip
