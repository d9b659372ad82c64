"""Trained weights small enough to come with the project: `python -m benchmarks.keep runs/NAME wrn`.

From a finished run's folder into benchmarks/checkpoints/TASK: the digital model (model.safetensors,
info.json) and the hardware-aware one (hwa.safetensors, hwa.json), matrices in half precision, so
that anyone can drift them without a training:

    python -m benchmarks.run wrn --profile real --data-dir DIR --phases direct hwa \
        --checkpoint benchmarks/checkpoints/wrn --trained benchmarks/checkpoints/wrn/hwa.safetensors
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from aimc_bridge.errors import AimcError, DataError, UsageError
from benchmarks.files import replace_file

FOLDER = Path(__file__).parent / "checkpoints"
LARGEST = 8_000_000  # bytes of a file
_SMALL = 4096  # numbers from which on a tensor is halved: scales and statistics stay as they are


def halved(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Large float32 tensors in half precision, all others as they are."""
    return {
        name: value.half() if value.dtype == torch.float32 and value.numel() >= _SMALL else value
        for name, value in tensors.items()
    }


def keep(run: Path, task: str, folder: Path | None = None) -> list[Path]:
    """Keep both models of a task of a finished run; the files written.

    Raises:  DataError where the run has them not, or where a file would be too large.
    """
    try:
        about = json.loads((run / "run.json").read_text())
        facts = about["studies"][task]
        recipe = facts["recipe"]
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            f"{run} holds no finished hardware-aware training of {task} ({error!r})"
        ) from None
    work = run / "work" / task
    digital = Path(facts["digital"].get("checkpoint", work / "digital"))
    sources = {
        "model": (digital / "model.safetensors" if digital.is_dir() else digital),
        "hwa": work / "hwa.safetensors",
    }
    shared = {"run": about["command"], "versions": about["versions"], "stored": "float16 matrices"}
    notes: dict[str, dict[str, Any]] = {
        "model": {**facts["digital"], **shared},
        "hwa": {
            **{key: facts[key] for key in ("model", "dataset", "analog_weights", "tiles")},
            **{"preset": about["arguments"]["preset"], "recipe": recipe, **shared},
        },
    }
    notes["model"].pop("checkpoint", None)
    tensors = {}
    for name, file in sources.items():
        try:
            tensors[name] = halved(load_file(file))
        except (OSError, SafetensorError) as error:
            raise DataError(f"{file} cannot be read ({error})") from None
        size = sum(value.numel() * value.element_size() for value in tensors[name].values())
        if size > LARGEST:
            raise DataError(
                f"{file}: {size / 1e6:.1f} MB in half precision; allowed: {LARGEST / 1e6:.0f} MB"
            )
    into = (FOLDER if folder is None else folder) / task
    into.mkdir(parents=True, exist_ok=True)
    written = []
    for name, values in tensors.items():
        file = into / f"{name}.safetensors"
        partial = file.with_name(file.name + ".partial")
        save_file(values, partial)
        os.replace(partial, file)
        text = into / ("info.json" if name == "model" else "hwa.json")
        replace_file(text, json.dumps(notes[name], indent=1) + "\n")
        written += [file, text]
    return written


def main(
    run: Annotated[Path, typer.Argument(metavar="RUNDIR", help="the --out of a finished run")],
    task: Annotated[str, typer.Argument(metavar="TASK", help="a task of the run")],
    replace: Annotated[bool, typer.Option("--replace", help="in place of what is kept")] = False,
) -> None:
    """Keep the trained models of a run with the project."""
    try:
        if not replace and (FOLDER / task / "hwa.safetensors").exists():
            raise UsageError(f"models of {task} are kept already; --replace takes their place")
        for file in keep(run, task):
            typer.echo(str(file))
    except AimcError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None


if __name__ == "__main__":
    typer.run(main)
