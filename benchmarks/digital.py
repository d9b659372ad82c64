"""Train the digital model of a task, with checkpoints: `python -m benchmarks.digital bert ...`.

During the training, the folder holds `log.csv`, `step-N.safetensors` (weights and optimizer) and
`checkpoint.json`, which names the latest of these files. At the end it holds `log.csv`,
`model.safetensors` and `info.json`.
"""

from __future__ import annotations

import csv
import dataclasses
import math
import sys
import time
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
from cyclopts import Parameter
from torch import nn

from aimc_bridge.commands import Output
from aimc_bridge.errors import TrainingError, UsageError
from aimc_bridge.files import Lines
from aimc_bridge.progress import ProgressBar, metric_value
from aimc_bridge.rng import derive
from benchmarks import cli, tasks
from benchmarks.digital_files import (
    check_held_out,
    check_same,
    finish,
    held_out_marks,
    keep_rows,
    put_back,
    read_checkpoint,
    write_checkpoint,
)
from benchmarks.studies import folder
from benchmarks.studies.claims import DIRECTORY, TRAINING
from benchmarks.studies.inputs import training_mark
from benchmarks.studies.settings import set_threads
from benchmarks.studies.steps import Step, Steps, kind_of
from benchmarks.tasks import DigitalRecipe, Task

LOG_EVERY = 20  # steps
PRECISIONS = ("fp32", "bf16")


def total_steps(recipe: DigitalRecipe, per_epoch: int) -> int:
    """Return the number of steps of a training, at least 1.

    Args:
        recipe: The recipe.
        per_epoch: Mini-batches per epoch.

    Raises:
        UsageError: If the recipe's epochs are negative or not finite.
    """
    if not 0 <= recipe.epochs < math.inf:
        raise UsageError(f"epochs {recipe.epochs}; allowed: a finite number >= 0")
    return max(1, round(recipe.epochs * per_epoch))


def learning_rate(recipe: DigitalRecipe, step: int, total: int) -> float:
    """Return the learning rate of a step: linear warm-up, then one decay to zero.

    Args:
        recipe: The recipe. Its schedule decides between cosine and linear decay; its `warmup` is
            the share of all steps that warms up.
        step: The step, from 0 on.
        total: All steps of the training.
    """
    warm = max(1, round(recipe.warmup * total)) if recipe.warmup else 0
    if step < warm:
        return recipe.learning_rate * (step + 1) / warm
    left = (total - step) / max(1, total - warm)
    if recipe.schedule == "cosine":
        left = 0.5 * (1.0 - math.cos(math.pi * left))
    return recipe.learning_rate * left


def optimizer_for(model: nn.Module, recipe: DigitalRecipe) -> torch.optim.Optimizer:
    """Return the optimizer of a recipe: SGD with Nesterov momentum, or AdamW.

    Parameters with one dimension or none (biases, normalisations) have no weight decay.

    Args:
        model: The model; parameters that require no gradient are left out.
        recipe: The recipe.

    Raises:
        UsageError: If the recipe names another optimizer.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if recipe.optimizer == "adamw":
        # fused: 16 ms per step instead of 110 ms for 22 M parameters on two cores
        return torch.optim.AdamW(groups, lr=recipe.learning_rate, fused=True)
    if recipe.optimizer == "sgd":
        nesterov = recipe.momentum > 0
        return torch.optim.SGD(
            groups, lr=recipe.learning_rate, momentum=recipe.momentum, nesterov=nesterov
        )
    raise UsageError(f"unknown optimizer {recipe.optimizer!r}; one of sgd, adamw")


def fit(
    task: Task,
    out: Path,
    *,
    recipe: DigitalRecipe | None = None,
    seed: int = 0,
    resume: bool = False,
    device: str = "auto",
    precision: str = "fp32",
    checkpoint_every: int = 200,
    stop_after: int | None = None,
    output: Output = Output(),
) -> nn.Module:
    """Train a task's digital model and write it to `out`.

    Args:
        task: The task.
        out: The folder of the training.
        recipe: How the model is trained; None means the task's own recipe.
        seed: Seed of the starting weights, the order of the data and dropout.
        resume: Continue from the last checkpoint in `out`. The weights become those of a training
            that was never interrupted (bit for bit on the CPU).
        device: "auto", "cpu" or "cuda".
        precision: "fp32", or "bf16": forward passes under autocast; weights, optimizer and every
            evaluation stay in float32.
        checkpoint_every: Steps between checkpoints; 0 writes none.
        stop_after: Stop after this step, with a checkpoint, as an interruption would (for tests).
        output: Where notes and the progress bar go.

    Returns:
        The trained model, in eval mode.

    Raises:
        TrainingError: If the loss is no longer finite.
        UsageError: If `out` holds another training or cannot be made, or if a name is unknown.
        CheckpointError: If the checkpoint in `out` is damaged or of another model.
    """
    recipe = recipe or task.digital
    if device not in ("auto", "cpu", "cuda"):
        raise UsageError(f"unknown device {device!r}; one of auto, cpu, cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("device cuda asked for, but torch sees none; use --device cpu")
    if precision not in PRECISIONS:
        raise UsageError(f"unknown precision {precision!r}; one of {', '.join(PRECISIONS)}")
    about: dict[str, Any] = {
        "seed": seed,
        "precision": precision,
        "options": dict(task.options),
        "recipe": dataclasses.asdict(recipe),
        "inputs": {
            DIRECTORY: str(Path.cwd()),
            TRAINING: training_mark(task, recipe.batch_size, seed),
        },
    }
    use_cuda = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    place = torch.device("cuda" if use_cuda else "cpu")
    if (out / "model.safetensors").exists():
        if not resume:
            raise UsageError(f"{out} holds a finished run; name another folder or --resume")
        known = tasks.read_info(out)
        check_same(out, about, {key: known.get(key, about[key]) for key in about})
        check_held_out(out, task, known, place)
        output.say(f"digital model: trained before, in {out}")
        return task.load(out)
    if (out / "checkpoint.json").exists() and not resume:
        raise UsageError(f"{out} holds an unfinished run; --resume goes on with it")
    task.place(place)
    loader = task.digital_loader(recipe.batch_size, seed)
    total = total_steps(recipe, len(loader))
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{out} cannot be made ({error.strerror}); name another folder") from None

    with folder.alone(out):
        model = task.build(seed).to(place)
        optimizer = optimizer_for(model, recipe)
        run = {**about, "total": total}
        autocast = torch.autocast(place.type, torch.bfloat16, enabled=precision == "bf16")
        start, spent = 0, 0.0
        if (out / "checkpoint.json").exists():
            facts, tensors = read_checkpoint(out)
            # older checkpoints lack these: no choice of precision, no note of options and data
            facts.setdefault("precision", "fp32")
            facts.setdefault("options", run["options"])
            facts.setdefault("inputs", {})
            check_same(out, run, {key: facts.get(key) for key in run})
            put_back(task, model, optimizer, tensors)
            start, spent = facts["step"], facts["wall_s"]

        began = time.monotonic() - spent
        log = out / "log.csv"
        keep_rows(log, start)
        model.train()
        total_loss, seen = torch.zeros((), device=place), 0
        progress = ProgressBar(task.model_name, total, start, show=output.bars)
        with progress as bar, Lines(log) as file:
            writer = csv.writer(file)
            if not start:
                writer.writerow(["step", "loss", "learning_rate", "wall_s"])
            step = shown = start
            while step < total:
                epoch, position = divmod(step, len(loader))
                for batch in loader.passing(epoch, position):
                    rate = learning_rate(recipe, step, total)
                    for group in optimizer.param_groups:
                        group["lr"] = rate
                    # dropout and sampling depend on (seed, step) alone: no random state to store
                    torch.manual_seed(derive(seed, "step", step))
                    with autocast:
                        loss = task.digital_loss(model, batch)
                    optimizer.zero_grad()
                    loss.backward()
                    if recipe.grad_clip is not None:
                        nn.utils.clip_grad_norm_(model.parameters(), recipe.grad_clip)
                    optimizer.step()
                    total_loss += loss.detach()
                    seen += 1
                    step += 1
                    save = step == stop_after or (
                        checkpoint_every > 0 and step % checkpoint_every == 0
                    )
                    if save or step % LOG_EVERY == 0 or step == total:
                        value = total_loss.item() / seen
                        total_loss.zero_()
                        seen = 0
                        if not math.isfinite(value):
                            raise TrainingError(
                                f"{task.model_name} diverged: loss {value} at step {step} of "
                                f"{total}, learning rate {rate:.1e}; lower --learning-rate or set "
                                "--grad-clip, and name another --out"
                            )
                        wall = time.monotonic() - began
                        writer.writerow([step, f"{value:.5f}", f"{rate:.3e}", f"{wall:.1f}"])
                        bar.advance(step - shown, note=f"loss {value:.3f}  rate {rate:.1e}")
                        shown = step
                    if save and step < total:
                        facts = {**run, "step": step, "wall_s": time.monotonic() - began}
                        write_checkpoint(out, task, model, optimizer, facts)
                    if step in (stop_after, total):
                        break
                if step == stop_after:
                    return model.eval()

        wall = time.monotonic() - began
        model.eval()
        metrics = {split: task.evaluate(model, split=split) for split in ("validation", "test")}
        run["inputs"] |= held_out_marks(task, place)
        finish(out, task, model, {**run, "wall_s": wall, "steps_per_epoch": len(loader)}, metrics)
        reached = ", ".join(
            f"{metric_value(task.metric, values[task.metric])} on {split} data"
            for split, values in metrics.items()
            if task.metric in values
        )
        output.say(f"      {task.model_name} on {task.dataset}: {task.metric} {reached}")
        return model


# --- the command ----------------------------------------------------------------------------------

Folder = Annotated[Path, Parameter(name="--out", help="Folder of the training.")]
Above0 = cli.number(float, lambda value: 0 < value < math.inf, "a number above 0")


def train(
    task: cli.TaskName,
    /,
    *,
    out: Folder,
    profile: cli.Profile = "embedded",
    data_dir: cli.DataDir = None,
    option: cli.Option = (),
    epochs: Annotated[
        float | None, Parameter(help="Passes over the training data; default: the task's own.")
    ] = None,
    batch_size: Annotated[
        int | None, Parameter(converter=cli.at_least(1), help="Default: the task's own.")
    ] = None,
    learning_rate: Annotated[
        float | None, Parameter(converter=Above0, help="Default: the task's own.")
    ] = None,
    grad_clip: Annotated[
        float | None,
        Parameter(converter=Above0, help="Largest norm of a gradient; default: the task's own."),
    ] = None,
    seed: cli.Seed = 0,
    device: cli.Device = "cpu",
    precision: cli.Precision = "fp32",
    threads: cli.Threads = None,
    checkpoint_every: Annotated[
        int, Parameter(converter=cli.at_least(0), help="Steps between checkpoints; 0: none.")
    ] = 200,
    resume: cli.Resume = False,
    output: Output = Output(),
) -> None:
    """Train the digital model of one task.

    --json prints info.json: the recipe, the steps, the metrics on validation and test data.
    """
    cli.check_alone("benchmarks.digital")
    instance = tasks.get(task, profile, data_dir, **tasks.parse_options(list(option)))
    changes: dict[str, Any] = {
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "grad_clip": grad_clip,
    }
    overrides = {key: value for key, value in changes.items() if value is not None}
    recipe = dataclasses.replace(instance.digital, **overrides)
    set_threads(threads, profile)
    batches = total_steps(recipe, len(instance.digital_loader(recipe.batch_size, seed)))
    text = f"{instance.model_name} on {instance.dataset}: {batches} steps, into {out}"
    kind = kind_of(instance, "digital", device, precision if precision != "fp32" else "")
    steps = Steps([Step("digital", text, ((kind, batches),))], output)
    if output.dry_run:
        estimate = steps.estimate()
        plan = [text, estimate.text()]
        data = {"plan": plan, "estimate": estimate.to_dict()}
        output.result("\n".join(plan), {**data, "recipe": dataclasses.asdict(recipe)})
        return
    with steps.doing("digital", whole=not out.exists()):
        fit(
            instance,
            out,
            recipe=recipe,
            seed=seed,
            resume=resume,
            device=device,
            precision=precision,
            checkpoint_every=checkpoint_every,
            output=output,
        )
    output.result(f"{instance.model_name} in {out}", tasks.read_info(out))


app = cli.command("digital", train, "TASK")
main = partial(
    cli.execute, app, on_interrupt="interrupted; to go on: the same command with --resume"
)


if __name__ == "__main__":
    sys.exit(main())
