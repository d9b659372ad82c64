"""Public models as they are: they convert, or the error ends with an exclude that works."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torchvision
import transformers
from torch import Tensor, fx, nn
from torch.ao.quantization import quantize_dynamic
from torchvision.models.feature_extraction import create_feature_extractor

from aimc_bridge import convert, coverage
from aimc_bridge.errors import ConversionError
from presets import ideal
from tests.models import assert_close, floats, linear, mlp, random


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def hugging_face(name: str, head: str, **config: Any) -> nn.Module:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = {**sizes, "intermediate_size": 24, **config}
    kind = getattr(transformers, f"{name}Config")
    made: nn.Module = getattr(transformers, name + head)(kind(**config))
    return made


AUDIO = {
    "vocab_size": 32,
    "conv_dim": (8,) * 3,
    "conv_kernel": (10, 3, 3),
    "conv_stride": (5, 2, 2),
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
}
VISION = {"image_size": 16, "patch_size": 8}
IMAGE, SOUND = random(1, 3, 16, 16), random(1, 600)

MODELS: dict[str, tuple[Callable[[], nn.Module], dict[str, Any]]] = {
    "torchvision ViT": (
        lambda: torchvision.models.VisionTransformer(16, 8, 1, 2, 16, 24, num_classes=4),
        {"x": IMAGE},
    ),
    "torchvision ConvNeXt": (
        lambda: torchvision.models.ConvNeXt(
            [torchvision.models.convnext.CNBlockConfig(8, None, 2)], num_classes=4
        ),
        {"x": IMAGE},
    ),
    "timm ViT": (lambda: timm.create_model("test_vit", img_size=32), {"x": random(1, 3, 32, 32)}),
    "timm XCiT": (
        lambda: timm.models.Xcit(
            img_size=16, patch_size=8, embed_dim=16, depth=1, num_heads=2, cls_attn_layers=1
        ),
        {"x": IMAGE},
    ),
    "timm NFNet": (lambda: timm.create_model("test_nfnet"), {"x": random(1, 3, 32, 32)}),
    "Hugging Face ViT": (
        lambda: hugging_face("ViT", "ForImageClassification", **VISION),
        {"pixel_values": IMAGE},
    ),
    "DeiT": (lambda: hugging_face("DeiT", "Model", **VISION), {"pixel_values": IMAGE}),
    "BEiT": (
        lambda: hugging_face("Beit", "Model", use_relative_position_bias=True, **VISION),
        {"pixel_values": IMAGE},
    ),
    "DINOv2": (lambda: hugging_face("Dinov2", "Model", **VISION), {"pixel_values": IMAGE}),
    "SigLIP": (lambda: hugging_face("SiglipVision", "Model", **VISION), {"pixel_values": IMAGE}),
    "ConvNeXt V2": (
        lambda: transformers.ConvNextV2Model(
            transformers.ConvNextV2Config(hidden_sizes=[8, 8], depths=[1, 1], num_stages=2)
        ),
        {"pixel_values": IMAGE},
    ),
    "wav2vec2": (lambda: hugging_face("Wav2Vec2", "ForCTC", **AUDIO), {"input_values": SOUND}),
    "HuBERT": (lambda: hugging_face("Hubert", "Model", **AUDIO), {"input_values": SOUND}),
    "PatchTST": (
        lambda: transformers.PatchTSTForPrediction(
            transformers.PatchTSTConfig(
                context_length=16,
                patch_length=4,
                patch_stride=4,
                d_model=8,
                num_hidden_layers=1,
                num_attention_heads=2,
                ffn_dim=8,
                num_input_channels=2,
                prediction_length=4,
            )
        ),
        {"past_values": random(1, 16, 2)},
    ),
    "RWKV": (
        lambda: transformers.RwkvModel(
            transformers.RwkvConfig(vocab_size=30, hidden_size=8, num_hidden_layers=2)
        ),
        {"input_ids": torch.tensor([[3, 8, 1]])},
    ),
    "LeViT": (
        lambda: transformers.LevitModel(
            transformers.LevitConfig(
                image_size=64,
                hidden_sizes=[8, 8, 8],
                num_attention_heads=[1, 1, 1],
                depths=[1, 1, 1],
                key_dim=[4, 4, 4],
            )
        ),
        {"pixel_values": random(1, 3, 64, 64)},
    ),
    "Swin": (
        lambda: transformers.SwinModel(
            transformers.SwinConfig(
                image_size=16, patch_size=4, embed_dim=8, depths=[1], num_heads=[2], window_size=2
            )
        ),
        {"pixel_values": IMAGE},
    ),
}
# They read dtype, device or values of a layer's `.weight`, which aihwkit's layers do not have.
READ_WEIGHTS = {"timm XCiT", "Hugging Face ViT", "DeiT", "DINOv2", "SigLIP", "RWKV"}


@pytest.mark.parametrize("name", MODELS)
def test_converts_strictly_and_equals_digital(engine: str, name: str) -> None:
    make, inputs = MODELS[name]
    model = make().eval()
    analog = convert(model, ideal, engine=engine)
    if engine == "aihwkit" and name in READ_WEIGHTS:
        return
    with torch.no_grad():
        pairs = list(zip(floats(analog(**inputs)), floats(model(**inputs)), strict=True))
    assert pairs
    for got, expected in pairs:
        assert_close(got, expected, name, 3e-5)


# --- an exclude to paste ---


class Bare(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Parameter(random(4, 4))
        self.table = nn.Parameter(random(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.mix + self.table[:1]


class Scaled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 2.0 * super().forward(x)


class Hidden(nn.Module):
    """Holds a layer outside of the module tree."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = [linear(4, 4)]

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.stages[0](x)
        return y


def pasted(error: BaseException) -> list[str]:
    found = re.search(r"exclude=\[(.*)\]$", str(error))
    assert found is not None, str(error)
    return [name.strip('"') for name in found[1].split(", ")]


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_the_exclude_of_the_error_works_when_pasted(engine: str) -> None:
    def block() -> nn.Sequential:
        return nn.Sequential(linear(4, 4), Bare(), Scaled(4, 4))

    model = nn.Sequential(*[block() for _ in range(3)], Hidden(), nn.Linear(4, 0), linear(4, 4))
    with pytest.raises(ConversionError) as error:
        convert(model, ideal, engine=engine, exclude="5")
    assert pasted(error.value) == ["5", "3", "4", "*.1.mix", "*.2"]
    unserved, refused = str(error.value).split("these layers cannot be converted as they are")
    assert "mix" in unserved and "write a handler for their types" in unserved
    assert "Scaled changes the forward pass" in refused and "stages" in refused
    analog = convert(model, ideal, engine=engine, exclude=pasted(error.value))
    table = coverage(analog)
    assert list(table[table["where"] == "analog"].module) == ["0.0", "1.0", "2.0"]
    left = convert(model, ideal, engine=engine, strict=False)
    assert list(coverage(left)[coverage(left)["where"] == "analog"].module)[-1] == "5"


def test_an_exclude_to_paste_matches_nothing_else() -> None:
    model = nn.ModuleDict({"a": nn.ModuleList([Scaled(4, 4), linear(4, 4), Scaled(4, 4)])})
    with pytest.raises(ConversionError) as error:
        convert(model, ideal)
    assert pasted(error.value) == ["a.0", "a.2"]  # "a.*" would exclude the layer between


def test_a_layer_in_an_unknown_container(engine: str) -> None:
    model = mlp()
    model.own = {model[0]: "a layer as a key"}
    with pytest.raises(ConversionError, match="'own' holds a layer in a dict") as error:
        convert(model, ideal, engine=engine)
    assert pasted(error.value) == ["0"]
    analog = convert(model, ideal, engine=engine, exclude=pasted(error.value))
    assert list(coverage(analog)["where"]) == ["digital", "analog"]


# --- what multiplies without a parameter, and what has no cells ---


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_quantised_layers_are_refused_by_type(engine: str) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.first, self.head = nn.LSTM(4, 4), linear(4, 4), linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.head(self.first(self.lstm(x)[0]))
            return y

    try:
        model = quantize_dynamic(Net(), {nn.LSTM, "first"}, dtype=torch.qint8)
    except RuntimeError as problem:
        pytest.skip(f"no quantised kernels here: {problem}")
    with pytest.raises(ConversionError, match="multiplies with quantised weights") as error:
        convert(model, ideal, engine=engine)
    assert pasted(error.value) == ["lstm", "first"]
    for options in ({"strict": False}, {"exclude": pasted(error.value)}):
        analog = convert(model, ideal, engine=engine, **options)  # type: ignore[arg-type]
        table = coverage(analog).set_index("module")
        assert table.loc["first"]["where"] == "digital"
        assert table.loc["first"].reason.startswith(("refused: Linear of torch.ao", "excluded"))
        assert_close(analog(random(3, 1, 4)), model(random(3, 1, 4)), "quantised")


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_layers_without_cells_are_refused_in_one_error(engine: str) -> None:
    model = nn.ModuleDict(
        {
            "in": nn.Linear(0, 4),
            "out": nn.Linear(4, 0),
            "conv": nn.Conv2d(0, 4, 3, bias=False),  # torch would leave a bias unset
            "fine": linear(4, 4),
        }
    )
    with pytest.raises(ConversionError) as error:
        convert(model, ideal, engine=engine)
    message = str(error.value)
    assert "in (Linear with an empty weight (4, 0))" in message
    assert "out (Linear with an empty weight (0, 4))" in message
    assert "conv (Conv2d with an empty weight (4, 0, 3, 3))" in message
    assert "change them as the reasons say" in message
    assert "write a handler" not in message  # there is one, and it cannot help
    analog = convert(model, ideal, engine=engine, exclude=pasted(error.value))
    assert list(coverage(analog)[coverage(analog)["where"] == "analog"].module) == ["fine"]
    lazy = nn.ModuleDict({"a": nn.LazyLinear(3), "b": nn.LazyConv1d(3, 2), "fine": linear(4, 4)})
    with pytest.raises(ConversionError, match=r"'a\.weight', .*'b\.weight'.*: no values yet"):
        convert(lazy, ideal, engine=engine)


# --- training modes, and torch.fx ---


@pytest.mark.parametrize("training", [False, True])
def test_feature_extractors_keep_their_mode(engine: str, training: bool) -> None:
    model, inputs = MODELS["torchvision ViT"][0](), IMAGE
    extractor = create_feature_extractor(model, ["encoder.layers", "heads"]).train(training)
    analog = convert(extractor, ideal, engine=engine)
    modes = {name: m.training for name, m in extractor.named_modules()}
    assert all(modes[n] == m.training for n, m in analog.named_modules() if n in modes)
    for got, expected in zip(floats(analog(inputs)), floats(extractor(inputs)), strict=True):
        assert_close(got, expected, "features", 3e-5)


def test_graphs_keep_mixed_modes_hooks_and_attributes(engine: str) -> None:
    model = nn.Sequential(linear(4, 4), nn.Dropout(0.5), nn.BatchNorm1d(4), linear(4, 4)).train()
    graph = fx.symbolic_trace(model)
    graph.get_submodule("1").eval()
    graph.get_submodule("2").eval()
    graph.note = "mine"
    graph.register_forward_hook(lambda module, x, y: 3.0 * y)
    graph.get_submodule("0").requires_grad_(False)
    analog = convert(graph, ideal, engine=engine)
    assert [m.training for m in analog.children()] == [True, False, False, True]
    assert analog.note == "mine"
    x = random(6, 4)
    assert_close(analog(x), graph(x), "hooked graph")
    if engine == "native":  # aihwkit's layers have parameters of their own
        assert not any(p.requires_grad for p in analog.get_submodule("0").parameters())
    graph.get_submodule("0").register_forward_hook(lambda *_: None)
    with pytest.raises(ConversionError, match=r'forward hooks.*exclude=\["0"\]$'):
        convert(graph, ideal, engine=engine)


def test_a_bare_parameter_of_a_graph_is_read_in_its_code(engine: str) -> None:
    graph = fx.symbolic_trace(nn.Sequential(linear(4, 4), Bare()))
    with pytest.raises(ConversionError) as error:
        convert(graph, ideal, engine=engine)
    assert pasted(error.value) == ["1.mix"]


def test_what_a_module_keeps_of_its_last_pass_is_no_obstacle() -> None:
    model = mlp()
    model.last = model(random(3, 12))
    analog = convert(model, ideal)
    assert torch.equal(analog.last, model.last) and analog.last is not model.last
    assert copy.deepcopy(analog) is not None
