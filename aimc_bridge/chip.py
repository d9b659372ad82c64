"""Chips of both engines: program, drift, restore, save and load them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor, nn

from aimc_bridge.arguments import choice, integer
from aimc_bridge.arguments import path as path_of
from aimc_bridge.converted import ProgrammedChip, digital_state, engine_of, matrices_of, record_of
from aimc_bridge.engines.base import Matrix
from aimc_bridge.errors import AimcError, CheckpointError, StateError, UsageError
from aimc_bridge.physics.drift import check_known
from aimc_bridge.reach import watch_reach
from aimc_bridge.sealed_files import add_tensor, read_sealed, write_tensors
from aimc_bridge.times import seconds

_FORMAT = 2
_ABOUT = "aimc_bridge_chip"
_RANGES = "input ranges"


def program(model: nn.Module, seed: int, *, draw_on: str = "cpu") -> None:
    """Program a chip: draw programming noise and drift exponents of every device.

    The same seed gives the same chip in every run, and the same for a layer whatever other layers
    the model has. A chip that the model held before is forgotten. From now on the model's outputs
    are those of the chip right after programming; `drift` lets time pass and `restore` brings the
    trained weights back.

    Args:
        model: A converted model.
        seed: An integer, at most 2**128 in size; it names the chip.
        draw_on: Where the random numbers are drawn: "cpu" gives the same chip on the CPU and on
            CUDA. "device" draws where the weights are: faster, and repeatable on that kind of
            device. "compiled" draws there too, inside passes of torch.compile and with another
            generator: several times faster, but the first chips take seconds, until everything is
            compiled. The aihwkit engine always draws on the CPU.

    Raises:
        UsageError: If the seed is not an integer, or the engine does not know this `draw_on`.
        CapabilityError: If the model is not a converted one, or torch.compile does not work here.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from aimc_bridge import calibrate, convert, program
        >>> from presets import rasch2023
        >>> inputs = torch.randn(8, 12)
        >>> analog = convert(nn.Linear(12, 7), rasch2023).eval()
        >>> calibrate(analog, [inputs])
        >>> program(analog, seed=7)
        >>> tuple(analog(inputs).shape)  # the outputs of chip 7
        (8, 7)
    """
    seed = integer("seed", seed)
    check_draw_on(model, draw_on)
    record = record_of(model)
    changed = False
    try:
        for matrix in matrices_of(model).values():
            matrix.program(seed, matrix.name, draw_on)
            changed = True
    except BaseException:
        if changed:  # no model has half a chip
            restore(model)
        raise
    record.chip = ProgrammedChip(seed, draw_on)
    watch_reach(model)


def check_draw_on(model: nn.Module, draw_on: str) -> None:
    """Check that the engine of a converted model knows this way to draw a chip.

    Args:
        model: A converted model.
        draw_on: As in `program`.

    Raises:
        UsageError: If the engine does not know it.
        CapabilityError: If the model is not a converted one.
    """
    choice("draw_on", draw_on, engine_of(model).draw_on)


def drift(model: nn.Module, t_inference: float | str) -> None:
    """Let the programmed chip drift to a time after programming.

    Read noise at that time and drift compensation are included. The times may come in any order,
    because each call starts from the chip as it was programmed.

    Args:
        model: A converted model that holds a chip.
        t_inference: Time after programming: seconds, or a text such as "1h", "1 day" or "1y".

    Raises:
        StateError: If no chip is programmed.
        UsageError: If the time is not understood, or if a device is not known at it. If a device of
            your own fails, the model is restored.
        CapabilityError: If the model is not a converted one, or if the chip was drawn with
            draw_on="compiled" and torch.compile does not work here.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from aimc_bridge import calibrate, convert, drift, program
        >>> from presets import rasch2023
        >>> inputs = torch.randn(8, 12)
        >>> analog = convert(nn.Linear(12, 7), rasch2023).eval()
        >>> calibrate(analog, [inputs])
        >>> program(analog, seed=7)
        >>> drift(analog, "1y")  # the same chip a year later
        >>> drift(analog, 3600)  # and an hour after programming
    """
    t_s = seconds(t_inference)
    chip = chip_of(model, "drift")
    matrices = matrices_of(model).values()
    for matrix in matrices:
        check_known(t_s, matrix.preset.pcm)
    changed = False
    try:
        for matrix in matrices:
            matrix.drift(t_s, chip.seed, matrix.name, chip.draw_on)
            changed = True
    except BaseException:
        if changed:  # no chip has two ages
            restore(model)
        raise
    chip.t_inference = t_s


def restore(model: nn.Module) -> None:
    """Put the trained weights back on the tiles and forget the chip.

    Args:
        model: A converted model, with or without a chip.

    Raises:
        CapabilityError: If the model is not a converted one.
    """
    record = record_of(model)
    for matrix in matrices_of(model).values():
        matrix.restore()
    record.chip = None


def chip_of(model: nn.Module, caller: str) -> ProgrammedChip:
    """Return the chip that a model holds.

    Args:
        model: A converted model.
        caller: The function that needs the chip, for the error.

    Raises:
        StateError: If no chip is programmed.
        CapabilityError: If the model is not a converted one.
    """
    chip = record_of(model).chip
    if chip is None:
        raise StateError(f"{caller}: no chip is programmed; call program(model, seed) first")
    return chip


def fingerprint(model: nn.Module, matrices: dict[str, Matrix], *also: object) -> str:
    """Return the SHA-256 of all that outputs depend on but chip and input ranges.

    It covers the engine; of every matrix the name, preset, tiles, trained weights and scales; and
    all digital parameters and buffers.

    Args:
        model: A converted model.
        matrices: Its matrices, from `matrices_of`.
        also: Further values to cover: tensors count by their values, other objects by their repr.

    Returns:
        The hash, 64 hexadecimal digits.
    """
    digest = hashlib.sha256(record_of(model).engine.encode())

    def add(name: str, *tensors: Tensor | None) -> None:
        digest.update(name.encode())
        for tensor in tensors:
            if tensor is None:
                digest.update(b"none")
                continue
            add_tensor(digest, tensor)

    for name, matrix in sorted(matrices.items()):
        preset = matrix.preset
        parts = {part: getattr(preset, part).identity() for part in preset.PARTS}
        add(f"{(name, matrix.grid)!r} {json.dumps(parts, sort_keys=True)}")
        add("trained", matrix.clean_weight(), matrix.normalised_weight(), matrix.learned_scale())
        add("bias", matrix.bias())
    for name, value in sorted(digital_state(model, matrices).items()):
        add(name, value)
    for extra in also:
        add("", extra) if isinstance(extra, Tensor) else add(repr(extra))
    return digest.hexdigest()


def _cells(matrices: dict[str, Matrix]) -> dict[str, dict[str, Any]]:
    """Return the fields that say what a weight lies on, by layer, if it is not one pair or cell."""
    devices = {name: matrix.preset.pcm for name, matrix in matrices.items()}
    return {
        name: {
            "pairs": pcm.pairs,
            "significance": list(pcm.factors),
            "reference": pcm.reference,
            "g_min_us": pcm.values().get("g_min_us", 0.0),
        }
        for name, pcm in devices.items()
        if pcm.pairs > 1 or pcm.referenced
    }


def _other_cells(saved: dict[str, Any], wanted: dict[str, Any]) -> str:
    """Say which layer of a saved chip lies on other cells than the model's; nothing if none does.

    The fields of the saved chip may be damaged: then looking into them raises whatever it raises.
    """
    for name in sorted({*saved, *wanted}):
        if saved.get(name) != wanted.get(name):
            return (
                f"layer {name!r} of this chip has {_in_words(saved.get(name))} per weight, "
                f"the model's has {_in_words(wanted.get(name))}; load it into a model that was "
                "converted with the preset of the chip"
            )
    return ""


def _in_words(cells: dict[str, Any] | None) -> str:
    """Return what a weight lies on, in words."""
    if cells is None:
        return "one pair of devices, or one cell,"
    if cells["reference"] != "none":
        low = cells["g_min_us"]
        return f"one device with reference={cells['reference']!r} and g_min_us={low:g}"
    return f"{cells['pairs']} pairs of devices with significance {tuple(cells['significance'])}"


def save_chip(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write the programmed chip, as it is now, to a safetensors file.

    The file also holds the input ranges. It does not hold the trained weights: `load_chip` needs
    the same converted model.

    Args:
        model: A converted model that holds a chip.
        path: The file; its folder must exist. An older file of that name is replaced.

    Raises:
        StateError: If no chip is programmed.
        CheckpointError: If the file cannot be written.
        UsageError: If the path is none.
        CapabilityError: If the model is not a converted one.

    Examples:
        >>> import tempfile
        >>> import torch
        >>> from torch import nn
        >>> from aimc_bridge import calibrate, convert, load_chip, program, restore, save_chip
        >>> from presets import rasch2023
        >>> analog = convert(nn.Linear(12, 7), rasch2023).eval()
        >>> calibrate(analog, [torch.randn(8, 12)])
        >>> program(analog, seed=7)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_chip(analog, f"{folder}/chip7.safetensors")
        ...     restore(analog)  # the trained weights again
        ...     load_chip(analog, f"{folder}/chip7.safetensors")  # chip 7 again
    """
    path = path_of("path", path)
    chip = chip_of(model, "save_chip")
    matrices = matrices_of(model)
    tensors: dict[str, Tensor] = {
        f"{name}/{key}": value
        for name, matrix in matrices.items()
        for key, value in matrix.chip_state().items()
    }
    for name, matrix in matrices.items():
        if (ranges := matrix.input_ranges()) is not None:
            tensors[f"{name}/{_RANGES}"] = ranges
    about: dict[str, Any] = {
        "format": _FORMAT,
        "engine": record_of(model).engine,
        "model": fingerprint(model, matrices),
        "seed": chip.seed,
        "draw_on": chip.draw_on,
        "t_inference": chip.t_inference,
        "versions": {"torch": torch.__version__, **_versions("aimc-bridge", "aihwkit")},
    }
    if cells := _cells(matrices):
        about["cells"] = cells
    write_tensors(path, tensors, {_ABOUT: json.dumps(about)})


def load_chip(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Make the model hold the chip, and the input ranges, of a file from `save_chip`.

    The outputs are the same as when the chip was saved: bit for bit if the engine's products can be
    repeated. `save_chip` has an example.

    The whole file is checked first: its checksum, and that it holds all tensors of this chip, with
    the right shapes and with finite values, and no others. If it is refused, the model is as it was
    before, with the chip that it held.

    Args:
        model: The model that the chip was programmed from, or one converted in the same way with
            the same weights.
        path: A file written by `save_chip`.

    Raises:
        CheckpointError: If the file is missing or damaged, or holds the chip of another model.
        UsageError: If the path is none.
        CapabilityError: If the model is not a converted one.

    Warns:
        UserWarning: If the file has no checksum, because an older version wrote it.
    """
    path = path_of("path", path)
    matrices = matrices_of(model)
    file = read_sealed(path, "a chip file")
    chip = _described(model, file.metadata, path)
    states: dict[str, dict[str, Tensor]] = {name: {} for name in matrices}
    for key, value in file.tensors.items():
        name, _, tensor = key.rpartition("/")
        if name not in states:
            raise CheckpointError(f"{path}: not a chip file, or damaged (it holds {key!r})")
        states[name][tensor] = value
    ranges = {name: state.pop(_RANGES, None) for name, state in states.items()}
    try:
        for name, matrix in matrices.items():
            matrix.check_chip_state(states[name], chip.t_inference)
            if (saved := ranges[name]) is not None:
                matrix.grid.check_ranges(saved, f"layer {name!r}")
    except (AimcError, ValueError, RuntimeError) as cause:  # the last two: a user's device
        raise CheckpointError(f"{path}: damaged, or of another model ({cause})") from cause
    for name, matrix in matrices.items():
        matrix.load_chip_state(states[name])
        if (saved := ranges[name]) is not None:
            matrix.set_input_ranges(saved)
    record_of(model).chip = chip
    watch_reach(model)


def _described(
    model: nn.Module, metadata: dict[str, str], path: str | os.PathLike[str]
) -> ProgrammedChip:
    """Return the chip that the header of a file describes.

    Raises:
        CheckpointError: If the header is damaged, or of a chip of another model.
    """
    matrices = matrices_of(model)
    try:
        about = json.loads(metadata[_ABOUT])
        described, number = about["model"], about["format"]
        seed, draw_on, t_s = about["seed"], about["draw_on"], about["t_inference"]
        known = number == _FORMAT
        other_cells = _other_cells(about.get("cells", {}), _cells(matrices)) if known else ""
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as cause:
        raise CheckpointError(f"{path}: not a chip file, or damaged ({cause!r})") from cause
    if other_cells:
        raise CheckpointError(f"{path}: {other_cells}")
    if not known or described != fingerprint(model, matrices):
        raise CheckpointError(
            f"{path}: a chip of another model, engine or preset; load it into the model it was "
            "programmed from, converted the same way, with the same weights"
        )
    try:
        integer("seed", seed)
        check_draw_on(model, draw_on)
        if t_s is not None:
            t_s = seconds(t_s if type(t_s) in (int, float) else repr(t_s))
    except UsageError as cause:
        raise CheckpointError(f"{path}: not a chip file, or damaged ({cause})") from cause
    return ProgrammedChip(seed, draw_on, t_s)


def _versions(*names: str) -> dict[str, str]:
    """Return the versions of the packages that are installed."""
    versions = {}
    for name in names:
        with contextlib.suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions
