"""The preset `ideal`: no noise, no quantisation.

Outputs of a converted model equal the digital model's up to float errors.
"""

from aimc_bridge.spec import CompensationSpec, CrossbarSpec, Preset, V, cite
from aimc_bridge.spec.published import IDEAL, ideal

PERIPHERY = {
    "dac_bits": ideal(None),
    "adc_bits": ideal(None),
    "out_bound": ideal(10.0),
    "out_noise": ideal(0.0),
    "w_noise": ideal(0.0),
    "ir_drop": ideal(0.0),
    "ir_drop_g_ratio": ideal(571428.57),
    "digital_bias": ideal(True),
    "input_range": ideal("none"),
}

PRESET = Preset(
    name="ideal",
    description="No noise, no quantisation, on the paper's tiles: equals digital to float error.",
    pcm=IDEAL,
    crossbar=cite(
        CrossbarSpec,
        **PERIPHERY,
        max_rows=V(512, "rasch2023", "SI Table 1"),
        max_columns=V(512, "rasch2023", "SI Table 1"),
        weight_scaling=V("column", "rasch2023", "SI Table 1"),
        learned_out_scales=V(True, "rasch2023", "SI Table 1"),
    ),
    compensation=cite(CompensationSpec, drift_compensation=ideal("none"), alpha_floor=ideal(1e-4)),
)
