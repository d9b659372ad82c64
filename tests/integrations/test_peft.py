"""LoRA adapters of peft: before `convert`, and on the chip of a converted model."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import (
    IA3Config,
    LoraConfig,
    PeftConfig,
    PeftModel,
    get_peft_model,
    inject_adapter_in_model,
)
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
)

from aimc_bridge import calibrate, convert, coverage, drift, program, restore, transfer
from aimc_bridge.converted import matrices_of
from aimc_bridge.errors import CapabilityError, StateError, UsageError
from aimc_bridge.integrations.peft import for_analog
from presets import ideal, rasch2023
from tests.models import DEVICES, ENGINES, QUIET, assert_close, mlp, only, random

IDS = torch.arange(12).view(2, 6) % 11
DIGITAL = ("*pooler*", "classifier")


@pytest.fixture(autouse=True)
def no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


def bert() -> nn.Module:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=11,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=8,
        initializer_range=0.3,
    )
    return BertForSequenceClassification(config).eval()


def gpt2() -> nn.Module:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=11, n_positions=8, n_embd=16, n_layer=2, n_head=2)
    return GPT2LMHeadModel(config).eval()


def targets(model: str) -> dict[str, Any]:
    if model == "bert":
        return {"target_modules": ["query", "value", "intermediate.dense"]}
    return {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True}


def lora(**settings: Any) -> LoraConfig:
    return LoraConfig(r=2, lora_alpha=4, init_lora_weights=False, **settings)


def adapter(model: nn.Module) -> dict[str, Tensor]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def on_chip(preset: Any = rasch2023, engine: str = "native") -> nn.Module:
    analog = convert(bert(), preset, engine=engine, exclude=DIGITAL)
    calibrate(analog, [IDS])
    program(analog, 7)
    drift(analog, "1y")
    return analog


# --- before convert ---


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("model", ["bert", "gpt2"])
def test_adapters_before_convert(model: str, engine: str) -> None:
    """Beside analog layers as digital layers, or merged into them: the digital outputs."""
    torch.manual_seed(1)
    adapted = get_peft_model({"bert": bert, "gpt2": gpt2}[model](), lora(**targets(model))).eval()
    exclude = [*DIGITAL[:1], "*classifier*"] if model == "bert" else ["*lm_head*"]
    with torch.no_grad():
        expected = adapted(IDS).logits
        analog = convert(adapted, ideal, engine=engine, exclude=[*exclude, "*lora_*"])
        assert_close(analog(IDS).logits, expected, "unmerged")
        table = coverage(analog).set_index("module")
        adapters = [name for name in table.index if "lora_" in name]
        assert len(adapters) == 2 * sum("base_layer" in name for name in table.index)
        assert set(table.loc[adapters, "where"]) == {"digital"}
        assert set(table.loc[adapters, "reason"]) == {"excluded by '*lora_*'"}
        merged = convert(adapted.merge_and_unload(), ideal, engine=engine, exclude=exclude)
        assert_close(merged(IDS).logits, expected, "merged")
    assert not any("lora_" in name for name in coverage(merged)["module"])


# --- on a chip ---


@pytest.mark.parametrize("way", ["get_peft_model", "inject_adapter_in_model"])
def test_adapters_are_trained_on_a_frozen_drifted_chip(way: str) -> None:
    """A chip's outputs plus B A x; only adapters change, and the chip stays the same to the bit."""
    analog = on_chip(QUIET)
    with torch.no_grad():
        before = analog(IDS).logits
    trained = {name: matrix.clean_weight() for name, matrix in matrices_of(analog).items()}
    chip = {name: matrix.chip_state() for name, matrix in matrices_of(analog).items()}
    config = for_analog(LoraConfig(r=2, **targets("bert"), inference_mode=False))
    torch.manual_seed(0)
    if way == "get_peft_model":
        model: nn.Module = get_peft_model(analog, config)
    else:
        model = inject_adapter_in_model(config, analog)
        assert model is analog
    parameters = adapter(model)
    assert parameters and all("lora_" in name for name in parameters)
    with torch.no_grad():  # B starts with 0
        assert torch.equal(model.eval()(IDS).logits, before)
    optimizer = torch.optim.Adam(parameters.values(), lr=0.1)
    labels, losses = torch.tensor([1, 0]), []
    for _ in range(20):
        torch.manual_seed(0)
        loss = model.train()(IDS, labels=labels).loss
        loss.backward()
        assert all(
            p.grad is not None and bool(p.grad.isfinite().all()) for p in adapter(model).values()
        )
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    # base layers have another name now, in the same order
    for (name, matrix), old in zip(matrices_of(analog).items(), trained, strict=True):
        assert matrix.name == old
        assert torch.equal(matrix.clean_weight(), trained[old]), name
        state = matrix.chip_state()
        assert state.keys() == chip[old].keys()
        assert all(torch.equal(state[key], chip[old][key]) for key in state), name


def test_gradients_pass_through_the_weights_that_the_chip_holds() -> None:
    """Against the closed form: d y / d x is the weight on the crossbar times its compensation."""
    analog = convert(nn.Linear(12, 5), DEVICES, engine="native").requires_grad_(False)
    program(analog, 3)
    drift(analog, "1y")
    matrix = only(analog)
    held = matrix.effective_weight() * matrix.grid.expand_columns(matrix.alpha())
    assert float((held - matrix.clean_weight()).abs().max()) > 0.01
    for training in (True, False):
        x = random(3, 12).requires_grad_(True)
        y = analog.train(training)(x)
        (grad,) = torch.autograd.grad(y.sum(), x)
        assert_close(y, x @ held.T + analog.bias, "output")
        assert_close(grad, held.sum(0).expand(3, -1), "gradient")


@pytest.mark.parametrize("engine", ENGINES)
def test_tile_weights_cannot_be_trained_on_a_chip(engine: str) -> None:
    analog = convert(nn.Linear(4, 3), DEVICES, engine=engine).train()
    program(analog, 1)
    way = {"native": r"freeze.*requires_grad_\(False\)", "aihwkit": 'use engine="native"'}[engine]
    with pytest.raises(StateError, match=f"layer holds a programmed chip.*the chip, {way}"):
        analog(random(2, 4))


@pytest.mark.parametrize("kind", ["out_scale", "input_range"])
def test_the_periphery_cannot_be_trained_on_a_chip(kind: str) -> None:
    preset = rasch2023.change(learned_out_scales=True, why="test")
    analog = convert(nn.Linear(4, 3), preset).requires_grad_(False).train()
    calibrate(analog, [random(8, 4)])
    program(analog, 1)
    analog(random(2, 4))
    for parameter in only(analog).periphery()[kind]:
        parameter.requires_grad_(True)
    with pytest.raises(StateError, match="programmed chip and is in training mode"):
        analog(random(2, 4))


def test_a_chip_in_training_mode_computes_as_in_inference() -> None:
    """IR drop stays on and ranges stay as they are, whatever a training had switched."""
    analog = convert(nn.Linear(64, 5), QUIET).requires_grad_(False)
    calibrate(analog, [random(8, 64)])
    matrix: Any = only(analog)
    program(analog, 1)
    expected = analog.eval()(random(6, 64))
    matrix.ir_drop_in_training = False
    matrix.ranges.start_batches = 10
    ranges = matrix.input_ranges()
    assert torch.equal(analog.train()(random(6, 64)), expected)
    assert torch.equal(matrix.input_ranges(), ranges)


def test_it_is_the_same_chip_with_and_without_adapters() -> None:
    """Programming and drift draw the same numbers: streams keep the layers' names."""
    plain, adapted = on_chip(), on_chip()
    get_peft_model(adapted, for_analog(lora(**targets("bert"))))
    for step in (lambda m: drift(m, "1d"), lambda m: program(m, 8), lambda m: drift(m, "1h")):
        step(plain)
        step(adapted)
        pairs = zip(matrices_of(plain).values(), matrices_of(adapted).values(), strict=True)
        for first, second in pairs:
            assert torch.equal(first.effective_weight(), second.effective_weight())
            assert torch.equal(first.alpha(), second.alpha())


def test_adapters_are_listed() -> None:
    analog = on_chip()
    fresh = coverage(analog)
    config = lora(**targets("bert"), modules_to_save=["classifier"])
    get_peft_model(analog, for_analog(config))
    table = coverage(analog, IDS)
    assert table.iloc[: len(fresh)][list(fresh.columns)].equals(fresh)
    added = table.iloc[len(fresh) :]
    layers, products = added[added["calls"] == 0], added[added["calls"] > 0]
    assert set(layers["where"]) == {"digital"}
    assert set(layers["reason"]) == {"excluded: added after convert"}
    adapters = layers[layers["module"].str.contains("lora_")]
    assert len(adapters) == 2 * 6 and len(layers) == len(adapters) + 1
    assert layers["module"].iloc[-1] == "classifier.modules_to_save.default"
    assert products["reason"].str.contains("excluded").all()
    analog_rows = table[table["where"] == "analog"]
    assert (analog_rows["calls"] == 1).all()


@pytest.mark.parametrize(
    "settings", [{}, {"use_dora": True}, {"use_rslora": True, "lora_dropout": 0.5}]
)
def test_adapters_are_saved_and_loaded(tmp_path: Path, settings: dict[str, Any]) -> None:
    """By peft's own functions, onto a model whose chip is programmed."""
    torch.manual_seed(4)
    first = get_peft_model(on_chip(QUIET), for_analog(lora(**targets("bert"), **settings))).eval()
    second = on_chip(QUIET)
    with torch.no_grad():
        plain, expected = second(IDS).logits, first(IDS).logits
        assert not torch.allclose(plain, expected, atol=1e-2)
        first.save_pretrained(tmp_path)
        config = for_analog(PeftConfig.from_pretrained(tmp_path))  # type: ignore[arg-type]
        loaded = PeftModel.from_pretrained(second, tmp_path, config=config)
        assert torch.equal(loaded.eval()(IDS).logits, expected)
        with loaded.disable_adapter():
            assert torch.equal(loaded(IDS).logits, plain)
        assert torch.equal(loaded.unload()(IDS).logits, plain)


def test_a_state_dict_of_weights_is_still_refused_on_a_chip() -> None:
    analog = on_chip()
    state = analog.state_dict()
    one = "bert.encoder.layer.0.output.dense.weight"
    for part in (state, {one: state[one]}):
        with pytest.raises(StateError, match=r"call restore\(model\) first"):
            analog.load_state_dict(part, strict=False)
    analog.load_state_dict({"classifier.bias": torch.ones(2)}, strict=False)
    assert torch.equal(analog.classifier.bias, torch.ones(2))  # type: ignore[union-attr, arg-type]


def test_layers_of_hugging_face_conv1d_and_dora() -> None:
    """Weights stored as [in, out]: the adapters' product and DoRA's norms have the right shape.

    Without noise the analog model with an adapter equals the digital one with the same adapter.
    """
    for settings in ({}, {"use_dora": True}):
        torch.manual_seed(2)
        digital = get_peft_model(gpt2(), lora(**targets("gpt2"), **settings)).eval()
        torch.manual_seed(2)
        analog = convert(gpt2(), ideal, exclude="lm_head")
        config = lora(target_modules=["c_attn", "c_proj"], **settings)
        model = get_peft_model(analog, for_analog(config)).eval()
        weights = {k: v for k, v in digital.state_dict().items() if "lora_" in k}
        model.load_state_dict(weights, strict=False)
        with torch.no_grad():
            assert_close(model(IDS).logits, digital(IDS).logits, str(settings))


def test_adapters_inside_recurrent_layers() -> None:
    analog = convert(nn.Sequential(nn.LSTM(6, 5)), DEVICES)
    program(analog, 2)
    model = get_peft_model(analog, for_analog(lora(target_modules=["hh_l0"])))
    model.train()(random(4, 3, 6))[0].sum().backward()
    assert all(p.grad is not None for p in adapter(model).values()) and len(adapter(model)) == 2


def test_an_adapted_model_is_transferred() -> None:
    analog = convert(mlp(), QUIET)
    calibrate(analog, [random(8, 12)])
    get_peft_model(analog, for_analog(lora(target_modules=["0"])))
    other = transfer(analog.eval(), "aihwkit")
    with torch.no_grad():
        assert_close(other(random(8, 12)), analog(random(8, 12)), "aihwkit")
    assert [matrix.name for matrix in matrices_of(other).values()] == ["0", "2"]


# --- refusals ---


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (IA3Config(target_modules=["query"]), "IA3Config; allowed: a peft.LoraConfig"),
        (LoraConfig(target_modules="all-linear"), "finds digital layers only"),
        (LoraConfig(init_lora_weights="pissa"), "'pissa' would change the weights"),
    ],
)
def test_configurations_that_cannot_work(config: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        for_analog(config)


def test_layers_that_cannot_have_adapters() -> None:
    aihwkit = on_chip(ideal, "aihwkit")
    with pytest.raises(CapabilityError, match=r'transfer\(model, engine="native"\)'):
        get_peft_model(aihwkit, for_analog(lora(**targets("bert"))))
    conv = convert(nn.Sequential(nn.Conv2d(2, 3, 1)), ideal)
    with pytest.raises(CapabilityError, match="no adapter for AnalogConv"):
        get_peft_model(conv, for_analog(lora(target_modules=["0"])))


def test_adapters_are_not_merged_into_a_chip() -> None:
    analog = on_chip()
    model: Any = get_peft_model(analog, for_analog(lora(**targets("bert"))))
    for merge in (model.merge_adapter, model.merge_and_unload):
        with pytest.raises(CapabilityError, match="merge into the digital model before convert"):
            merge()
    restore(analog)
    assert model.unload() is analog and not any("lora_" in k for k in analog.state_dict())
