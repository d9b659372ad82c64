"""The rungs of the ladder, from the replication's physics to the paper's, one change at a time.

The first rung is scalar_drift, the last is rasch2023 as it is. From the third rung on, a rung is
rasch2023 without the changes of all later rungs. `LADDER` holds all eleven rungs in order. Another
preset can be a rung on top (`with_top`).
"""

import dataclasses
from dataclasses import dataclass

from aimc_bridge.spec import Change, Preset
from aimc_bridge.spec.published import PCM, SIGNED_PCM
from presets._rasch2023 import PRESET as RASCH2023
from presets._scalar_drift import PRESET as SCALAR_DRIFT


@dataclass(frozen=True)
class Rung:
    """A step of the ladder: one change, and the preset with this change and all earlier ones.

    Attributes:
        number: The number of the rung, from 1 on.
        key: One word, for files and tables.
        title: A short name, for tables and figures.
        what: The change from the rung before, in one sentence.
        preset: The physics of the rung.
    """

    number: int
    key: str
    title: str
    what: str
    preset: Preset


_WHY = "the ladder: the rungs above, undone"

# from the last rung down: each preset undoes one rung more
_NO_TILES = RASCH2023.change(
    why=_WHY, max_rows=None, max_columns=None, weight_scaling="layer", learned_out_scales=False
)
_NO_IR_DROP = _NO_TILES.change(why=_WHY, ir_drop=0.0)
_NO_PCM_READ = _NO_IR_DROP.change(why=_WHY, w_noise=0.0)
_NO_OUT_NOISE = _NO_PCM_READ.change(why=_WHY, out_noise=0.0)
_NO_CONVERTERS = _NO_OUT_NOISE.change(why=_WHY, dac_bits=None, adc_bits=None, input_range="none")

# without pairs: the same laws on one cell that holds the signed weight, as in the replication
_NO_PAIRS = dataclasses.replace(
    _NO_CONVERTERS,
    pcm=SIGNED_PCM,
    changes=(*_NO_CONVERTERS.changes, Change("pcm", PCM.law, SIGNED_PCM.law, _WHY)),
)
_NO_READ_NOISE = _NO_PAIRS.change(why=_WHY, read_noise_scale=0.0)
_NO_SPREAD = _NO_READ_NOISE.change(why=_WHY, nu_sd=(0.0, 0.0, 0.0, 0.0))

_MEASURED = SCALAR_DRIFT.change(
    why="the ladder: compensation as the paper measures it", drift_compensation="global"
)

_RUNGS = (
    (
        "scalar",
        "scalar drift, oracle",
        "The replication's physics: 8-bit weights in units of a layer's largest, programming noise "
        "on the signed weight, one exponent for all, undone by its exact inverse.",
        SCALAR_DRIFT,
    ),
    (
        "measured",
        "measured compensation",
        "The factor of a layer is measured: mean size of its outputs for the identity matrix right "
        "after programming over the same now, instead of the known inverse.",
        _MEASURED,
    ),
    (
        "exponent",
        "state-dependent exponent",
        "The mean exponent falls from 0.1 to 0.049 with a weight's size, on the clock of its fit: "
        "((t + t0) / t0)^-nu, t0 = 20 s, instead of (t / 1 s)^-0.06.",
        _NO_SPREAD,
    ),
    (
        "spread",
        "spread of exponents",
        "Each weight draws its own exponent when it is programmed, once.",
        _NO_READ_NOISE,
    ),
    (
        "read_noise",
        "1/f read noise",
        "Each reading adds the 1/f noise accumulated since programming, relative to a conductance.",
        _NO_PAIRS,
    ),
    (
        "pairs",
        "pairs of devices",
        "A weight is two devices: programming noise on each, the one at zero too, none below zero; "
        "netted and rescaled before drift, as aihwkit does; no 8-bit grid.",
        _NO_CONVERTERS,
    ),
    (
        "converters",
        "DAC and ADC",
        "8-bit inputs within a calibrated range, 8-bit outputs within +-10.",
        _NO_OUT_NOISE,
    ),
    (
        "out_noise",
        "output noise",
        "Gaussian noise of 0.04 on every output, fresh at every product.",
        _NO_PCM_READ,
    ),
    (
        "pcm_read",
        "PCM_READ",
        "Short-term read noise of the devices, 0.0175 times the root of a weight, fresh at every "
        "product.",
        _NO_IR_DROP,
    ),
    (
        "ir_drop",
        "IR drop",
        "The wires' resistance, over all rows of a layer: there are no tiles yet.",
        _NO_TILES,
    ),
    (
        "tiles",
        "tiles, column scales",
        "512 x 512 tiles, each with its own range, ADC and compensation, and a digital scale "
        "per column: the paper's standard model.",
        RASCH2023,
    ),
)

LADDER = tuple(Rung(number, *rung) for number, rung in enumerate(_RUNGS, start=1))
TOP = "preset "
"""How the key of a rung on top begins; the name of its preset follows."""


def with_top(preset: Preset) -> tuple[Rung, ...]:
    """Return the ladder with another preset on top, as a device of your own.

    Args:
        preset: The preset. If it is rasch2023, the ladder has no further rung.
    """
    if preset == RASCH2023:
        return LADDER
    what = f"The preset {preset.name} in place of rasch2023: {preset.description}."
    return (*LADDER, Rung(len(LADDER) + 1, TOP + preset.name, TOP + preset.name, what, preset))
