"""Computed weights (weight norm and its kind) are folded, exactly in evaluation mode."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from aimc_bridge import convert, coverage
from aimc_bridge.errors import ConversionError
from presets import ideal
from tests.models import assert_close, linear, random


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated")
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    ("norm", "note"),
    [
        (parametrizations.weight_norm, "weight norm"),
        (parametrizations.spectral_norm, "spectral norm"),
        (parametrizations.orthogonal, "orthogonal parametrization"),
        (nn.utils.weight_norm, "weight norm"),
        (nn.utils.spectral_norm, "spectral norm"),
        (lambda layer: prune.l1_unstructured(layer, "weight", amount=0.3), "pruning mask"),
    ],
)
def test_folded_weights_equal_digital(
    engine: str, norm: Callable[[nn.Module], nn.Module], note: str, training: bool
) -> None:
    model = nn.Sequential(linear(12, 8), nn.ReLU(), norm(linear(8, 5, seed=3)))
    x = random(6, 12)
    model.train()(x)  # hooks compute the weight in a pass, so it is no leaf now
    model[2].requires_grad_(False)
    analog = convert(model.train(training), ideal, engine=engine)
    assert analog.training == training
    assert coverage(analog).reason[1] == f"{note} folded in: training changes the folded weight"
    assert_close(analog.eval()(x), model.eval()(x), note)
    assert not any(p.requires_grad for n, p in analog[2].named_parameters() if "weight" in n)


def test_folded_convolution_and_recurrent_layers(engine: str) -> None:
    conv = parametrizations.weight_norm(nn.Conv1d(8, 8, 4, padding=2, groups=2), dim=2)
    assert_close(convert(conv, ideal, engine=engine)(random(2, 8, 9)), conv(random(2, 8, 9)), "")
    lstm = parametrizations.weight_norm(nn.LSTM(5, 6), "weight_hh_l0")
    x = random(4, 2, 5)
    assert_close(convert(lstm, ideal, engine=engine)(x)[0], lstm(x)[0], "lstm")


def test_a_parametrization_of_the_users_is_refused_and_an_embedding_stays(engine: str) -> None:
    class Symmetric(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return weight.triu() + weight.triu(1).T

    own = linear(4, 4)
    nn.utils.parametrize.register_parametrization(own, "weight", Symmetric())
    table = parametrizations.weight_norm(nn.Embedding(9, 4))
    model = nn.ModuleDict({"table": table, "head": linear(4, 4)})
    reasons = coverage(convert(model, ideal, engine=engine)).set_index("module").reason
    assert reasons["table.parametrizations.weight"] == "embedding"
    model["own"] = own
    with pytest.raises(ConversionError, match=r'remove_parametrizations.*exclude=\["own"\]$'):
        convert(model, ideal, engine=engine)
