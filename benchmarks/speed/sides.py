"""A work on an engine: digital, native, aihwkit's tiles, aihwkit-lightning."""

from __future__ import annotations

import copy
import importlib
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
from aimc_bridge.spec import Preset, TrainingSpec
from aimc_bridge.training import clip_and_remap, default_optimizer, noisy_weight
from benchmarks.speed.works import Work, on, outputs
from presets import rasch2023

HOUR = 3600.0
LIGHTNING = "aihwkit_lightning"

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
    """Whether native models made inside run with `native.compiled`."""
    before = _COMPILED.set(on)
    try:
        yield
    finally:
        _COMPILED.reset(before)


def draw_on(device: torch.device, *, eagerly: bool = False) -> str:
    """Where native chips are drawn: in compiled passes where models are compiled, else, or where
    `eagerly` is asked for, where CPU and GPU have it by default."""
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
    """The work's model converted and calibrated; with a chip, one hour old.

    `calibrate_with` units of the work, a whole batch unless told.
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
    """The native model with IR drop and noise variance in bfloat16."""
    native.side_precision(model, torch.bfloat16)
    return model


def forward(model: nn.Module, work: Work, n: int, device: torch.device) -> Callable[[], object]:
    """A forward pass of `n` units without gradients."""
    batch = on(device, work.batch(n))

    def run() -> Tensor:
        with torch.no_grad():
            return outputs(model, batch)

    return run


class Step:
    """A training step as `train` makes it: noise, forward, backward, optimizer, clipping.

    The optimizer is the recipe's for every engine, the noise at its full scale, without a teacher.
    With `matrices` empty the model is trained as it is.
    """

    def __init__(
        self,
        model: nn.Module,
        work: Work,
        n: int,
        device: torch.device,
        matrices: dict[str, Matrix] | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """`dtype`: autocast to it."""
        self.model = model.train()
        self.matrices = matrices or {}
        self.spec: TrainingSpec = ALL.training[work.recipe]
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
        return self.on(self.batch, self.targets)

    def on(self, batch: Any, targets: Tensor) -> float:
        """A step on a batch; its loss."""
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
) -> Step:
    """A hardware-aware training step of `n` units on our engines, PCM_NOISE injected."""
    device = device or torch.device("cpu")
    model = analog(
        work, preset, engine, device=device, chip=False, calibrate_with=calibrate_with or n
    )
    return Step(model, work, n, device, matrices_of(model), dtype)


def digital_step(
    work: Work, n: int, device: torch.device, dtype: torch.dtype | None = None
) -> Step:
    """A training step of `n` units of a copy of the digital model, with the same optimizer."""
    return Step(copy.deepcopy(work.model), work, n, device, dtype=dtype)


def weights_on_tiles(model: nn.Module) -> int:
    """How many weights of a converted model lie on tiles."""
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
    """Convert a copy of `model` by aihwkit itself, as a user of aihwkit alone would.

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
    """On aihwkit's torch tile by aihwkit's own conversion, without what it cannot run."""
    names = [name for name, _ in work.model.named_modules()]
    digital = [n for n in names if any(fnmatchcase(n, p) for p in work.exclude)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # aihwkit's own
        return stock(
            work.model,
            ALL,
            "torch",
            training=work.recipe if training else None,
            drop=DROPPED_IN_TRAINING if training else DROPPED,
            exclude=digital,
        ).to(device)


def lightning_installed() -> bool:
    """Whether aihwkit-lightning can be compared with; nothing here depends on it."""
    return importlib.util.find_spec(LIGHTNING) is not None


def lightning(work: Work, *, training: bool, device: torch.device) -> nn.Module:
    """On aihwkit-lightning: DAC/ADC, output noise, additive Gaussian weight noise in training.

    For works without excluded layers.
    """
    config = importlib.import_module(f"{LIGHTNING}.simulator.configs").TorchInferenceRPUConfig()
    enums = importlib.import_module(f"{LIGHTNING}.simulator.parameters.enums")
    crossbar = ALL.crossbar
    config.forward.inp_res = config.forward.out_res = 2**8 - 2
    config.forward.out_bound = crossbar.out_bound
    config.forward.out_noise = crossbar.out_noise
    config.mapping.max_input_size = crossbar.max_rows
    config.pre_post.input_range.enable = True
    config.pre_post.input_range.init_from_data = 0
    if training:
        spec: TrainingSpec = ALL.training[work.recipe]
        config.modifier.noise_type = enums.WeightNoiseInjectionType.ADD_NORMAL_PER_CHANNEL
        config.modifier.std_dev = spec.noise_scale * spec.gaussian_sd
    # its convolutions refuse weights in channels-last order
    plain = copy.deepcopy(work.model).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    converted = importlib.import_module(f"{LIGHTNING}.nn.conversion").convert_to_analog(
        plain, config
    )
    model: nn.Module = converted.to(device).train(training)
    return model
