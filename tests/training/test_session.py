"""The session of a training alone: a user's own loop around it is `train`."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from aimc_bridge import convert, train
from aimc_bridge.converted import matrices_of
from aimc_bridge.training import default_optimizer
from aimc_bridge.training.session import Session
from tests.models import QUIET, RANGED, mlp, random
from tests.training.test_training import recipe

FIELDS: dict[str, Any] = {
    "noise_type": "pcm",
    "noise_scale": 2.0,
    "ramp_batches": 4,
    "drop_connect": 0.05,
    "clip_type": "layer_gaussian",
    "clip_value": 2.0,
    "remap_every": 3,
    "learn_input_ranges": True,
    "input_range_init_batches": 2,
    "learn_out_scales": True,
    "learning_rate": 0.01,
}


def test_a_loop_of_ones_own_around_a_session_is_train(engine: str) -> None:
    """It is the same bit for bit.

    This covers ramp, clipping, remapping, learned ranges and scales.
    """
    data = [random(8, 12, seed=seed) for seed in range(8)]
    how = recipe(**FIELDS)
    preset = QUIET if engine == "native" else RANGED
    expected, model = (convert(mlp(), preset, engine=engine) for _ in range(2))
    history = train(
        expected,
        data,
        lambda m, x: m(x).square().mean(),
        recipe=how,
        seed=7,
        progress=False,
        cpu=True,
    )
    session = Session(model, matrices_of(model), how.spec, seed=7)
    session.prepare()
    optimizer = default_optimizer(model, how.spec)
    session.begin()
    model.train()
    for step, x in enumerate(data):
        session.start()
        assert session.noise_scale == history.noise_scale[step]
        loss = model(x).square().mean()
        loss.backward()
        session.end()
        optimizer.step()
        optimizer.zero_grad()
        session.stepped()
        assert float(loss.detach()) == history.loss[step]
    session.close()
    for name, value in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name


def test_a_session_that_never_began_leaves_the_model_as_it_was(engine: str) -> None:
    preset = QUIET if engine == "native" else RANGED
    model = convert(nn.Sequential(*mlp()), preset, engine=engine)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    asks = [parameter.requires_grad for parameter in model.parameters()]
    session = Session(
        model, matrices_of(model), recipe(**FIELDS, input_range_start="data").spec, seed=7
    )
    session.prepare()
    assert [parameter.requires_grad for parameter in model.parameters()] != asks
    session.start()
    session.close()
    assert [parameter.requires_grad for parameter in model.parameters()] == asks
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name


@pytest.mark.filterwarnings("ignore")  # The warnings are torch's own, while it compiles.
def test_a_compiled_training_of_a_recurrent_layer_is_the_same() -> None:
    """torch.compile cannot follow the loop over time steps.

    It compiles the steps.
    """

    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.rnn, self.head = nn.LSTM(4, 5), nn.Linear(5, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.rnn(x)[0][-1])  # type: ignore[no-any-return]

    losses = []
    for compiled in (False, "aot_eager"):
        analog = convert(Last(), QUIET)
        history = train(
            analog,
            [random(2, 2, 4, seed=seed) for seed in range(2)],
            lambda m, x: m(x).square().mean(),
            recipe=recipe(**{**FIELDS, "ramp_batches": 0}),
            compile=compiled,
            progress=False,
            cpu=True,
        )
        losses.append(history.loss.tolist())
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
