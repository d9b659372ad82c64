"""One layer on aihwkit-lightning: its configuration under a preset, and what it computes.

aihwkit-lightning has no chips. It has converters and, in training mode, output noise and Gaussian
noise on the weights. The package is imported when it is first used.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import io
import sys
from typing import Any

import torch
from torch import Tensor, nn

from aimc_bridge.equivalence.capture import Layer
from aimc_bridge.errors import CapabilityError, VersionError
from aimc_bridge.physics.mapping import levels
from aimc_bridge.rng import alone
from aimc_bridge.spec import CrossbarSpec, Preset, TrainingSpec

LIGHTNING = "lightning"
_PACKAGE = "aihwkit_lightning"
INSTALL = 'pip install "aihwkit-lightning==2.1.0" "torch==2.13.*" "torchvision==0.28.*"'
"""The command that installs the version that was tried, beside its torch."""


def part(name: str) -> Any:
    """Return a module of aihwkit-lightning.

    Args:
        name: Its name in the package, such as "nn".

    Raises:
        VersionError: If the package is not installed, or does not work with the installed torch.
    """
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints that it found no Triton
            return importlib.import_module(f"{_PACKAGE}.{name}")
    except ImportError as problem:
        raise VersionError(
            f"aihwkit-lightning cannot be used in the environment {sys.prefix} (Python "
            f"{sys.version_info[0]}.{sys.version_info[1]}, torch {torch.__version__}): {problem}; "
            f"in an environment with Python 3.12 or newer run: {INSTALL}"
        ) from problem


def refusal(layer: nn.Module) -> str:
    """Return why aihwkit-lightning has no such layer; "" if it has.

    Args:
        layer: A digital layer.
    """
    if isinstance(layer, nn.Linear):
        return ""
    if not isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return f"a {type(layer).__name__}"
    if layer.groups > 1:
        return f"{layer.groups} groups"
    if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        return f"padding {layer.padding!r} of mode {layer.padding_mode!r}"
    if not isinstance(layer, nn.Conv2d) and any(step > 1 for step in layer.dilation):
        return f"dilation {layer.dilation}"
    return ""


def check(preset: Preset) -> None:
    """Check that aihwkit-lightning can run the converters of a preset.

    Args:
        preset: The preset.

    Raises:
        CapabilityError: If outputs are in units of an input range, and there is none.
        VersionError: If the package cannot be used.
    """
    part("nn")
    crossbar = preset.crossbar
    if crossbar.input_range == "none" and (crossbar.adc_bits is not None or crossbar.out_noise > 0):
        raise CapabilityError(
            f"aihwkit-lightning cannot run preset {preset}: its ADC and its output noise need "
            "input ranges; allowed: input_range='learned', or adc_bits=None and out_noise=0.0"
        )


def config(
    crossbar: CrossbarSpec, recipe: TrainingSpec | None = None, weight_noise: float = 0.0
) -> Any:
    """Return the configuration that is closest to a crossbar, `TorchInferenceRPUConfig`.

    Weights scaled by column go with noise and bounds by column, others with those of a slice.
    Left out is what the package does not have: `w_noise`, `ir_drop`, `max_columns` and learned
    column factors.

    Args:
        crossbar: The crossbar, `preset.crossbar`.
        recipe: How input ranges are started and learned; None starts none from data.
        weight_noise: Standard deviation of the noise on weights in training mode, in units of the
            largest weight of their column, or of their slice.

    Raises:
        VersionError: If the package cannot be used.
    """
    enums = part("simulator.parameters.enums")
    chosen = part("simulator.configs").TorchInferenceRPUConfig()
    by_column = crossbar.weight_scaling == "column"
    forward, ranges = chosen.forward, chosen.pre_post.input_range
    if crossbar.dac_bits is not None:
        forward.inp_res = 2 * levels(crossbar.dac_bits)
    if crossbar.adc_bits is not None:
        forward.out_res, forward.out_bound = 2 * levels(crossbar.adc_bits), crossbar.out_bound
    forward.out_noise, forward.out_noise_per_channel = crossbar.out_noise, by_column
    if by_column:  # bounds of the ADC go by column with this type alone; nothing is clipped by it
        chosen.clip.type = enums.WeightClipType.LAYER_GAUSSIAN_PER_CHANNEL
    chosen.mapping.max_input_size = crossbar.max_rows or -1
    ranges.enable = crossbar.input_range != "none"
    ranges.init_from_data = 0
    if recipe is not None:
        ranges.init_from_data = recipe.input_range_init_batches
        ranges.init_std_alpha = recipe.input_range_init_sd
        ranges.decay = recipe.input_range_decay
        ranges.input_min_percentage = recipe.input_range_min_unclipped
    if weight_noise > 0:
        kinds = enums.WeightNoiseInjectionType
        kind = kinds.ADD_NORMAL_PER_CHANNEL if by_column else kinds.ADD_NORMAL
        chosen.modifier.noise_type, chosen.modifier.std_dev = kind, weight_noise
    return chosen


class LightningLayer:
    """One layer on aihwkit-lightning, in training mode.

    Attributes:
        module: Its own layer, without a bias.
    """

    def __init__(
        self,
        layer: Layer,
        crossbar: CrossbarSpec,
        ranges: Tensor | None,
        recipe: TrainingSpec | None = None,
        weight_noise: float = 0.0,
    ) -> None:
        """Convert the layer.

        Args:
            layer: The layer.
            crossbar: The crossbar.
            ranges: Input ranges, [row tiles, column tiles], of which a row takes the largest; None
                leaves them as they are.
            recipe: As in `config`.
            weight_noise: As in `config`.
        """
        kind = getattr(part("nn"), f"Analog{type(layer.module).__name__}")
        chosen = config(crossbar, recipe, weight_noise)
        # it draws weights before it takes ours
        with alone(), torch.random.fork_rng(devices=[]):
            # its convolutions refuse weights in channels-last order
            plain = copy.deepcopy(layer.module).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
            self.module = kind.from_digital(plain, chosen).train()
        if ranges is not None and self.module.input_range is not None:
            with torch.no_grad():
                self.module.input_range.copy_(ranges.amax(1))

    def output(self, x: Tensor) -> Tensor:
        """Return one product for each of the inputs.

        Args:
            x: The inputs.
        """
        y: Tensor = self.module(x)
        return y

    def hold(self, weight: Tensor) -> None:
        """Write weights.

        Args:
            weight: The weights, [out, in].
        """
        with torch.no_grad():
            self.module.weight.copy_(weight.view_as(self.module.weight))
