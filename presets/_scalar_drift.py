"""The preset `scalar_drift`: the physics of the public replication.

It is there for comparison with the paper's physics.
"""

from typing import Any

from aimc_bridge.spec import (
    CompensationSpec,
    CrossbarSpec,
    Preset,
    Source,
    Table,
    TrainingSpec,
    V,
    cite,
)
from aimc_bridge.spec.published import SCALAR_DRIFT
from presets._ideal import PERIPHERY
from presets._rasch2023 import TRAINING


def replication(value: Any, where: str = "physics") -> V:
    """Return a value from the description of the replication."""
    return V(value, "replication", where)


def recipe() -> TrainingSpec:
    """Return the replication's recipe: the paper's, with what it does differently."""
    settings = {
        "noise_type": "programming",
        "noise_scale": 3.0,
        "drop_connect": 0.01,
        "distill_temperature": 4.0,
        "distill_weight": 0.9,
    }
    spec: TrainingSpec = TRAINING["wrn16"].change(why=Source("replication", "training"), **settings)
    where = "the replication ramps over 10 epochs; 2,000 batches of 25 each"
    return spec.change(why=Source("choice", where), ramp_batches=20_000)


PRESET = Preset(
    name="scalar_drift",
    description=(
        "The replication's physics: noise on the signed weight, one drift exponent for all, "
        "undone exactly; one tile a layer, ideal periphery."
    ),
    pcm=SCALAR_DRIFT,
    crossbar=cite(
        CrossbarSpec,
        **PERIPHERY,
        max_rows=replication(None),
        max_columns=replication(None),
        weight_scaling=replication("layer"),
        learned_out_scales=replication(False),
    ),
    compensation=cite(
        CompensationSpec,
        drift_compensation=replication("oracle"),
        alpha_floor=V(1e-4, "definition", "an oracle reads nothing: not used"),
    ),
    training=Table({"wrn16": recipe()}),
)
