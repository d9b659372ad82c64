"""Conversion: each layer type equals digital on an ideal chip; nothing is lost on the way."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import nn

from aimc_bridge import calibrate, convert, coverage, drift, program
from aimc_bridge.conversion import copy_trained
from aimc_bridge.converted import matrices_of
from aimc_bridge.errors import CapabilityError, ConversionError
from presets import hermes, ideal, rasch2023
from tests.models import (
    ENGINES,
    QUIET,
    RANGED,
    TOLERANCE,
    assert_close,
    assert_same_function,
    linear,
    mlp,
    plain_parameters,
    random,
)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


class PlainSubclass(nn.Linear):
    """A subclass that keeps the forward pass."""


# --- equal to digital, layer by layer ---

LINEAR: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "plain": (lambda: nn.Linear(12, 7), (5, 12)),
    "no bias": (lambda: nn.Linear(12, 7, bias=False), (5, 12)),
    "unbatched": (lambda: nn.Linear(12, 7), (12,)),
    "many dimensions": (lambda: nn.Linear(12, 7), (2, 3, 4, 12)),
    "subclass": (lambda: PlainSubclass(12, 7), (5, 12)),
    "several tiles": (lambda: nn.Linear(700, 600), (5, 700)),
    "one input": (lambda: nn.Linear(1, 3), (5, 1)),
    "many rows": (lambda: nn.Linear(1500, 3), (5, 1500)),
    "many columns": (lambda: nn.Linear(3, 1500), (5, 3)),
}


@pytest.mark.parametrize("case", LINEAR)
def test_linear_equals_digital(engine: str, case: str) -> None:
    make, shape = LINEAR[case]
    model = make()
    analog = convert(model, ideal, engine=engine)
    assert_same_function(model, analog, random(*shape), weights=engine == "native")


MODES = ("zeros", "reflect", "replicate", "circular")
CONVS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    **{
        f"{d}d {mode}": (
            lambda d=d, mode=mode: (nn.Conv1d, nn.Conv2d, nn.Conv3d)[d - 1](  # type: ignore[misc]
                4, 6, 3, padding=1, stride=2 if mode == "zeros" else 1, padding_mode=mode
            ),
            (2, 4, *(6, 5, 4)[:d]),
        )
        for d in (1, 2, 3)
        for mode in MODES
    },
    "groups": (lambda: nn.Conv2d(8, 12, 3, groups=4, padding=1), (2, 8, 5, 6)),
    "depthwise": (lambda: nn.Conv1d(6, 12, 3, groups=6, bias=False), (2, 6, 9)),
    "3d groups": (lambda: nn.Conv3d(4, 4, 2, groups=2, stride=2), (2, 4, 4, 5, 6)),
    "dilation": (lambda: nn.Conv2d(3, 5, (3, 2), dilation=(2, 3), padding=(2, 1)), (2, 3, 9, 8)),
    "stride": (lambda: nn.Conv2d(3, 5, 3, stride=(1, 3)), (2, 3, 8, 9)),
    "stride beyond kernel": (lambda: nn.Conv2d(3, 5, 1, stride=2), (2, 3, 7, 8)),
    "uneven kernel": (lambda: nn.Conv2d(3, 5, (1, 4), padding=(0, 2)), (2, 3, 5, 7)),
    "same": (lambda: nn.Conv2d(3, 5, (3, 4), padding="same"), (2, 3, 6, 7)),
    "same dilated": (lambda: nn.Conv1d(3, 5, 4, padding="same", dilation=2), (2, 3, 12)),
    "same circular": (
        lambda: nn.Conv2d(3, 5, 4, padding="same", padding_mode="circular"),
        (2, 3, 6, 7),
    ),
    "valid": (lambda: nn.Conv2d(3, 5, 3, padding="valid"), (2, 3, 6, 7)),
    "valid reflect": (
        lambda: nn.Conv2d(3, 5, 3, padding="valid", padding_mode="reflect"),
        (2, 3, 6, 7),
    ),
    "unbatched": (lambda: nn.Conv2d(3, 5, 3, padding=1), (3, 6, 7)),
    "no bias": (lambda: nn.Conv2d(3, 5, 3, bias=False), (2, 3, 6, 7)),
    # 57 * 9 = 513 rows lie on 257 + 256, so the second tile begins inside a channel.
    "tiles inside a channel": (lambda: nn.Conv2d(57, 520, 3, padding=1), (1, 57, 4, 4)),
    "groups on several tiles": (
        lambda: nn.Conv1d(2 * 180, 2 * 520, 3, groups=2, padding=1),
        (1, 360, 4),
    ),
}


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("case", CONVS)
def test_convolution_equals_digital(engine: str, case: str) -> None:
    make, shape = CONVS[case]
    model = make()
    analog = convert(model, ideal, engine=engine)
    assert_same_function(model, analog, random(*shape), weights=engine == "native")


@pytest.mark.parametrize("kind", ["linear", "conv", "groups"])
def test_input_range_of_every_tile_keeps_gradients(kind: str) -> None:
    """Ranges that differ between column tiles keep gradients too.

    They take another way through the products.
    """
    model, x = {
        "linear": (nn.Linear(700, 600), random(4, 700)),
        "conv": (nn.Conv2d(57, 520, 3, padding=1), random(1, 57, 4, 4)),
        "groups": (nn.Conv1d(360, 1040, 3, groups=2), random(2, 360, 5)),
    }[kind]
    preset = ideal.change(input_range="learned", why="ranges without a DAC")
    analog = convert(model, preset)
    (matrix,) = matrices_of(analog).values()
    rows, columns = len(matrix.grid.rows), len(matrix.grid.columns)
    assert rows * columns > 2
    matrix.set_input_ranges(10.0 + torch.arange(rows * columns).view(rows, columns))
    assert_same_function(model, analog, x)


def test_hugging_face_conv1d_equals_digital(engine: str) -> None:
    from transformers.pytorch_utils import Conv1D

    model = Conv1D(7, 12)
    analog = convert(model, ideal, engine=engine)
    assert_same_function(model, analog, random(2, 3, 12), weights=engine == "native")
    if engine == "native":
        effective = analog.effective_weight()  # type: ignore[operator]
        assert_close(effective, model.weight, "effective weight")


# --- whole models ---


def test_wide_resnet_equals_digital(engine: str) -> None:
    from benchmarks.tasks.wrn import WideResNet

    model = WideResNet(16, 4, 10).eval()
    analog = convert(model, ideal, engine=engine)
    assert_same_function(model, analog, random(2, 3, 8, 8), weights=engine == "native")
    table = coverage(analog)
    assert set(table[table["where"] == "analog"].type) == {"Conv2d", "Linear"}
    assert set(table[table["where"] == "digital"].reason) == {"normalisation"}


def test_bert_of_twelve_layers_equals_digital(engine: str) -> None:
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=12,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
    )
    model = BertForSequenceClassification(config).eval()
    analog = convert(model, ideal, engine=engine)
    ids = torch.randint(0, 50, (3, 9), generator=torch.Generator().manual_seed(1))
    mask = torch.arange(9) < torch.tensor([9, 4, 7])[:, None]
    with torch.no_grad():
        expected = model(ids, attention_mask=mask).logits
        assert_close(analog(ids, attention_mask=mask).logits, expected, "masked output")
    assert_same_function(model, analog, ids, weights=engine == "native")
    table = coverage(analog)
    assert (table["where"] == "analog").sum() == 12 * 6 + 2
    assert set(table[table["where"] == "digital"].reason) == {"embedding", "normalisation"}


def test_gpt2_equals_digital(engine: str) -> None:
    """The model has Hugging Face's Conv1D, and a head that shares the embedding's weight."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        n_embd=16,
        n_layer=2,
        n_head=2,
        vocab_size=50,
        n_positions=16,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = GPT2LMHeadModel(config).eval()
    assert model.lm_head.weight is model.transformer.wte.weight
    analog = convert(model, ideal, engine=engine)
    ids = torch.randint(0, 50, (3, 9), generator=torch.Generator().manual_seed(1))
    expected, got = model(ids).logits, analog(ids).logits
    assert_close(got, expected, "output")
    table = coverage(analog).set_index("module")
    assert (table["where"] == "analog").sum() == 2 * 4 + 1
    head = table.loc["lm_head"]
    assert head["where"] == "analog" and "tied to transformer.wte.weight" in head.reason
    assert table.loc["transformer.wte"]["where"] == "digital"
    if engine != "native":
        return
    for logits in (expected, got):
        logits.square().sum().backward()
    together = analog.lm_head.weight.grad + analog.transformer.wte.weight.grad
    assert_close(together, model.lm_head.weight.grad, "gradient of the tied weight")


def test_bidirectional_lstm_equals_digital(engine: str) -> None:
    model = nn.LSTM(9, 11, num_layers=2, bidirectional=True)
    analog = convert(model, ideal, engine=engine)
    assert_same_function(model, analog, random(5, 3, 9), weights=False)


def test_encoder_fast_path_is_not_taken(engine: str) -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.TransformerEncoder(layer, 2).eval()
    analog = convert(model, ideal, engine=engine)
    x = random(3, 5, 8)
    with torch.no_grad():
        expected = model(x)
        assert_close(analog(x), expected, "output")
        analog.layers[1].linear1.forward = lambda x: torch.zeros(*x.shape[:-1], 16)  # type: ignore
        assert not torch.allclose(analog(x), expected)


# --- what survives a conversion ---


def test_given_model_is_untouched(engine: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))
    model[0].weight.requires_grad_(False)
    model[1].eval()
    before = copy.deepcopy(model)
    types = [type(m) for m in model.modules()]
    state = torch.get_rng_state()
    analog = convert(model, rasch2023 if engine == "native" else ideal, engine=engine)
    if engine == "native":
        assert torch.equal(state, torch.get_rng_state())
    assert [type(m) for m in model.modules()] == types
    for (name, a), b in zip(model.named_parameters(), before.parameters(), strict=True):
        assert torch.equal(a, b) and a.requires_grad == b.requires_grad, name
    assert [m.training for m in model.modules()] == [m.training for m in before.modules()]
    x = random(2, 3, 4, 4)
    analog = convert(model, ideal, engine=engine)
    with torch.no_grad():
        for parameter in plain_parameters(analog):
            parameter.zero_()
        assert torch.equal(model(x), before(x))


def test_training_mode_and_flags_are_kept(engine: str) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(), nn.Linear(4, 2)).train()
    model[0].eval().requires_grad_(False)
    analog = convert(model, ideal, engine=engine)
    assert [m.training for m in analog.children()] == [False, True, True]
    if engine == "native":
        assert not any(p.requires_grad for p in analog[0].parameters())
        trained = {n for n, p in analog[2].named_parameters() if p.requires_grad}
        assert trained == {"weight", "bias"}


def test_float64_is_kept_and_exact() -> None:
    model = nn.Sequential(nn.Linear(700, 600), nn.Unflatten(1, (6, 100)), nn.Conv1d(6, 5, 3))
    model, x = model.double(), random(3, 700, dtype=torch.float64)
    analog = convert(model, ideal)
    kinds = {t.dtype for t in [*analog.parameters(), *analog.buffers()] if t.is_floating_point()}
    assert kinds == {torch.float64}
    assert_close(analog(x), model(x), "output", 1e-13)
    noisy = convert(model, rasch2023).eval()
    calibrate(noisy, [x])
    program(noisy, 1)
    drift(noisy, 60.0)
    assert noisy(x).dtype == torch.float64


def test_weights_of_eight_bits_are_refused(engine: str) -> None:
    model = nn.Sequential(linear(4, 4), linear(4, 4))
    model[1].weight = nn.Parameter(model[1].weight.to(torch.float8_e4m3fn), requires_grad=False)
    message = "weights of torch.float8_e4m3fn; allowed: float16, bfloat16, float32, float64"
    with pytest.raises(CapabilityError, match=f"{engine} engine: {message}"):
        convert(model[1], ideal, engine=engine)


def test_state_dict_keys_are_the_digital_ones_and_more(engine: str) -> None:
    if engine != "native":
        pytest.skip("aihwkit's modules have names of their own")
    model = mlp()
    keys = set(convert(model, rasch2023).state_dict())
    assert set(model.state_dict()) < keys


@pytest.mark.parametrize("way", ["deepcopy", "pickle", "torch.save"])
def test_copies_are_independent(engine: str, way: str) -> None:
    """A copied crossbar reads its own layer's weights, not those of the original."""
    preset = QUIET if engine == "native" else ideal
    analog = convert(mlp(), preset, engine=engine).eval()
    x = random(6, 12)
    calibrate(analog, [x])
    with torch.no_grad():
        expected = analog(x)  # This fills what is stored between products.
        if way == "deepcopy":
            other = copy.deepcopy(analog)
        elif way == "pickle":
            other = pickle.loads(pickle.dumps(analog))
        else:
            file = io.BytesIO()
            torch.save(analog, file)
            file.seek(0)
            other = torch.load(file, weights_only=False)
        assert torch.equal(other(x), expected)
        assert coverage(other).equals(coverage(analog))
        for matrix in matrices_of(analog).values():
            matrix.set_clean_weight(torch.ones_like(matrix.clean_weight()))
        assert torch.equal(other(x), expected)
        assert not torch.allclose(analog(x), expected)
        program(other, 1)
    program(analog, 2)


# --- from one conversion to another ---


@pytest.mark.parametrize("engine_to", ENGINES)
def test_copy_trained(engine: str, engine_to: str) -> None:
    """Weights, biases, learned scales, ranges and digital parameters arrive; outputs agree."""
    model = nn.Sequential(nn.Linear(700, 600), nn.BatchNorm1d(600), nn.Linear(600, 3)).eval()
    source = convert(model, RANGED, engine=engine)
    target = convert(model, RANGED, engine=engine_to)
    x = random(6, 700)
    calibrate(source, [x])
    with torch.no_grad():
        for i, parameter in enumerate(plain_parameters(source)):
            parameter.mul_(1.0 + 0.1 * random(*parameter.shape, seed=i))
        source[1].running_mean.add_(1.0)  # type: ignore[union-attr, operator]
        expected = source(x)
        copy_trained(source, target)
        assert_close(target(x), expected, "output", 3 * TOLERANCE)
    for name, matrix in matrices_of(target).items():
        ranges = matrices_of(source)[name].input_ranges()
        assert ranges is not None and matrix.input_ranges() is not None
        assert_close(matrix.input_ranges(), ranges, name, 1e-6)  # type: ignore[arg-type]
    other = convert(nn.Sequential(nn.Linear(700, 3)), hermes, engine=engine)
    with pytest.raises(ConversionError, match="not the same analog layers: 2"):
        copy_trained(source, other)
