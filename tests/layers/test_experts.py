"""Experts and routers of transformers 5: they equal digital, and other uses are refused."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import transformers
from torch import nn
from torch.nn import functional

from aimc_bridge import calibrate, convert, coverage, drift, program, restore
from aimc_bridge.converted import matrices_of
from aimc_bridge.errors import CapabilityError
from aimc_bridge.layers import linear_around
from aimc_bridge.layers.routed import RoutedMatrix, RoutedStack
from presets import ideal, rasch2023
from tests.models import assert_close, random

SMALL = {
    "hidden_size": 16,
    "intermediate_size": 12,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 40,
    "num_experts_per_tok": 2,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "Mixtral": {"num_local_experts": 3},
    "Qwen3Moe": {"num_experts": 3, "moe_intermediate_size": 8, "head_dim": 8},
    "GptOss": {"num_local_experts": 3, "head_dim": 8},
    "Llama4": {
        "num_local_experts": 2,
        "head_dim": 8,
        "intermediate_size_mlp": 12,
        "num_experts_per_tok": 1,
        "pad_token_id": 0,
    },
    "Phimoe": {"num_local_experts": 3},
    "JetMoe": {"num_local_experts": 2, "kv_channels": 8},
}


def model(name: str) -> nn.Module:
    torch.manual_seed(0)
    config = SMALL | CONFIGS[name]
    if name == "JetMoe":
        config |= {"num_key_value_heads": 2}
        del config["num_attention_heads"]
    kind = getattr(transformers, f"{name}TextConfig" if name == "Llama4" else f"{name}Config")
    made: nn.Module = getattr(transformers, f"{name}ForCausalLM")(kind(**config)).eval()
    with torch.no_grad():  # some configurations start their experts at 0
        for index, parameter in enumerate(made.parameters()):
            if parameter.ndim == 3:
                parameter.copy_(random(*parameter.shape, seed=index) / 4)
    return made


IDS = torch.tensor([[3, 7, 1, 20, 33, 8]])


@pytest.mark.parametrize("name", CONFIGS)
def test_equals_digital(engine: str, name: str) -> None:
    digital = model(name)
    before = copy.deepcopy(digital.state_dict())
    analog = convert(digital, ideal, engine=engine)
    with torch.no_grad():
        assert_close(analog(IDS).logits, digital(IDS).logits, name)
    table = coverage(analog)
    stacks = [n for n, p in digital.named_parameters() if p.ndim == 3]
    for stack in stacks:
        row = table.set_index("module").loc[stack.rpartition(".")[0]]
        assert row["where"] == "analog", stack
    digital_rows = table[table["where"] == "digital"]
    assert set(digital_rows.reason) <= {"embedding", "normalisation", "no weight matrix"}
    assert all(torch.equal(value, before[key]) for key, value in digital.state_dict().items())


def test_a_chip_of_experts_drifts_and_is_restored() -> None:
    analog = convert(model("Mixtral"), rasch2023)
    calibrate(analog, [IDS])
    with torch.no_grad():
        torch.manual_seed(0)
        clean = analog(IDS).logits
        program(analog, seed=1)
        drift(analog, 3600.0)
        assert analog(IDS).logits.isfinite().all()
        restore(copied := copy.deepcopy(analog))
        torch.manual_seed(0)
        assert torch.equal(copied(IDS).logits, clean)
    experts = [name for name in matrices_of(analog) if ".experts.gate_up_proj." in name]
    assert len(experts) == 3


def test_gradients_reach_every_expert() -> None:
    digital = model("Mixtral")
    analog = convert(digital, ideal)
    for one in (digital, analog):
        one(IDS).logits.square().sum().backward()
    theirs = digital.get_parameter("model.layers.0.mlp.experts.down_proj").grad
    assert theirs is not None
    for index, grad in enumerate(theirs):
        ours = analog.get_parameter(
            f"model.layers.0.mlp.experts.down_proj.experts.{index}.weight"
        ).grad
        if grad.abs().max() > 0:
            assert ours is not None
            assert_close(ours, grad, f"expert {index}", 1e-4)


# --- what stands for a weight ---


def stack() -> RoutedStack:
    return RoutedStack(random(3, 5, 4), False, linear_around)


def test_products_of_a_routed_weight() -> None:
    w, x = random(5, 4), random(6, 4, seed=1)
    routed = RoutedMatrix(w, linear_around)
    bias = random(5, seed=2)
    assert_close(functional.linear(x, routed), x @ w.T, "linear")
    assert_close(functional.linear(x, routed.float(), bias=bias), x @ w.T + bias, "bias")
    assert_close(x @ routed.T, x @ w.T, "@")
    assert_close(torch.matmul(x, routed.t()), x @ w.T, "matmul")
    assert_close(x @ routed.to(torch.float64).transpose(0, 1), x @ w.T, "transpose")
    doubled = functional.linear(x.double(), routed)
    assert doubled.dtype == torch.float64
    flipped = RoutedStack(random(3, 4, 5), True, linear_around)
    xs = random(3, 6, 4, seed=3)
    assert_close(torch.bmm(xs, flipped), torch.bmm(xs, random(3, 4, 5)), "bmm")


@pytest.mark.parametrize(
    ("use", "name"),
    [
        (lambda x, w: x @ w[0], "matmul"),
        (lambda x, w: functional.linear(x, w[0].T), "linear"),
        (lambda x, w: torch.einsum("bi,oi->bo", x, w[1]), "einsum"),
        (lambda x, w: torch.bmm(x.expand(3, 6, 4), w), "bmm"),
        (lambda x, w: w[torch.tensor([0, 1])], "an index of several matrices"),
        (lambda x, w: torch.cat([x, w[0]]), "cat"),
        (lambda x, w: functional.linear(x, w), "linear"),
    ],
)
def test_other_uses_are_refused(use: Any, name: str) -> None:
    with pytest.raises(CapabilityError, match=f"used by {name}; allowed: linear"):
        use(random(6, 4), stack())
