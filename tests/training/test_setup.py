"""Trainings that cannot begin: nothing of them is left behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from aimc_bridge import calibrate, convert
from aimc_bridge.converted import matrices_of
from aimc_bridge.errors import CapabilityError, CheckpointError, UsageError
from aimc_bridge.training import train_digital
from presets import ideal
from tests.models import QUIET, RANGED, linear, mlp, random
from tests.training.test_training import recipe, run

# A set-up changes all of this: ranges start again, ranges and scales ask for gradients.
CHANGING = {
    "input_range_start": "data",
    "input_range_init_batches": 3,
    "learn_input_ranges": True,
    "learn_out_scales": True,
    "distill_weight": 0.5,
    "dropout": 0.3,
}


def everything(*models: nn.Module) -> list[Any]:
    """Return modes, hooks, wrapped functions, gradients asked for, and dropout rates."""
    return [
        (
            module.training,
            len(module._forward_hooks),
            "forward" in module.__dict__,
            [(name, p.requires_grad) for name, p in module.named_parameters(recurse=False)],
            getattr(module, "p", None),
        )
        for model in models
        for module in model.modules()
    ]


def refused(analog: nn.Module, teacher: nn.Module, error: Any, match: str, **options: Any) -> None:
    """Assert that the training fails before its first mini-batch and changes no model."""
    state = {k: v.clone() for k, v in analog.state_dict().items()}
    before = everything(analog, teacher)
    how = options.pop("how", recipe(**CHANGING))
    with pytest.raises(error, match=match):
        run(analog, [random(2, 12)], how, teacher=teacher, **options)
    assert everything(analog, teacher) == before
    for name, value in analog.state_dict().items():
        assert torch.equal(value, state[name]), name


def models(engine: str) -> tuple[nn.Module, nn.Module]:
    """Return a calibrated student in eval mode, and a teacher in training mode."""
    analog = convert(nn.Sequential(*mlp(), nn.Dropout(0.1)), RANGED, engine=engine).eval()
    calibrate(analog, [random(20, 12)])
    return analog, nn.Sequential(linear(12, 5), nn.Dropout(0.2)).train()


def test_a_folder_that_is_refused(engine: str, tmp_path: Path) -> None:
    """The folder holds a training that was not resumed, or another training."""
    analog, teacher = models(engine)
    run(convert(mlp(), RANGED, engine=engine), [random(2, 12)], recipe(), folder=tmp_path)
    match = "holds a training; resume=True goes on with it"
    refused(analog, teacher, UsageError, match, folder=tmp_path)
    refused(analog, teacher, UsageError, "another training", folder=tmp_path, resume=True)


def test_a_checkpoint_of_another_model(engine: str, tmp_path: Path) -> None:
    """Its first layer would fit, but it is not loaded either."""
    how = recipe(**CHANGING)
    analog, teacher = models(engine)
    other = convert(nn.Sequential(linear(12, 16, seed=5), linear(16, 5)), RANGED, engine=engine)
    run(other, [random(2, 12)], how, teacher=linear(12, 5), folder=tmp_path)
    match = "checkpoint is of another model, or damaged: '1.*, and .* other tensors"
    refused(analog, teacher, CheckpointError, match, folder=tmp_path, resume=True)


def test_an_optimizer_of_another_model(engine: str) -> None:
    analog, teacher = models(engine)
    optimizer = torch.optim.SGD(mlp().parameters(), lr=0.1)
    refused(analog, teacher, UsageError, "optimizer: none of its 4", optimizer=optimizer)


def test_a_teacher_that_does_not_fit_the_device(engine: str) -> None:
    class Large(nn.Sequential):
        def to(self, *args: Any, **kwargs: Any) -> Any:
            raise MemoryError("no room")

    analog, _ = models(engine)
    teacher = Large(linear(12, 5), nn.Dropout(0.2)).train()
    refused(analog, teacher, MemoryError, "no room", mixed_precision="bf16")


def test_a_matrix_that_cannot_be_trained(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the second matrix; the first was made ready before."""
    analog, teacher = models(engine)

    def fails(*_: Any) -> None:
        raise CapabilityError("not this one")

    monkeypatch.setattr(matrices_of(analog)["2"], "prepare_training", fails)
    refused(analog, teacher, CapabilityError, "not this one")


def test_a_compiled_training_that_is_refused(tmp_path: Path) -> None:
    analog, teacher = models("native")
    run(convert(mlp(), RANGED), [random(2, 12)], recipe(), folder=tmp_path)
    options: dict[str, Any] = {"folder": tmp_path, "compile": "eager"}
    refused(analog, teacher, UsageError, "holds a training", **options)


# --- optimizers ---


def test_an_optimizer_over_the_digital_model_trains_nothing_and_is_named(engine: str) -> None:
    """The error counts its parameters.

    It says where they should come from.
    """
    digital = mlp()
    analog = convert(digital, ideal, engine=engine)
    optimizer = torch.optim.SGD(digital.parameters(), lr=0.1)
    match = (
        r"none of its 4 parameters is a trainable parameter of the \w*Sequential.*the digital one"
    )
    with pytest.raises(UsageError, match=match):
        run(analog, [random(2, 12)], recipe(), optimizer=optimizer)
    with pytest.raises(UsageError, match=match):
        train_digital(
            mlp(), [random(2, 12)], lambda m, b: m(b).sum(), recipe=recipe(), optimizer=optimizer,
            progress=False, cpu=True,
        )  # fmt: skip
    frozen = [p.requires_grad_(False) for p in analog[0].parameters()]  # type: ignore[index]
    with pytest.raises(UsageError, match="optimizer: none of its"):
        run(analog, [random(2, 12)], recipe(), optimizer=torch.optim.SGD(frozen, lr=0.1))


def test_a_model_that_is_frozen_whole(engine: str) -> None:
    """It is refused, unless the recipe learns input ranges natively.

    Then these alone train.
    """
    analog, teacher = models(engine)
    analog.requires_grad_(False)
    still = recipe(learn_input_ranges=False, learn_out_scales=False)
    refused(analog, teacher, UsageError, "every parameter of the .* is frozen", how=still)
    before = [matrix.clean_weight() for matrix in matrices_of(analog).values()]
    ranges = [matrix.input_ranges().clone() for matrix in matrices_of(analog).values()]
    how = recipe(learn_input_ranges=True, learn_out_scales=False)
    if engine == "aihwkit":  # Its tiles see no gradient in this case.
        with pytest.raises(UsageError, match="depends on nothing that learns"):
            run(analog, [random(2, 12)], how)
        return
    run(analog, [random(2, 12)], how)
    for matrix, weight, old in zip(matrices_of(analog).values(), before, ranges, strict=True):
        assert torch.equal(matrix.clean_weight(), weight)
        assert not torch.equal(matrix.input_ranges(), old)


def test_an_optimizer_may_have_a_part_of_the_model(engine: str) -> None:
    """The part is a layer, or the input ranges alone.

    The ranges ask for gradients in the training only.
    """
    analog = convert(mlp(), ideal, engine=engine)
    first, last = matrices_of(analog).values()
    before: tuple[Tensor, Tensor] = (first.clean_weight(), last.clean_weight())
    optimizer = torch.optim.SGD(analog[2].parameters(), lr=0.1)  # type: ignore[index]
    run(analog, [random(2, 12)], recipe(), optimizer=optimizer)
    assert torch.equal(first.clean_weight(), before[0])
    assert float((last.clean_weight() - before[1]).abs().max()) > 1e-4

    ranged = convert(linear(12, 5), QUIET if engine == "native" else RANGED, engine=engine)
    calibrate(ranged, [random(20, 12)])
    ranges = [p for name, p in ranged.named_parameters() if name.endswith("input_range")]
    optimizer = torch.optim.SGD(ranges, lr=0.1)
    assert not any(p.requires_grad for p in ranges) or engine == "aihwkit"
    run(ranged, [random(2, 12)], recipe(learn_input_ranges=True), optimizer=optimizer)
    assert all(p.requires_grad for p in ranges) and len(ranges) == 1
