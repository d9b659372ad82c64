"""Batch-norm statistics on a chip: they are those of the data, and undo what the chip shifts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from aimc_bridge import calibrate, convert, drift, program, reestimate_batchnorm, restore
from aimc_bridge.errors import CalibrationError, UsageError
from tests.models import QUIET, assert_close, random


def net() -> nn.Sequential:
    """Return a normalisation of images, a convolution, and a normalisation of its outputs."""
    torch.manual_seed(1)
    return nn.Sequential(
        nn.BatchNorm2d(3, affine=False), nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU()
    ).eval()


def batches() -> list[Tensor]:
    """Return batches of different sizes, means and spreads."""
    return [random(n, 3, 8, 8, seed=n) * (1 + n) + n for n in (2, 5, 3)]


def pooled(parts: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the mean and unbiased variance of each channel over all batches."""
    flat = torch.cat([part.double().transpose(0, 1).flatten(1) for part in parts], dim=1)
    return flat.mean(1).float(), flat.var(1).float()


def test_statistics_are_those_of_all_the_data() -> None:
    """Statistics of all data are pooled.

    They are not averaged over batches. The second layer's are those behind the first layer, which
    normalises by the batch.
    """
    model, data = net(), batches()
    assert reestimate_batchnorm(model, data) == 2
    mean, variance = pooled(data)
    assert_close(model[0].running_mean, mean, "mean")
    assert_close(model[0].running_var, variance, "variance")
    with torch.no_grad():
        hidden = []
        for x in data:
            centred = x - x.mean((0, 2, 3), keepdim=True)
            spread = x.var((0, 2, 3), unbiased=False, keepdim=True)
            hidden.append(model[1](centred / (spread + model[0].eps).sqrt()))
    mean, variance = pooled(hidden)
    assert_close(model[2].running_mean, mean, "second mean", 1e-4)
    assert_close(model[2].running_var, variance, "second variance", 1e-4)
    averaged = torch.stack([x.var((0, 2, 3)) for x in data]).mean(0)
    # An average over batches would be seen.
    assert float((model[0].running_var / averaged - 1).abs().min()) > 0.02


def test_one_dimension_and_a_model_in_training_mode() -> None:
    """Modes, momentum and the count of batches stay as they were."""
    model = nn.Sequential(nn.BatchNorm1d(4, momentum=None), nn.Dropout(0.5)).train()
    model(random(9, 4))
    data = [random(7, 4, seed=5), random(2, 4, seed=6)]
    reestimate_batchnorm(model, data)
    mean, variance = pooled(data)
    assert_close(model[0].running_mean, mean, "mean")
    assert_close(model[0].running_var, variance, "variance")
    assert model.training and model[0].training and model[0].momentum is None
    assert int(model[0].num_batches_tracked) == 1
    sequences = [random(3, 4, 5, seed=1)]
    reestimate_batchnorm(model, sequences)
    mean, variance = pooled(sequences)
    assert_close(model[0].running_mean, mean, "mean of sequences")


def test_on_a_drifted_chip_outputs_are_normalised_again(engine: str) -> None:
    """The chip's own outputs have the new statistics.

    They are the outputs of the convolution; the weights are untouched.
    """
    model, data = net(), batches()
    reestimate_batchnorm(model, data)
    analog = convert(model, QUIET, engine=engine)
    calibrate(analog, data)
    program(analog, 3)
    drift(analog, 3.15e7)
    before = {k: v.clone() for k, v in analog.state_dict().items() if "running" not in k}
    old = analog[2].running_var.clone()
    assert reestimate_batchnorm(analog, data) == 2
    assert not analog.training
    with torch.no_grad():
        hidden = []
        for x in data:
            centred = x - x.mean((0, 2, 3), keepdim=True)
            spread = x.var((0, 2, 3), unbiased=False, keepdim=True)
            hidden.append(analog[1](centred / (spread + analog[0].eps).sqrt()))
    mean, variance = pooled(hidden)
    assert_close(analog[2].running_mean, mean, "mean", 1e-4)
    assert_close(analog[2].running_var, variance, "variance", 1e-4)
    # The chip moved the statistics.
    assert float((analog[2].running_var / old - 1).abs().max()) > 0.02
    for key, value in before.items():
        assert torch.equal(analog.state_dict()[key], value), key
    restore(analog)


def test_what_cannot_be_re_estimated() -> None:
    with pytest.raises(UsageError, match="Sequential has no batch normalisation"):
        reestimate_batchnorm(nn.Sequential(nn.Linear(2, 2)), [random(2, 2)])
    untracked = nn.Sequential(nn.BatchNorm1d(2, track_running_stats=False), nn.Linear(2, 2))
    with pytest.raises(UsageError, match="nothing to re-estimate"):
        reestimate_batchnorm(untracked, [random(2, 2)])
    with pytest.raises(CalibrationError, match="no batches; pass at least one"):
        reestimate_batchnorm(net(), [])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
@pytest.mark.parametrize("number", [0, 2])
def test_data_that_are_not_finite_leave_the_statistics(number: int, value: float) -> None:
    """No layer's statistics are set, the first one's neither.

    The first layer sees the data as they are. A variance that overflows is not finite either.
    """
    model, data = net().train(), batches()
    model[1].eval()
    data[number][0, 1, 2, 3] = value
    before = {k: v.clone() for k, v in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    with pytest.raises(CalibrationError, match="NaN or infinite statistics at '0'"):
        reestimate_batchnorm(model, data)
    for key, old in before.items():
        assert torch.equal(model.state_dict()[key], old), key
    assert [module.training for module in model.modules()] == modes
    assert model[0].momentum == model[2].momentum == 0.1


def test_values_that_a_model_makes_infinite_leave_the_statistics() -> None:
    """The normalisation before keeps its own too.

    Its statistics would be finite.
    """
    model = net()
    model[1].weight.data.fill_(float("nan"))
    before = {k: v.clone() for k, v in model.state_dict().items() if "running" in k}
    with pytest.raises(CalibrationError, match="NaN or infinite statistics at '2'"):
        reestimate_batchnorm(model, batches())
    for key, value in before.items():
        assert torch.equal(model.state_dict()[key], value), key


def test_empty_batches_count_for_nothing() -> None:
    """Empty batches alone are an error; among others they change nothing."""
    data, empty = batches(), torch.zeros(0, 3, 8, 8)
    states = []
    for data_set in (data, [empty, *data[:1], empty, *data[1:]]):
        analog = convert(net(), QUIET)
        calibrate(analog, data)
        before = {k: v.clone() for k, v in analog.state_dict().items()}
        with pytest.raises(CalibrationError, match="only empty batches at '0'; pass data"):
            reestimate_batchnorm(analog, [empty, empty])
        for key, old in before.items():
            assert torch.equal(analog.state_dict()[key], old), key
        assert reestimate_batchnorm(analog, data_set) == 2
        states.append(analog.state_dict())
    for key, value in states[0].items():
        assert torch.equal(states[1][key], value), key


def test_batches_with_labels_are_an_error() -> None:
    model = net()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(UsageError, match=r"too many positional arguments.*leave labels out"):
        reestimate_batchnorm(model, [(batches()[0], torch.zeros(2))])
    for key, value in before.items():
        assert torch.equal(model.state_dict()[key], value), key
    assert not any(module.training for module in model.modules())


def test_a_failure_leaves_the_statistics() -> None:
    model = net()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(RuntimeError):
        reestimate_batchnorm(model, [batches()[0], random(2, 5, 8, 8)])
    for key, value in before.items():
        assert torch.equal(model.state_dict()[key], value), key
    assert not any(module.training for module in model.modules())
    assert model[0].momentum == 0.1
