"""A work on an engine: digital, native, aihwkit's tiles, aihwkit-lightning."""

from __future__ import annotations

import copy
import importlib.util
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from aimc_bridge import calibrate, convert, drift, program
from aimc_bridge.converted import matrices_of
from aimc_bridge.engines import native
from aimc_bridge.engines.base import Matrix
from aimc_bridge.equivalence import lightning_side
from aimc_bridge.spec import Preset, TrainingSpec
from aimc_bridge.training import clip_and_remap, default_optimizer, noisy_weight
from benchmarks.speed.works import Work, on, outputs
from presets import rasch2023

HOUR = 3600.0

ALL = rasch2023
WEIGHTS = rasch2023.change(
    dac_bits=None,
    adc_bits=None,
    out_noise=0.0,
    w_noise=0.0,
    ir_drop=0.0,
    input_range="none",
    why="speed: drifted weights, perfect periphery",
)
CONVERTERS = rasch2023.change(out_noise=0.0, w_noise=0.0, ir_drop=0.0, why="speed: DAC/ADC only")
OUTPUT = rasch2023.change(w_noise=0.0, ir_drop=0.0, why="speed: DAC/ADC and output noise")

DROPPED = ("w_noise", "ir_drop")  # what the torch tile cannot run
DROPPED_IN_TRAINING = (*DROPPED, "noise_type", "drop_connect")


_COMPILED: ContextVar[bool] = ContextVar("native models are compiled", default=False)


@contextmanager
def compiled(on: bool) -> Iterator[None]:
    """Set whether native models that are made inside run with `native.compiled`.

    Args:
        on: True compiles them.
    """
    before = _COMPILED.set(on)
    try:
        yield
    finally:
        _COMPILED.reset(before)


def draw_on(device: torch.device, *, eagerly: bool = False) -> str:
    """Return where native chips are drawn.

    They are drawn in compiled passes if models are compiled. If they are not, or if `eagerly` is
    set, they are drawn where CPU and GPU do it by default.

    Args:
        device: The device of the model.
        eagerly: Whether chips are not drawn in compiled passes, even of compiled models.

    Returns:
        "compiled", "device" or "cpu".
    """
    if _COMPILED.get() and not eagerly:
        return "compiled"
    return "device" if device.type == "cuda" else "cpu"


def analog(
    work: Work,
    preset: Preset,
    engine: str = "native",
    *,
    device: torch.device | None = None,
    chip: bool = True,
    calibrate_with: int | None = None,
) -> nn.Module:
    """Convert and calibrate the model of a work; with a chip, it is one hour old.

    Args:
        work: The work.
        preset: The chip.
        engine: "native" or "aihwkit".
        device: The device of the model; None is the CPU.
        chip: Whether a chip is programmed and drifted.
        calibrate_with: Units of the work that set the input ranges; None is a whole batch.

    Returns:
        The converted model.
    """
    device = device or torch.device("cpu")
    model = convert(work.model, preset, engine=engine, exclude=work.exclude).to(device).eval()
    if engine == "native" and _COMPILED.get():
        native.compiled(model)
    if preset.crossbar.input_range != "none":
        n = work.size if calibrate_with is None else calibrate_with
        calibrate(model, [work.batch(n)], "percentile")
    if chip:
        program(model, 0, draw_on=draw_on(device))
        drift(model, HOUR)
    return model


def halved(model: nn.Module) -> nn.Module:
    """Compute IR drop and noise variance of a native model in bfloat16, in place.

    Args:
        model: The converted model.

    Returns:
        The model itself.
    """
    native.side_precision(model, torch.bfloat16)
    return model


def forward(model: nn.Module, work: Work, n: int, device: torch.device) -> Callable[[], object]:
    """Return a function that makes one forward pass without gradients.

    Args:
        model: Any model.
        work: The work.
        n: Units in the batch.
        device: The device of the batch.
    """
    batch = on(device, work.batch(n))

    def run() -> Tensor:
        with torch.no_grad():
            return outputs(model, batch)

    return run


class Step:
    """A training step as `train` makes it.

    It consists of noise, forward, backward, optimizer and clipping. Every engine has the optimizer
    of the recipe and the noise at its full scale. There is no teacher. If `matrices` is empty, the
    model is trained as it is.

    Attributes:
        model: The model, in training mode.
        matrices: The analog matrices by layer.
        spec: The training recipe.
        optimizer: The optimizer, with the learning rate of the first warm-up step.
        batch: The model inputs.
        targets: The classes.
        device: The device of all of it.
        dtype: The dtype of autocast, or None.
        count: The number of steps that were made.
    """

    def __init__(
        self,
        model: nn.Module,
        work: Work,
        n: int,
        device: torch.device,
        matrices: dict[str, Matrix] | None = None,
        dtype: torch.dtype | None = None,
        spec: TrainingSpec | None = None,
    ) -> None:
        """Prepare the step.

        Args:
            model: The model.
            work: The work, for the batch and the recipe.
            n: Units in the batch.
            device: The device of the model.
            matrices: The analog matrices by layer; None is none.
            dtype: The dtype of autocast; None switches it off.
            spec: The recipe; None is that of the work.
        """
        self.model = model.train()
        self.matrices = matrices or {}
        self.spec: TrainingSpec = spec or ALL.training[work.recipe]
        for matrix in self.matrices.values():
            matrix.prepare_training(self.spec)
        self.optimizer = default_optimizer(model, self.spec)
        for group in self.optimizer.param_groups:
            group["lr"] *= self.spec.warmup_factor
        self.batch = on(device, work.batch(n))
        self.targets = work.targets(n).to(device)
        self.device, self.dtype = device, dtype
        self.count = 0

    def __call__(self) -> float:
        """Make a step on the stored batch, and return its loss."""
        return self.on(self.batch, self.targets)

    def on(self, batch: Any, targets: Tensor) -> float:
        """Make a step on a batch, and return its loss.

        Args:
            batch: The model inputs, on the device.
            targets: The classes, on the device.
        """
        for name, matrix in self.matrices.items():
            names = ("inject", name, self.count)
            matrix.inject(noisy_weight(matrix, self.spec, self.spec.noise_scale, 0, names))
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None):
            scores = outputs(self.model, batch)
            loss = nn.functional.cross_entropy(
                scores.reshape(-1, scores.shape[-1]), targets.flatten()
            )
        value = float(loss.detach())
        loss.backward()
        for matrix in self.matrices.values():
            matrix.inject(None)
        if self.spec.grad_clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.spec.grad_clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.matrices:
            clip_and_remap(self.matrices, self.spec, self.count, self.count + 1)
        self.count += 1
        return value


def analog_step(
    work: Work,
    preset: Preset,
    n: int,
    engine: str = "native",
    *,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
    calibrate_with: int | None = None,
    spec: TrainingSpec | None = None,
) -> Step:
    """Return a hardware-aware training step on the native engine or aihwkit.

    The recipe of the work injects PCM_NOISE.

    Args:
        work: The work.
        preset: The chip.
        n: Units in the batch.
        engine: "native" or "aihwkit".
        device: The device of the model; None is the CPU.
        dtype: The dtype of autocast; None switches it off.
        calibrate_with: Units of the work that set the input ranges; None is `n`.
        spec: The recipe; None is that of the work.
    """
    device = device or torch.device("cpu")
    model = analog(
        work, preset, engine, device=device, chip=False, calibrate_with=calibrate_with or n
    )
    return Step(model, work, n, device, matrices_of(model), dtype, spec)


def digital_step(
    work: Work, n: int, device: torch.device, dtype: torch.dtype | None = None
) -> Step:
    """Return a training step of a copy of the digital model, with the same optimizer.

    Args:
        work: The work.
        n: Units in the batch.
        device: The device of the model.
        dtype: The dtype of autocast; None switches it off.
    """
    return Step(copy.deepcopy(work.model), work, n, device, dtype=dtype)


def weights_on_tiles(model: nn.Module) -> int:
    """Return how many weights of a converted model lie on tiles.

    Args:
        model: The converted model.
    """
    return sum(m.grid.out_features * m.grid.in_features for m in matrices_of(model).values())


def stock(
    model: nn.Module,
    preset: Preset,
    tile: str,
    *,
    training: str | None = None,
    drop: Iterable[str] = (),
    exclude: Iterable[str] = (),
    input_range: float = 3.0,
) -> nn.Module:
    """Convert a copy of a model by aihwkit itself, as a user of aihwkit alone would.

    Args:
        model: The digital model.
        preset: The chip.
        tile: As in `rpu_config`.
        training: As in `rpu_config`.
        drop: As in `rpu_config`.
        exclude: Full names of modules that stay digital.
        input_range: The input range of every tile, in the units of the inputs.

    Raises:
        CapabilityError: If the tile cannot run what is not dropped.
    """
    from aihwkit.nn.conversion import convert_to_analog

    from aimc_bridge.engines.aihwkit.config import rpu_config

    config = rpu_config(preset, tile=tile, training=training, drop=drop)
    analog: nn.Module = convert_to_analog(model, config, exclude_modules=list(exclude))
    for tile_of_layer in analog.analog_tiles():  # type: ignore[operator]
        if config.pre_post.input_range.enable:
            tile_of_layer.set_input_range(input_range)
    return analog.train(model.training)


def torch_tile(work: Work, *, training: bool, device: torch.device) -> nn.Module:
    """Convert the model to aihwkit's torch tile by aihwkit's own conversion.

    What the tile cannot run is left out: DROPPED, or DROPPED_IN_TRAINING.

    Args:
        work: The work.
        training: Whether the model is for training with the recipe of the work.
        device: The device of the model.
    """
    names = [name for name, _ in work.model.named_modules()]
    digital = [n for n in names if any(fnmatchcase(n, p) for p in work.exclude)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they are about aihwkit's own code
        return stock(
            work.model,
            ALL,
            "torch",
            training=work.recipe if training else None,
            drop=DROPPED_IN_TRAINING if training else DROPPED,
            exclude=digital,
        ).to(device)


def lightning_installed() -> bool:
    """Return whether aihwkit-lightning is installed; nothing here depends on it."""
    return importlib.util.find_spec("aihwkit_lightning") is not None


def lightning(
    work: Work, *, device: torch.device, training: bool = False, noisy: bool = False
) -> nn.Module:
    """Convert the model to aihwkit-lightning; for works without excluded layers.

    It has DAC/ADC and, in training mode, output noise and additive Gaussian weight noise.

    Args:
        work: The work.
        device: The device of the model.
        training: Whether the model is for training, with both kinds of noise.
        noisy: Whether its analog layers alone are in training mode, without weight noise: a forward
            pass then has output noise.
    """
    sd = 0.0
    if training:
        spec: TrainingSpec = ALL.training[work.recipe]
        sd = spec.noise_scale * spec.gaussian_sd
    config = lightning_side.config(ALL.crossbar, weight_noise=sd)
    # its convolutions refuse weights in channels-last order
    plain = copy.deepcopy(work.model).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    converted = lightning_side.part("nn.conversion").convert_to_analog(plain, config)
    model: nn.Module = converted.to(device).train(training)
    if noisy:
        kind = lightning_side.part("nn.modules.base").AnalogLayerBase
        for layer in model.modules():
            if isinstance(layer, kind) and not layer.IS_CONTAINER:
                layer.train()
    return model
