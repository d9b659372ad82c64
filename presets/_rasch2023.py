"""The preset `rasch2023`: the standard PCM model of Rasch et al. 2023."""

from typing import Any

from aimc_bridge.spec import (
    CompensationSpec,
    CrossbarSpec,
    Preset,
    Table,
    TrainingSpec,
    V,
    cite,
)
from aimc_bridge.spec.published import PCM

_SI1 = "SI Table 1"
_SI3 = "SI Table 3"
_A1 = "SI A.1"


def si1(value: Any, where: str = _SI1) -> V:
    """Return a value of the chip from the paper's SI, by default Table 1."""
    return V(value, "rasch2023", where)


def si3(value: Any, where: str = _SI3) -> V:
    """Return a value of a recipe from the paper's SI, by default Table 3."""
    return V(value, "rasch2023", where)


def choice(value: Any, what: str) -> V:
    """Return a value that this project chose; `what` says what the paper leaves open."""
    return V(value, "choice", what)


CROSSBAR = cite(
    CrossbarSpec,
    dac_bits=si1(8),
    adc_bits=si1(8),
    out_bound=si1(10.0),
    out_noise=si1(0.04),
    w_noise=si1(0.0175),
    ir_drop=si1(1.0),
    ir_drop_g_ratio=si1(571428.57),
    max_rows=si1(512),
    max_columns=si1(512),
    weight_scaling=si1("column"),
    digital_bias=si1(True),
    learned_out_scales=si1(True),
    input_range=si1("learned"),
)

COMPENSATION = cite(
    CompensationSpec,
    drift_compensation=si1("global"),
    alpha_floor=V(1e-4, "aihwkit", "GlobalDriftCompensation", "from code"),
)

# All recipes share these. SI A.1 describes the training; the settings of the input ranges come from
# aihwkit's preset.
_SHARED = {
    "noise_type": si3("pcm", _A1),
    "noise_t_s": si3(20.0, _A1),
    "gaussian_sd": choice(0.04, "SI Table 5 tells of a constant sigma; its size was not read"),
    "clip_type": si3("fixed", _A1),
    "clip_value": V(1.0, "aihwkit", "StandardHWATrainingPreset", "from code"),
    "learn_input_ranges": si3(True, _A1),
    "input_range_decay": V(0.001, "aihwkit", "StandardHWATrainingPreset", "from code"),
    "input_range_min_unclipped": V(0.95, "aihwkit", "StandardHWATrainingPreset", "from code"),
    "input_range_init_batches": V(100, "aihwkit", "StandardHWATrainingPreset", "from code"),
    "input_range_init_sd": V(3.0, "aihwkit", "StandardHWATrainingPreset", "from code"),
    "input_range_start": choice("calibrated", "a calibration done before is not thrown away"),
    "learn_out_scales": si3(True, _A1),
    "ir_drop_in_training": si3(True),
    "optimizer": si3("sgd", _A1),
    "lr_schedule": si3("constant", "SI Table 3: but for drops at epochs, where it has some"),
    "lr_drop_on_stall": si3(False),
    "warmup_batches": si3(0),
    "warmup_factor": si3(1.0),
    "lr_drop_epochs": si3(()),
    "lr_drop_factor": si3(0.1),
    "grad_clip": si3(None),
    "weight_decay": si3(0.0),
    "drop_connect": si3(0.0),
    "dropout": choice(None, "the paper's table has no entry"),
    "remap_every": si3(0),
    "distill_weight": si3(0.0),
    "distill_temperature": choice(1.0, "no distillation in this recipe"),
}


def recipe(**entries: V) -> TrainingSpec:
    """Return a recipe: the shared fields, changed and completed by `entries`."""
    return cite(TrainingSpec, **{**_SHARED, **entries})


TRAINING = Table(
    {
        "wrn16": recipe(
            epochs=si3(80),
            learning_rate=si3(2e-2),
            batch_size=si3(25),
            noise_scale=si3(3.0),
            weight_decay=si3(1e-3),
            drop_connect=si3(0.01),
            momentum=si3(0.9),
            ramp_batches=si3(40_000),
            warmup_batches=si3(500),
            warmup_factor=si3(1 / 20),
            lr_drop_epochs=si3((38, 76)),
            remap_every=si3(2_000),
            distill_weight=choice(0.9, "the paper distils; its weight was not read"),
            distill_temperature=choice(4.0, "the paper distils; its temperature was not read"),
        ),
        "resnet32": recipe(
            epochs=si3(600),
            learning_rate=si3(7.5e-3),
            batch_size=si3(50),
            noise_scale=si3(3.0),
            weight_decay=si3(1e-3),
            momentum=si3(0.9),
            ramp_batches=si3(20_000),
            warmup_batches=si3(2_000, "SI Table 3: the first 2 epochs of 50,000 / 50 batches"),
            warmup_factor=si3(1 / 20),
            remap_every=si3(500),
        ),
        "bert_glue": recipe(
            epochs=choice(5, "the paper gives 5 to 20"),
            learning_rate=choice(1e-3, "the paper gives 5e-5 to 1e-3"),
            batch_size=si3(5),
            noise_scale=choice(3.0, "the paper gives 1 to 3"),
            momentum=si3(0.9),
            ramp_batches=choice(0, "the paper's table has no entry"),
            dropout=si3(0.0),
        ),
        "bert_mrpc": recipe(
            epochs=si3(40),
            learning_rate=si3(2e-3),
            batch_size=si3(20),
            noise_scale=si3(3.0),
            drop_connect=si3(0.001),
            dropout=choice(0.0, "as for all of GLUE"),
            momentum=si3(0.95),
            grad_clip=si3(5.0),
            ramp_batches=si3(1_400),
            lr_drop_epochs=si3((23,)),
            ir_drop_in_training=si3(False),
        ),
        "lstm": recipe(
            epochs=si3(60),
            learning_rate=si3(1e-2),
            batch_size=si3(20),
            noise_scale=si3(5.0),
            weight_decay=si3(1e-5),
            drop_connect=si3(0.01),
            dropout=si3(0.5),
            momentum=si3(0.9),
            grad_clip=si3(10.0),
            ramp_batches=si3(1_000),
            lr_drop_factor=si3(0.9),
            lr_drop_on_stall=si3(True),
        ),
    }
)

PRESET = Preset(
    name="rasch2023",
    description="The standard PCM model of Rasch et al. 2023: all non-idealities, 512 x 512 tiles.",
    pcm=PCM,
    crossbar=CROSSBAR,
    compensation=COMPENSATION,
    training=TRAINING,
)
