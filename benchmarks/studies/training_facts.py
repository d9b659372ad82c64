"""How a model was trained, in the file of its weights; --trained takes only what fits the run.

The control of a hardware-aware model is the same training without noise. So a run that takes a
trained model and trains a control compares the recipe, its length and the digital model of both.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from aimc_bridge.errors import CheckpointError, UsageError
from aimc_bridge.sealed_files import damaged, read_json, read_sealed
from aimc_bridge.spec import Preset
from benchmarks.studies.claims import TRAINING
from benchmarks.studies.inputs import fingerprint, same, training_mark
from benchmarks.tasks import Task

if TYPE_CHECKING:
    from aimc_bridge.training import HWATraining
    from benchmarks.studies.settings import Settings

KEY = "training"  # of the header of a file of weights
DIGITAL = "digital model"
RECIPE = "recipe"
BATCHES = "number of mini-batches"
SEED = "seed of the order of data and of the noise"
_COMPARED = (
    *(BATCHES, "accumulate", "keep", "precision", "preset"),
    *("set of preset values", "calibration", SEED, TRAINING),
)
_ADVICE = "copy it again, or name another file"
_BATCHES = re.compile(r"--hwa-batches[ =](\d+)")


def recipe_of(settings: Settings, task: Task, recipe: HWATraining, seed: int) -> dict[str, Any]:
    """Return what the trainings of one seed of a run have in common, as plain data.

    Args:
        settings: The options of the run.
        task: The task.
        recipe: The recipe of the hardware-aware training.
        seed: The seed of the trainings.
    """
    plan = settings.plan_of(task.name)
    batches = recipe.spec.epochs * len(task.train_loader(recipe.spec.batch_size, seed))
    if plan.hwa_batches is not None:
        batches = min(batches, plan.hwa_batches)
    identity = settings.preset.identity()
    ranges = ("method", "calibration", "out_percentile", "recalibrate")
    facts = {
        "preset": str(settings.preset),
        "set of preset values": {
            part: identity[part].get("values", identity[part]) for part in Preset.PARTS
        },
        "calibration": {name: getattr(plan, name) for name in ranges},
        SEED: seed,
        TRAINING: training_mark(task, recipe.spec.batch_size, seed),
        RECIPE: {"name": recipe.name, **recipe.spec.values()},
        BATCHES: batches,
        "accumulate": settings.accumulate,
        "keep": plan.keep,
        "precision": settings.precision,
    }
    plain: dict[str, Any] = json.loads(json.dumps(facts))
    return plain


def facts_of(
    phase: str, settings: Settings, task: Task, recipe: HWATraining, seed: int, model: nn.Module
) -> dict[str, Any]:
    """Return how the model of a phase is trained, as plain data.

    Args:
        phase: "finetune", "control" or "hwa".
        settings: The options of the run.
        task: The task.
        recipe: The recipe of the hardware-aware training.
        seed: The seed of the trainings.
        model: The digital model that the training starts from. Its fingerprint is that of its half
            precision, in which models are kept.
    """
    digital = fingerprint(model, halved=True)
    return {"phase": phase, **recipe_of(settings, task, recipe, seed), DIGITAL: digital}


def header(facts: Mapping[str, Any]) -> dict[str, str]:
    """Return the texts for the header of a file of weights.

    Args:
        facts: The facts of `facts_of`.
    """
    return {KEY: json.dumps(facts)}


def read(path: Path, task: Task) -> dict[str, Any]:
    """Return how the model in a file was trained, as far as it is known.

    Files of older versions say nothing; then the files beside them count: hwa.json and
    model.safetensors of models that come with the project, or the record of the run and the digital
    model in its folder.

    Args:
        path: The file of weights.
        task: The task.

    Returns:
        Facts of `facts_of`, without those that nobody noted.

    Raises:
        CheckpointError: If a file is damaged.
    """
    try:
        text = read_sealed(path).metadata.get(KEY)
        if text is not None:
            facts: dict[str, Any] = dict(json.loads(text))
            return facts
    except (ValueError, TypeError) as error:  # a CheckpointError is a ValueError
        raise damaged(path, error, _ADVICE) from None
    note, record = path.with_name("hwa.json"), path.absolute().parent / "../../run.json"
    if path.name != "hwa.safetensors":
        return {}
    if note.exists():
        about = _table(note)
        batches = _BATCHES.search(str(about.get("run", "")))
        found = {"preset": about.get("preset"), RECIPE: about.get("recipe")}
        found[BATCHES] = int(batches[1]) if batches else None
        beside = path.parent
    elif record.exists():
        found, beside = _of_run(_table(record), task.name), path.parent / "digital"
    else:
        return {}
    if (beside / "model.safetensors").exists():
        found[DIGITAL] = fingerprint(task.load(beside), halved=True)
    return {name: value for name, value in found.items() if value is not None}


def _table(path: Path) -> dict[str, Any]:
    """Return the table in a JSON file beside weights."""
    try:
        return read_json(path)
    except CheckpointError as error:
        raise damaged(path, error, _ADVICE) from None


def _of_run(record: dict[str, Any], task: str) -> dict[str, Any]:
    """Return what the record of a run says about its hardware-aware training."""
    try:
        arguments, study = record["arguments"], record["studies"][task]
        plan, recipe = study["plan"], study[RECIPE]
        return {
            "preset": arguments["preset"],
            RECIPE: recipe if len(recipe) > 1 else None,  # else it is that of another file
            BATCHES: plan["hwa_batches"],
            "accumulate": arguments["accumulate"],
            "keep": plan["keep"],
        }
    except (KeyError, TypeError):
        return {}


def check(
    path: Path,
    task: Task,
    settings: Settings,
    recipe: HWATraining,
    model: nn.Module,
) -> list[str]:
    """Check that a trained model fits a run.

    Args:
        path: The file of --trained.
        task: The task.
        settings: The options of the run.
        recipe: The recipe of its trainings.
        model: The digital model of the run.

    Returns:
        What could not be checked, because nobody noted it.

    Raises:
        UsageError: If the model was trained from another digital model, or if the run trains a
            control or fine-tunes, and that training is another one than the model's.
        CheckpointError: If a file is damaged.
    """
    before = read(path, task)
    digital = fingerprint(model, halved=True)
    if before.get(DIGITAL, digital) != digital:
        raise UsageError(
            f"--trained {path} was trained from another digital model than that of --checkpoint; "
            "name the one that it was trained from"
        )
    if before.get("phase", "hwa") != "hwa":
        raise UsageError(
            f"--trained {path} is the model of the phase {before['phase']}; name the "
            "hwa.safetensors of a run"
        )
    unknown = [] if DIGITAL in before else [DIGITAL]
    compared = [phase for phase in ("finetune", "control") if phase in settings.measured]
    if not compared:
        return unknown
    now = recipe_of(settings, task, recipe, settings.seed)
    unset: dict[str, Any] = json.loads(json.dumps(dict(recipe.spec.optional())))
    differs = [
        f"another {name}" if isinstance(now[name], dict) else f"{name} {old}, here {now[name]}"
        for name, old in ((name, before[name]) for name in _COMPARED if name in before)
        if not (_same_data(old, now[name]) if name == TRAINING else _equal(old, now[name]))
    ]
    differs += _other_fields(before.get(RECIPE, now[RECIPE]), now[RECIPE], unset)
    if differs:
        raise UsageError(
            f"--trained {path} had another training than the phase {' and '.join(compared)} would "
            f"have ({'; '.join(differs)}): repeat the options of its training, or leave out "
            f"the phase {' and '.join(compared)}"
        )
    return [*unknown, *(name for name in (RECIPE, BATCHES) if name not in before)]


def _same_data(before: Any, now: Mapping[str, Any]) -> bool:
    """Return whether two fingerprints of training data are of the same data, as far as they tell.

    They are of the first mini-batches, which are others with another seed or batch size. That is
    told by the names of these, and says nothing about the data.
    """
    order = ("batch_size", "seed")
    if isinstance(before, Mapping) and any(before.get(name) != now[name] for name in order):
        return True
    return same(before, now)


def _equal(before: Any, now: Any) -> bool:
    """Return whether two values are equal; of tables, what both of them have."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        return all(_equal(before[key], now[key]) for key in before.keys() & now.keys())
    return bool(before == now)


def _other_fields(
    before: Mapping[str, Any], now: Mapping[str, Any], unset: Mapping[str, Any]
) -> list[str]:
    """Return the fields of two recipes that differ; optional fields count where one has them."""
    names = (before.keys() & now.keys()) | (unset.keys() & (before.keys() | now.keys()))
    old, new = {**unset, **before}, {**unset, **now}
    return [
        f"{name} {old[name]}, here {new[name]}"
        for name in sorted(names - {"name"})
        if old[name] != new[name]
    ]


def warning(path: Path, unknown: list[str]) -> str:
    """Return the note about what could not be checked.

    Args:
        path: The file of --trained.
        unknown: From `check`.
    """
    return (
        f"{path} says nothing about its {', '.join(unknown)}: whether they are those of this run "
        "cannot be checked"
    )
