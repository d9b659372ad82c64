"""LoRA adapters of the `peft` library on the analog layers of a converted model.

The adapters are digital: small matrices beside a chip, trained while the chip is as it is.
"""

from __future__ import annotations

import copy
from typing import Any

from peft import LoraConfig, PeftType
from peft.tuners import lora
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from aimc_bridge.engines.native.layers import AnalogLinear
from aimc_bridge.errors import CapabilityError, UsageError
from aimc_bridge.layers.digital_form import is_analog

_STARTS = (True, False, "gaussian", "orthogonal")
"""Starts of adapters that leave the base weights alone; the others of peft change them."""


def for_analog(config: LoraConfig) -> LoraConfig:
    """Return a LoRA configuration that takes analog layers too.

    It goes into peft's own functions in place of the configuration it was made from:
    `get_peft_model`, `inject_adapter_in_model`, `PeftModel.from_pretrained(..., config=...)`. They
    change the converted model in place. It is still the converted model, so `drift`, `coverage`
    and all other functions of this library take it (and not the `PeftModel` around it).

    peft freezes everything but the adapters. A programmed chip can then be trained with: its
    conductances stay as they are, and gradients pass through the weights that it holds. It stays
    the same chip at all times, as if it had no adapters.

    What works: LoRA with rank-stabilised scaling, dropout, biases, several adapters, DoRA, saving,
    loading and unloading, on linear layers of the native engine, also inside attention and
    recurrent layers. What does not: merging into analog weights (a chip cannot be rewritten), IA3
    and other kinds of adapters, convolutions, and layers of the aihwkit engine.

    Args:
        config: peft's configuration. `target_modules` names layers by name: "all-linear" would
            find digital layers only.

    Returns:
        A copy of the configuration.

    Raises:
        UsageError: If this is no LoRA configuration, or its targets or its start cannot work with
            analog weights. peft's functions raise CapabilityError later if a target is analog and
            cannot have adapters.

    Examples:
        >>> import torch
        >>> from peft import LoraConfig, get_peft_model
        >>> from torch import nn
        >>> from aimc_bridge import calibrate, convert, coverage, drift, program
        >>> from aimc_bridge.integrations.peft import for_analog
        >>> from presets import rasch2023
        >>> analog = convert(nn.Sequential(nn.Linear(12, 7), nn.ReLU(), nn.Linear(7, 2)), rasch2023)
        >>> calibrate(analog, [torch.randn(8, 12)])
        >>> program(analog, seed=0)
        >>> drift(analog, "1y")
        >>> model = get_peft_model(analog, for_analog(LoraConfig(r=2, target_modules=["0"])))
        >>> model.train()(torch.randn(8, 12)).sum().backward()  # through the chip of one year
        >>> [name for name, value in model.named_parameters() if value.grad is not None]
        ['base_model.model.0.lora_A.default.weight', 'base_model.model.0.lora_B.default.weight']
        >>> list(coverage(analog)["where"])
        ['analog', 'analog', 'digital', 'digital']
    """
    if not isinstance(config, LoraConfig) or config.peft_type != PeftType.LORA:
        raise UsageError(
            f"for_analog: config is a {type(config).__name__}; allowed: a peft.LoraConfig, "
            "because peft lets no other kind of adapter take layers that it does not know"
        )
    if config.target_modules == "all-linear":
        raise UsageError(
            'for_analog: target_modules="all-linear" finds digital layers only; name the layers, '
            'such as target_modules=["query", "value"]'
        )
    if config.init_lora_weights not in _STARTS:
        raise UsageError(
            f"for_analog: init_lora_weights={config.init_lora_weights!r} would change the weights "
            f"under the adapter; allowed: {', '.join(map(repr, _STARTS))}"
        )
    config = copy.deepcopy(config)
    # peft's door for layers of other libraries: the first entry that knows a layer takes it
    factory: Any = _adapter
    config._register_custom_module({nn.Module: factory})
    return config


def _adapter(
    target: nn.Module, adapter_name: str, config: LoraConfig, **settings: Any
) -> AnalogLora | None:
    """Return an adapter around an analog layer; None leaves a digital layer to peft."""
    base = target.get_base_layer() if isinstance(target, BaseTunerLayer) else target
    if not is_analog(base):
        return None
    if not isinstance(base, AnalogLinear) or settings.pop("parameter_name", None) is not None:
        raise CapabilityError(
            f"no adapter for {base}; adapters go on linear layers of the native engine, named in "
            'target_modules: use transfer(model, engine="native"), or leave this layer out'
        )
    config.fan_in_fan_out = base.transposed
    return AnalogLora(
        target, adapter_name, config=config, is_target_conv_1d_layer=base.transposed, **settings
    )


class AnalogLora(lora.Linear):
    """A digital LoRA adapter beside an analog linear layer: `chip(x) + B A x * scaling`."""

    def _get_in_out_features(self, module: nn.Module) -> tuple[int, int]:
        """Return the sizes of the analog layer, which peft would guess with a warning."""
        assert isinstance(module, AnalogLinear)
        return module.in_features, module.out_features

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Refuse to merge.

        Args:
            safe_merge: As in peft.
            adapter_names: As in peft.

        Raises:
            CapabilityError: Always.
        """
        raise CapabilityError(
            "merge: the adapters of an analog layer stay digital beside its chip; keep them, "
            "remove them with unload(), or merge into the digital model before convert"
        )
