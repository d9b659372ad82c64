"""Entries of torchvision: convolutional networks, vision transformers, segmentation, video."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from benchmarks.zoo.entry import Entry, images, random


def _resnet(**options: Any) -> Any:
    from torchvision.models.resnet import Bottleneck, ResNet

    return ResNet(Bottleneck, [1, 1, 1, 1], num_classes=5, **options)


def _stages(out: dict[str, str]) -> Any:
    """Return a small ResNet that gives the outputs of some of its stages by new names."""
    from torchvision.models._utils import IntermediateLayerGetter
    from torchvision.models.resnet import BasicBlock, ResNet

    return IntermediateLayerGetter(ResNet(BasicBlock, [1, 1, 1, 1]), out)


def _vgg() -> Any:
    from torchvision.models.vgg import VGG, make_layers

    model = VGG(make_layers([8, "M", 16, "M", 16, 16, "M"], batch_norm=True), init_weights=False)
    model.classifier = nn.Sequential(nn.Linear(16 * 49, 32), nn.ReLU(), nn.Linear(32, 5))
    return model


def _densenet() -> Any:
    from torchvision.models import DenseNet

    return DenseNet(8, (2, 2, 2, 2), 16, num_classes=5)


def _named(name: str, **options: Any) -> Any:
    from torchvision import models

    return models.get_model(name, weights=None, num_classes=5, **options)


def _efficientnet() -> Any:
    from torchvision.models.efficientnet import EfficientNet, FusedMBConvConfig, MBConvConfig

    settings = [
        FusedMBConvConfig(1, 3, 1, 8, 8, 1),
        MBConvConfig(4, 3, 2, 8, 16, 1),
        MBConvConfig(4, 5, 2, 16, 24, 2),
    ]
    return EfficientNet(settings, 0.0, 0.0, num_classes=5, last_channel=64)


def _mobilenet_v2() -> Any:
    from torchvision.models import MobileNetV2

    settings = [[1, 8, 1, 1], [6, 16, 2, 2]]
    return MobileNetV2(num_classes=5, inverted_residual_setting=settings, dropout=0.0)


def _mobilenet_v3() -> Any:
    from torchvision.models.mobilenetv3 import InvertedResidualConfig, MobileNetV3

    settings = [
        InvertedResidualConfig(16, 3, 16, 16, True, "RE", 2, 1, 1.0),
        InvertedResidualConfig(16, 5, 48, 24, True, "HS", 2, 1, 1.0),
    ]
    return MobileNetV3(settings, 64, num_classes=5)


def _mnasnet() -> Any:
    from torchvision.models import MNASNet

    model = MNASNet(0.1, num_classes=5)
    for stage, module in enumerate(model.layers):  # of the blocks of a stage, the first
        if isinstance(module, nn.Sequential):
            model.layers[stage] = module[0]
    return model


def _regnet() -> Any:
    from torchvision.models.regnet import BlockParams, RegNet

    settings = BlockParams.from_init_params(2, 32, 16, 2.5, 16, se_ratio=0.5)
    return RegNet(settings, num_classes=5)


def _convnext() -> Any:
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    settings = [CNBlockConfig(16, 32, 1), CNBlockConfig(32, None, 1)]
    return ConvNeXt(settings, layer_scale=0.1, num_classes=5)


def _shufflenet() -> Any:
    from torchvision.models import ShuffleNetV2

    return ShuffleNetV2([2, 2, 2], [8, 16, 32, 64, 64], num_classes=5)


def _inception(name: str, *left_out: str) -> Any:
    """Return a GoogLeNet or an Inception v3 without some of its blocks of equal widths."""
    model = _named(name, aux_logits=False, init_weights=False)
    for block in left_out:
        setattr(model, block, nn.Identity())
    return model


def _fcn() -> Any:
    from torchvision.models.segmentation.fcn import FCN, FCNHead

    return FCN(_stages({"layer2": "out"}), FCNHead(128, 5))


def _deeplab() -> Any:
    from torchvision.models.segmentation.deeplabv3 import DeepLabHead, DeepLabV3

    head = DeepLabHead(128, 5, (2, 3))
    return DeepLabV3(_stages({"layer2": "out"}), head)


def _lraspp() -> Any:
    from torchvision.models.segmentation import LRASPP

    return LRASPP(_stages({"layer1": "low", "layer2": "high"}), 64, 128, 5, 16)


def _fpn() -> Any:
    from torchvision.models.detection.backbone_utils import BackboneWithFPN
    from torchvision.models.resnet import BasicBlock, ResNet

    body = ResNet(BasicBlock, [1, 1, 1, 1])
    return BackboneWithFPN(body, {"layer1": "0", "layer2": "1"}, [64, 128], 32)


def _r3d() -> Any:
    from torchvision.models.video import resnet

    model = resnet.VideoResNet(
        resnet.BasicBlock, [resnet.Conv3DSimple] * 4, [1, 1, 1, 1], resnet.BasicStem
    )
    model.layer3 = model.layer4 = nn.Identity()
    model.fc = nn.Linear(128, 5)
    return model


def _r2plus1d() -> Any:
    from torchvision.models.video import resnet

    model = resnet.VideoResNet(
        resnet.BasicBlock, [resnet.Conv2Plus1D] * 4, [1, 1, 1, 1], resnet.R2Plus1dStem
    )
    model.layer3 = model.layer4 = nn.Identity()
    model.fc = nn.Linear(128, 5)
    return model


def _vit() -> Any:
    from torchvision.models import VisionTransformer

    return VisionTransformer(32, 8, 2, 2, 32, 64, num_classes=5)


def _swin(version: int) -> Any:
    from torchvision.models import swin_transformer as swin

    options: dict[str, Any] = {}
    if version == 2:
        options = {
            "block": swin.SwinTransformerBlockV2,
            "downsample_layer": swin.PatchMergingV2,
        }
    return swin.SwinTransformer(
        [4, 4], 16, [2, 2], [1, 2], [4, 4], stochastic_depth_prob=0.0, num_classes=5, **options
    )


def _maxvit() -> Any:
    from torchvision.models import MaxVit

    return MaxVit(
        *((64, 64), 8, 4, [16, 16], [1, 1], 8),
        stochastic_depth_prob=0.0,
        num_classes=5,
    )


def _mvit() -> Any:
    from torchvision.models.video.mvit import MSBlockConfig, MViT

    blocks = [
        MSBlockConfig(1, 16, 16, [3, 3, 3], [3, 3, 3], [1, 1, 1], [1, 2, 2]),
        MSBlockConfig(2, 16, 32, [3, 3, 3], [3, 3, 3], [1, 2, 2], [1, 1, 1]),
    ]
    return MViT(
        *((32, 32), 4, blocks),
        residual_pool=True,
        residual_with_cls_embed=False,
        rel_pos_embed=True,
        proj_after_attn=True,
        num_classes=5,
        stochastic_depth_prob=0.0,
    )


def _entry(name: str, build: Callable[[], nn.Module], size: int = 32, **more: Any) -> Entry:
    return Entry("torchvision", name, build, partial(images, size), **more)


_VIDEO = partial(random, 2, 3, 4, 32, 32)

ENTRIES = (
    _entry("ResNet", partial(_resnet, width_per_group=16), aihwkit=True, everyday=True),
    _entry("Wide ResNet", partial(_resnet, width_per_group=32)),
    _entry("ResNeXt", partial(_resnet, groups=4, width_per_group=4)),
    _entry("DenseNet", _densenet),
    _entry("VGG", _vgg, aihwkit=True),
    _entry("MobileNetV2", _mobilenet_v2),
    _entry("MobileNetV3", _mobilenet_v3),
    _entry("EfficientNet", _efficientnet, everyday=True),
    _entry("RegNet", _regnet),
    _entry("ConvNeXt", _convnext, everyday=True),
    _entry("ShuffleNetV2", _shufflenet),
    _entry(
        "GoogLeNet",
        partial(_inception, "googlenet", "inception4b", "inception4c", "inception5a"),
        64,
    ),
    _entry(
        "Inception v3",
        partial(_inception, "inception_v3", "Mixed_6c", "Mixed_6d", "Mixed_6e", "Mixed_7c"),
        96,
    ),
    _entry("SqueezeNet", partial(_named, "squeezenet1_1"), 64),
    _entry("MNASNet", _mnasnet),
    _entry("FCN", _fcn),
    _entry("DeepLabV3", _deeplab),
    _entry("LR-ASPP", _lraspp),
    _entry("feature pyramid", _fpn),
    Entry("torchvision", "R3D, two stages", _r3d, lambda: _VIDEO()),
    Entry("torchvision", "R(2+1)D, two stages", _r2plus1d, lambda: _VIDEO()),
    Entry(
        "torchvision",
        "MViTv2",
        _mvit,
        lambda: _VIDEO(),
        exclude=("*.rel_pos_?", "blocks.1.attn.pool_q"),
        why="tables of relative positions, multiplied with queries; a pooling that no output needs",
    ),
    _entry("ViT", _vit, aihwkit=True, everyday=True),
    _entry(
        "Swin",
        partial(_swin, 1),
        exclude=("*.attn.qkv", "*.attn.proj"),
        why="attention reads the weights of its layers without calling them",
    ),
    _entry(
        "SwinV2",
        partial(_swin, 2),
        exclude=("*.attn.qkv", "*.attn.proj"),
        why="attention reads the weights of its layers without calling them",
    ),
    _entry("MaxViT", _maxvit, 64),
)
