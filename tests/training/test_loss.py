"""Dropout and distillation of a hardware-aware training."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from aimc_bridge import convert
from aimc_bridge.errors import SpecError, TrainingError
from aimc_bridge.training import logits_of
from presets import ideal
from tests.models import linear, mlp, random
from tests.stats import assert_mean
from tests.training.test_training import STILL, recipe, run

# --- dropout ---


class Dropping(nn.Module):
    """A model with every place that has a rate.

    These are torch's layers, LSTM, attention, and a Hugging Face encoder.
    """

    def __init__(self) -> None:
        from transformers import BertConfig, BertModel

        super().__init__()
        torch.manual_seed(6)
        config = BertConfig(
            vocab_size=20,
            hidden_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            hidden_dropout_prob=0.4,
            attention_probs_dropout_prob=0.4,
        )
        self.bert = BertModel(config, add_pooling_layer=False)
        self.attention = nn.MultiheadAttention(8, 2, dropout=0.4, batch_first=True)
        self.lstm = nn.LSTM(8, 8, num_layers=2, dropout=0.4, batch_first=True)
        self.drop = nn.Dropout(0.4)
        self.out = nn.Linear(8, 3)

    def forward(self, ids: Tensor) -> Tensor:
        hidden = self.bert(ids).last_hidden_state
        hidden = self.attention(hidden, hidden, hidden, need_weights=False)[0]
        return self.out(self.drop(self.lstm(hidden)[0][:, -1]))


@pytest.mark.parametrize("place", ["bert", "attention", "lstm", "drop"])
def test_a_recipes_dropout_rules_while_it_trains(engine: str, place: str) -> None:
    """At 0 the training's loss is that of the model in eval mode.

    None leaves the model's own rates.
    """
    from aimc_bridge.training.schedule import rates, set_rates

    model = Dropping()
    for name in ("bert", "attention", "lstm", "drop"):
        if name != place:  # One place alone can tell the two apart.
            set_rates(rates(getattr(model, name)), 0.0)
    analog = convert(model, ideal, engine=engine)
    before = [(name, rate) for _, name, rate in rates(analog)]
    batch = torch.arange(60).view(10, 6) % 20
    plain = float(analog.eval()(batch).detach().square().mean())

    def loss_at(dropout: float | None) -> float:
        return float(run(analog, [batch], recipe(dropout=dropout, learning_rate=STILL)).loss[0])

    assert loss_at(0.0) == pytest.approx(plain, rel=1e-5)
    assert [(name, rate) for _, name, rate in rates(analog)] == before
    assert loss_at(None) != pytest.approx(plain, rel=1e-3)


def test_dropout_has_its_rate(engine: str) -> None:
    """Behind a dropout of rate p, a share p of ones is 0 and the others are 1 / (1 - p)."""
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 2))
    analog = convert(model, ideal, engine=engine)
    seen: list[Tensor] = []
    analog[0].register_forward_hook(lambda module, args, out: seen.append(out.detach()))
    run(analog, [torch.ones(200_000, 4)], recipe(dropout=0.2, learning_rate=STILL))
    assert set(seen[0].unique().tolist()) == {0.0, 1.25}
    assert_mean((seen[0] == 0).float().flatten(), 0.2)
    assert analog[0].p == 0.5


# --- distillation ---


class Output:
    def __init__(self, logits: Tensor) -> None:
        self.logits = logits


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
@torch.random.fork_rng()
def test_distillation_loss_by_hand(weight: float) -> None:
    """The loss is (1 - w) loss + w T^2 sum p log(p / q), both softened by T.

    It is a mean over samples.
    """
    analog, teacher = convert(mlp(), ideal), nn.Sequential(linear(12, 5, seed=8), nn.Dropout())
    teacher.train()
    x = random(6, 12)
    student = analog(x).detach().double()
    target = teacher[0](x).detach().double()
    how = recipe(distill_weight=weight, distill_temperature=4.0, learning_rate=STILL)
    history = run(analog, [x], how, teacher=teacher)
    p, q = (target / 4.0).softmax(1), (student / 4.0).softmax(1)
    follow = 16.0 * (p * (p / q).log()).sum(1).mean()
    expected = (1.0 - weight) * student.square().mean() + weight * follow
    assert float(history.loss[0]) == pytest.approx(float(expected), rel=1e-5)
    assert teacher.training and teacher[1].training
    assert all(p.grad is None for p in teacher.parameters())


class Named(nn.Module):
    """A model with another method to call than its forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp()

    def forward(self, x: Tensor) -> Tensor:
        return self.logits(x)

    def logits(self, x: Tensor) -> Tensor:
        scores: Tensor = self.net(x)
        return scores


@pytest.mark.parametrize("way", ["method", "submodule"])
def test_a_loss_that_goes_around_the_model_cannot_be_followed(engine: str, way: str) -> None:
    """The first mini-batch that does so is an error.

    Calls of the validation do not count as calls of the loss.
    """
    analog, teacher = convert(Named(), ideal, engine=engine), Named()
    steps = []

    def loss(m: nn.Module, batch: Tensor) -> Tensor:
        steps.append(len(steps))
        if len(steps) < 3:
            return m(batch).square().mean()
        inner = m.logits if way == "method" else m.net
        return inner(batch).square().mean()  # type: ignore[operator]

    how = recipe(distill_weight=0.5, learning_rate=STILL)
    options = {"validate": lambda m: float(m(random(2, 12)).mean()), "validate_every": 1}
    match = r"never called the model in mini-batch 2.*model\(\.\.\.\).*distill_weight=0.0"
    with pytest.raises(TrainingError, match=match):
        run(analog, [random(2, 12)] * 5, how, teacher=teacher, loss=loss, **options)
    assert steps == [0, 1, 2]
    assert len(run(analog, [random(2, 12)] * 5, recipe(learning_rate=STILL), loss=loss)) == 5


def test_logits_of_outputs() -> None:
    x = random(2, 3)
    assert logits_of(x) is x and logits_of(Output(x)) is x and logits_of((x, None)) is x
    with pytest.raises(SpecError, match="no logits in a str"):
        logits_of("text")
