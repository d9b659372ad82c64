"""Transfer of a trained model to the other engine."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import presets
from aimc_bridge import (
    calibrate,
    convert,
    coverage,
    drift,
    handles,
    program,
    restore,
    transfer,
)
from aimc_bridge.converted import digital_state, matrices_of, record_of
from aimc_bridge.engines.match import _REGISTERED
from aimc_bridge.errors import CapabilityError, StateError, UnknownNameError
from presets import rasch2023
from tests.models import ENGINES, QUIET, floats, plain_parameters, random

OTHER = {"native": "aihwkit", "aihwkit": "native"}
STEPS = 1e-4  # of the ADC: the bound on the outputs of one layer


class Sequence(nn.Module):
    """A recurrent layer, attention, a shared layer, and layers that a list and a dict hold too."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.rnn = nn.LSTM(8, 8, num_layers=2, bidirectional=True, proj_size=4, batch_first=True)
        self.attend = nn.MultiheadAttention(8, 2, batch_first=True, add_bias_kv=True)
        self.shared = nn.ModuleList([nn.Linear(8, 8)] * 2)
        self.again = [self.shared[0]]
        self.call = self.shared[0].forward
        self.decoder = nn.Linear(8, 11)
        self.decoder.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        x, _ = self.rnn(self.embed(ids))
        x = x + self.attend(x, x, x)[0]
        for layer in (*self.shared, *self.again, self.call):
            x = torch.tanh(layer(x))
        y: Tensor = self.decoder(x)
        return y


class LowRank(nn.Module):
    """A layer whose handler looks at its weights: the rank decides the shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(random(5, 3) @ random(3, 6, seed=1))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.T


def convert_low_rank(module: LowRank, make_linear: Any) -> nn.Module:
    u, s, v = torch.linalg.svd(module.weight.detach(), full_matrices=False)
    rank = int((s > 1e-4).sum())
    return nn.Sequential(make_linear(v[:rank], None), make_linear(u[:, :rank] * s[:rank], None))


def ids() -> Tensor:
    return torch.arange(12).view(2, 6) % 11


def hf_conv1d() -> nn.Module:
    from transformers.pytorch_utils import Conv1D

    torch.manual_seed(0)
    return nn.Sequential(Conv1D(6, 6), nn.Tanh(), Conv1D(3, 6))  # type: ignore[no-untyped-call]


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "linear alone": (lambda: nn.Linear(700, 600), lambda: random(4, 700)),
    "no bias": (lambda: nn.Linear(5, 4, bias=False), lambda: random(4, 5)),
    "Conv1D": (hf_conv1d, lambda: random(4, 6)),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, dilation=2, padding="same"), lambda: random(2, 4, 9)),
    "conv2d alone": (lambda: nn.Conv2d(3, 6, 3, stride=2, padding=1), lambda: random(2, 3, 8, 8)),
    "conv2d in groups": (
        lambda: nn.Sequential(
            nn.Conv2d(4, 6, (3, 2), groups=2, padding_mode="reflect", padding=(1, 1)),
            nn.BatchNorm2d(6),
        ),
        lambda: random(2, 4, 8, 8),
    ),
    "even kernel": (lambda: nn.Conv2d(2, 3, 2, padding="same"), lambda: random(2, 2, 5, 5)),
    "conv3d": (lambda: nn.Conv3d(2, 3, 2, bias=False), lambda: random(1, 2, 4, 4, 4)),
    "transposed": (
        lambda: nn.Sequential(nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), nn.ReLU()),
        lambda: random(2, 4, 5, 5),
    ),
    "gru": (lambda: nn.GRU(5, 4, num_layers=2), lambda: random(3, 2, 5)),
    "cell": (lambda: nn.RNNCell(5, 4), lambda: random(2, 5)),
    "sequence": (Sequence, ids),
    "handled": (lambda: nn.Sequential(LowRank(), nn.ReLU()), lambda: random(4, 6)),
}


def learned(name: str, engine: str, preset: Any = QUIET) -> tuple[nn.Module, Tensor]:
    """Return a conversion whose every trained number differs from the digital model's."""
    model, inputs = MODELS[name]
    torch.manual_seed(3)
    analog = convert(model(), preset, engine=engine, handlers={LowRank: convert_low_rank}).eval()
    x = inputs()
    calibrate(analog, [x])
    with torch.no_grad():
        for i, parameter in enumerate(plain_parameters(analog)):
            parameter.mul_(1.0 + 0.1 * torch.rand(parameter.shape, generator=seeded(i)))
        for buffer in digital_state(analog, matrices_of(analog)).values():
            buffer.add_(0.25 if buffer.is_floating_point() else 1)
    return analog, x


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.aihwkit
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", MODELS)
def test_outputs_are_the_same_on_the_other_engine(name: str, engine: str) -> None:
    """8-bit converters, IR drop and ranges, without noise: 1e-4 of an ADC step, layer by layer.

    A whole model is compared to the same bound in steps of its largest output: a value next to a
    rounding border could move a later layer by a step, which does not happen with these seeds.
    """
    analog, x = learned(name, engine)
    before = {key: value.clone() for key, value in analog.state_dict().items()}
    other = transfer(analog, OTHER[engine])
    assert record_of(other).engine == OTHER[engine] and record_of(analog).engine == engine
    steps = 2**QUIET.crossbar.adc_bits - 2
    with torch.no_grad():
        for y, z in zip(floats(analog(x)), floats(other(x)), strict=True):
            assert y.shape == z.shape and y.dtype == z.dtype
            assert float((y - z).abs().max()) <= STEPS * 2 * float(y.abs().max()) / steps
    for key, value in analog.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert coverage(other).equals(coverage(analog))


@pytest.mark.aihwkit
@pytest.mark.parametrize("engine", ENGINES)
def test_everything_learned_arrives_and_comes_back(engine: str) -> None:
    """Scales, learned scales, ranges, flags, modes: there and back again, in own units."""
    preset = QUIET.change(learned_out_scales=True, why="test")
    analog, _ = learned("sequence", engine, preset)
    analog.rnn.train()  # type: ignore[union-attr, operator]
    for parameter in analog.decoder.parameters():  # type: ignore[union-attr]
        parameter.requires_grad_(False)
    matrices_of(analog)["decoder"].periphery()["out_scale"][0].requires_grad_(True)
    other = transfer(analog, OTHER[engine])
    back = transfer(other, engine)
    assert type(back) is type(analog)
    assert set(back.state_dict()) == set(analog.state_dict())
    assert [m.training for m in back.modules()] == [m.training for m in analog.modules()]
    flags = {name: p.requires_grad for name, p in analog.named_parameters()}
    if engine == "native":  # the other engine keeps a flag per tile, and all are of one matrix
        assert {name: p.requires_grad for name, p in back.named_parameters()} == flags
    for model in (other, back):
        for name, matrix in matrices_of(model).items():
            source = matrices_of(analog)[name]
            assert matrix.trainable() == source.trainable() == (name != "decoder")
            for part in ("clean_weight", "column_scale", "learned_scale", "input_ranges", "bias"):
                got, expected = getattr(matrix, part)(), getattr(source, part)()
                assert (got is None) == (expected is None), (name, part)
                if got is not None:
                    torch.testing.assert_close(got, expected, rtol=1e-6, atol=0, msg=part)
            assert float((source.learned_scale() - 1).abs().max()) > 0.01
        ours = digital_state(model, matrices_of(model))
        for key, value in digital_state(analog, matrices_of(analog)).items():
            assert torch.equal(ours[key], value), key


@pytest.mark.parametrize("engine", ENGINES)
def test_the_same_engine_gives_a_copy(engine: str) -> None:
    analog, x = learned("conv2d in groups", engine)
    same = transfer(analog, engine)
    expected = analog(x)
    for parameter in plain_parameters(analog):
        parameter.data.zero_()
    assert torch.equal(same(x), expected) and coverage(same).equals(coverage(analog))


@pytest.mark.aihwkit
@pytest.mark.parametrize("engine", ENGINES)
def test_shared_and_hidden_references_stay_shared(engine: str) -> None:
    analog, _ = learned("sequence", engine)
    other: Any = transfer(analog, OTHER[engine])
    assert other.shared[0] is other.shared[1] is other.again[0] is other.call.__self__
    assert len(matrices_of(other)) == len(matrices_of(analog))


def test_overrides_and_excluded_parts_stay() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 2))
    changed = QUIET.change(adc_bits=6, why="test")
    analog = convert(model, QUIET, exclude="1", overrides={"2": changed})
    other = transfer(analog, "aihwkit")
    assert {name: m.preset for name, m in matrices_of(other).items()} == {"0": QUIET, "2": changed}
    assert type(other[1]) is nn.Linear and other[1] is not analog[1]  # type: ignore[index]
    record, old = record_of(other), record_of(analog)
    assert record.preset == old.preset and record.presets == old.presets


def test_registered_handlers_are_not_called_again() -> None:
    calls = []

    class Mine(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    @handles(Mine)
    def convert_mine(module: Mine, make_linear: Any) -> nn.Module:
        calls.append(module)
        return nn.Sequential(make_linear(2 * module.weight, 2 * module.bias))

    try:
        analog = convert(nn.Sequential(Mine(4, 3)), presets.ideal)
    finally:
        del _REGISTERED[Mine]
    other = transfer(analog, "aihwkit")
    assert len(calls) == 1
    x = random(5, 4)
    torch.testing.assert_close(other(x), analog(x))


def test_a_transferred_model_works_like_a_converted_one() -> None:
    """It programs the chips that a conversion of the same weights programs, and can be copied."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 7), nn.ReLU(), nn.Linear(7, 3)).eval()
    for engine, start in OTHER.items():
        direct = convert(model, rasch2023, engine=engine)
        moved = copy.deepcopy(transfer(convert(model, rasch2023, engine=start), engine))
        for analog in (direct, moved):
            program(analog, 5)
            drift(analog, "1d")
        for name, matrix in matrices_of(direct).items():
            got = matrices_of(moved)[name].effective_weight()
            torch.testing.assert_close(got, matrix.effective_weight(), rtol=1e-5, atol=1e-6)
        assert all(matrix.label == f"layer {name!r}" for name, matrix in matrices_of(moved).items())  # type: ignore[attr-defined]


def test_hooks_go_with_their_layer() -> None:
    analog, x = learned("linear alone", "native")
    seen = []
    analog.register_forward_hook(lambda module, args, out: seen.append(type(module).__name__))
    other = transfer(analog, "aihwkit")
    other(x)
    assert seen == [type(other).__name__]


def test_what_cannot_be_transferred_says_why() -> None:
    analog, _ = learned("cell", "native")
    with pytest.raises(UnknownNameError, match="no engine 'aihwkitt'; there are: native, aihwkit"):
        transfer(analog, "aihwkitt")
    program(analog, 3)
    for engine in ENGINES:
        with pytest.raises(StateError, match=r"chip of seed 3.*restore\(model\) first"):
            transfer(analog, engine)
    restore(analog)
    transfer(analog, "aihwkit")
    with pytest.raises(CapabilityError, match="not a converted model"):
        transfer(nn.Linear(2, 2), "native")
