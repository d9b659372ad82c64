"""Entries of timm: convolutional networks, vision transformers, mixers."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import nn

from benchmarks.zoo.entry import Entry, images


def _by_name(name: str, options: Mapping[str, Any]) -> Any:
    import timm

    return timm.create_model(name, pretrained=False, num_classes=5, **options)


def _entry(
    name: str,
    model: str | Callable[[], nn.Module],
    size: int,
    options: Mapping[str, Any] | None = None,
    count: int = 2,
    **own: Any,
) -> Entry:
    """Return an entry of a model of timm.

    Args:
        name: The architecture.
        model: The name of one of its models in timm, or a function that makes it.
        size: Height and width of the images.
        options: Options of timm's model if it is made by name.
        count: Number of images.
        **own: Options of the entry.
    """
    build = partial(_by_name, model, options or {}) if isinstance(model, str) else model
    return Entry("timm", name, build, partial(images, size, count=count), **own)


def _mixer(block: str, mlp: str = "Mlp", norm: str = "", ratio: Any = 2.0) -> Any:
    mixer = importlib.import_module("timm.models.mlp_mixer")
    options = {"norm_layer": getattr(mixer, norm)} if norm else {}
    return mixer.MlpMixer(
        *(5, 32, 3, 8, 2, 32, ratio, getattr(mixer, block), getattr(mixer, mlp)), **options
    )


def _convmixer() -> Any:
    from timm.models.convmixer import ConvMixer

    return ConvMixer(16, 2, 3, 4, num_classes=5)


def _resnet(block: str, **options: Any) -> Any:
    """Return a narrow ResNet of four blocks of a kind, named "module:class"."""
    from timm.models.resnet import ResNet

    module, _, kind = block.partition(":")
    narrow: dict[str, Any] = {"num_classes": 5, "channels": (16, 16, 32, 32), "stem_width": 16}
    blocks = getattr(importlib.import_module(f"timm.models.{module}"), kind)
    return ResNet(blocks, (1, 1, 1, 1), **narrow, **options)


def _blurred() -> Any:
    from timm.layers import BlurPool2d

    return _resnet("resnet:Bottleneck", stem_type="deep", avg_down=True, aa_layer=BlurPool2d)


def _poolformer() -> Any:
    from timm.models.metaformer import MetaFormer

    return MetaFormer(3, 5, depths=(1, 1, 1, 1), dims=(8, 16, 24, 32))


def _big_transfer() -> Any:
    from timm.models.resnetv2 import ResNetV2

    return ResNetV2((1, 1), (128, 256), 5, stem_type="fixed", stem_chs=32)


def _efficientnet(*blocks: str, **options: Any) -> Any:
    """Return an EfficientNet of one stage per block, in timm's notation of blocks."""
    from timm.models._efficientnet_builder import decode_arch_def
    from timm.models.efficientnet import EfficientNet

    stages = decode_arch_def([[block] for block in blocks])
    return EfficientNet(stages, num_classes=5, num_features=32, stem_size=8, **options)


def _ghostnet() -> Any:
    from timm.models.ghostnet import GhostNet

    settings = [[[3, 16, 16, 0, 1]], [[3, 48, 24, 0.25, 2]]]
    return GhostNet(settings, num_classes=5, drop_rate=0.0)


def _regnet() -> Any:
    from timm.models.regnet import RegNet, RegNetCfg

    settings = RegNetCfg(depth=4, w0=16, wa=24.0, wm=1.5, group_size=8, se_ratio=2.0)
    return RegNet(settings, num_classes=5)


def _hrnet() -> Any:
    """Return an HRNet without its classifier, which would be nine tenths of it."""
    from timm.models.hrnet import HighResolutionNetFeatures

    settings: dict[str, Any] = {"stem_width": 16}
    for stage in range(1, 5):
        settings[f"stage{stage}"] = {
            "num_modules": 1,
            "num_branches": stage,
            "block_type": "BOTTLENECK" if stage == 1 else "BASIC",
            "num_blocks": (1,) * stage,
            "num_channels": (8, 16, 24, 32)[:stage],
            "fuse_method": "SUM",
        }
    return HighResolutionNetFeatures(settings, feature_location="", out_indices=(1, 2, 3, 4))


_VIT: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2}
_TWO: dict[str, Any] = {"num_heads": 2}

ENTRIES = (
    # vision transformers
    _entry("ViT", "vit_tiny_patch16_224", 32, _VIT | _TWO, everyday=True),
    _entry("ViT with registers and layer scale", "test_vit3", 160),
    _entry("DeiT distilled", "deit_tiny_distilled_patch16_224", 32, _VIT | _TWO),
    _entry("DeiT III", "deit3_small_patch16_224", 32, _VIT | _TWO),
    _entry(
        "BEiT",
        "beit_base_patch16_224",
        32,
        _VIT | _TWO,
        exclude=("*.attn.qkv",),
        why="attention reads the weights of this layer without calling it",
    ),
    _entry(
        "EVA-02",
        "eva02_tiny_patch14_224",
        32,
        _VIT | _TWO,
        exclude=("*.attn.qkv",),
        why="attention reads the weights of this layer without calling it",
    ),
    _entry("CaiT", "cait_xxs24_224", 32, _VIT | _TWO),
    _entry("XCiT", "xcit_nano_12_p16_224", 32, _VIT | _TWO),
    _entry(
        "LeViT",
        "levit_128s",
        64,
        {"img_size": 64, "embed_dim": (32, 48), "key_dim": 8, "num_heads": (2, 3), "depth": (1, 1)},
    ),
    _entry(
        "Swin",
        "swin_tiny_patch4_window7_224",
        32,
        {"img_size": 32, "window_size": 4, "embed_dim": 16, "depths": (2, 2), "num_heads": (1, 2)},
    ),
    _entry(
        "SwinV2",
        "swinv2_tiny_window8_256",
        32,
        {"img_size": 32, "window_size": 4, "embed_dim": 16, "depths": (2, 2), "num_heads": (1, 2)},
        exclude=("*.attn.qkv",),
        why="attention reads the weights of this layer without calling it",
    ),
    _entry(
        "CoaT",
        "coat_tiny",
        64,
        {
            "img_size": 64,
            "embed_dims": (16, 16, 16, 16),
            "serial_depths": (1, 1, 1, 1),
            "parallel_depth": 1,
            "num_heads": 8,
            "mlp_ratios": (2, 2, 2, 2),
        },
    ),
    _entry(
        "Twins-SVT",
        "twins_svt_small",
        64,
        {
            "img_size": 64,
            "embed_dims": (16, 16, 32, 32),
            "depths": (1, 1, 2, 1),
            "num_heads": (1, 1, 2, 2),
            "wss": (4, 4, 4, 2),
        },
    ),
    _entry(
        "PVTv2",
        "pvt_v2_b0",
        64,
        {"embed_dims": (8, 16, 24, 32), "depths": (1, 1, 1, 1), "num_heads": (1, 1, 1, 1)},
    ),
    _entry(
        "EfficientFormer",
        "efficientformer_l1",
        224,
        {"embed_dims": (8, 16, 24, 32), "depths": (1, 1, 1, 2)},
    ),
    _entry("MobileViT", "mobilevit_xxs", 64),
    _entry(
        "FastViT",
        "fastvit_t8",
        64,
        {"layers": (1, 1, 1, 1), "embed_dims": (8, 16, 32, 64), "mlp_ratios": (2, 2, 2, 2)},
    ),
    _entry(
        "MaxViT",
        "maxvit_rmlp_pico_rw_256",
        64,
        {"img_size": 64, "embed_dim": (32, 32), "depths": (1, 1)},
    ),
    _entry("ConViT", "convit_tiny", 32, _VIT | _TWO | {"local_up_to_layer": 1}),
    _entry(
        "PiT",
        "pit_ti_224",
        32,
        {"img_size": 32, "base_dims": (8, 8, 8), "depth": (1, 1, 1), "heads": (1, 2, 2)},
    ),
    _entry("ViT with relative positions", "vit_relpos_small_patch16_224", 32, _VIT | _TWO),
    # mixers
    _entry("MLP-Mixer", partial(_mixer, "MixerBlock", ratio=(0.5, 2.0)), 32, aihwkit=True),
    _entry("ResMLP", partial(_mixer, "ResBlock", norm="Affine"), 32),
    _entry("gMLP", partial(_mixer, "SpatialGatingBlock", "GatedMlp"), 32),
    _entry("PoolFormer", _poolformer, 64),
    _entry("ConvMixer", _convmixer, 32),
    # convolutional networks
    _entry("ResNet", "test_resnet", 64, everyday=True),
    _entry(
        "ResNet-D with anti-aliasing",
        _blurred,
        64,
        exclude=("maxpool.1", "*.aa"),
        why="the filters of BlurPool are fixed",
    ),
    _entry("ResNetV2 with standardised weights", _big_transfer, 64),
    _entry("NF-Net", "test_nfnet", 64),
    _entry("ConvNeXt", "test_convnext", 64),
    _entry("EfficientNet", "test_efficientnet", 64),
    _entry(
        "EfficientNet as TensorFlow pads",
        partial(_efficientnet, "ds_r1_k3_s1_e1_c8_se0.25", "ir_r1_k5_s2_e4_c16", pad_type="same"),
        33,
    ),
    _entry(
        "conditional convolutions",
        partial(_efficientnet, "ds_r1_k3_s1_e1_c8", "ir_r1_k3_s2_e4_c16_cc4"),
        32,
        exclude=("blocks.1.0.conv_*",),
        why="the weights are mixed again for each sample",
    ),
    _entry(
        "MixNet", partial(_efficientnet, "ds_r1_k3_s1_e1_c16", "ir_r1_k3.5_a1.1_p1.1_s2_e4_c24"), 32
    ),
    _entry("GhostNet", _ghostnet, 32),
    _entry("RepVGG", "test_byobnet", 64),
    _entry("HRNet", _hrnet, 64),
    _entry("RegNetY", _regnet, 64),
    _entry("MambaOut", "test_mambaout", 64),
    _entry("SKNet", partial(_resnet, "sknet:SelectiveKernelBasic"), 64, count=3),
    _entry("Res2Net", partial(_resnet, "res2net:Bottle2neck", block_args={"scale": 4}), 64),
)
