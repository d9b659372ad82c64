"""The reference page of all parameters, made from the specs: docstrings, defaults and presets.

Symbols and equations are here; what a field is, its type, its unit and its numbers come from the
code. A test says so if a field is missing, or if one is named that does not exist.
"""

from __future__ import annotations

import inspect
import re

import presets
from aimc_bridge import spec
from aimc_bridge.spec import device, explanation, reram

_GROWTH = "sqrt(ln((t + t0 + t_read) / (2 t_read)))"
_POLYNOMIAL = "sigma_prog = s_prog sum_k c_k x^k"
_PAIR = "w = sum_k F_k (g+_k - g-_k) / g_scale"
_SIGNED = "g_prog = g + sigma_prog N, with the sign of the weight"
_RAMP = "s = noise_scale min(1, (batch + 1) / ramp_batches)"
_PIECE = "clamp(slope ln x + intercept, lowest, highest)"
_BEHIND = "relaxed by N(m, d) and read with K log10(g) sqrt(ln((t + t_read) / (2 t_read))) N"

SYMBOLS_AND_EQUATIONS: dict[type[spec.Spec], dict[str, tuple[str, str]]] = {
    # devices; x is the conductance over g_max, N a standard normal number
    device.DeviceSpec: {
        "g_max_us": ("g_max", "x = g / g_max"),
        "netting": ("", "g+ - g- before drift, split again into a pair"),
        "pairs": ("K", _PAIR),
        "significance": ("F_k", _PAIR),
        "reference": ("", "w = (g - g_ref) / ((g_max - g_min) / 2)"),
        "g_min_us": ("g_min", "g_ref = (g_max + g_min) / 2"),
        "stuck_at_gmax": ("p_on", "g = g_max with probability p_on"),
        "stuck_at_zero": ("p_off", "g = 0 with probability p_off"),
        "dead_rows": ("p_row", "w_ij = 0 for all i of a row j, with probability p_row"),
        "dead_columns": ("p_col", "w_ij = 0 for all j of a column i, with probability p_col"),
    },
    device.StatisticalSpec: {
        "t0_s": ("t0", "g(t) = g_prog ((t + t0) / t0)^-nu"),
        "prog_coeff_us": ("c_k", _POLYNOMIAL),
        "prog_noise_scale": ("s_prog", "g_prog = max(0, g + sigma_prog N)"),
        "t_read_s": ("t_read", _GROWTH),
        "read_noise_scale": ("s_read", f"g += |g| s_read Q {_GROWTH} N, not below 0"),
        "drift_scale": ("s_drift", "nu = s_drift |mean + sd N|"),
    },
    device.PcmSpec: {
        "nu_mean": ("mean", f"mean = {_PIECE}"),
        "nu_sd": ("sd", f"sd = {_PIECE}"),
        "read_coeff": ("Q", "Q = min(scale / max(x^exponent, floor), highest)"),
    },
    device.SignedPcmSpec: {
        "prog_noise_scale": ("s_prog", _SIGNED),
        "weight_bits": ("b", "g = round to 2^b - 1 levels of [-g_max, g_max]"),
    },
    device.StateIndependentSpec: {
        "nu_mean": ("mean", "mean = nu_mean for every x"),
        "nu_sd": ("sd", "sd = nu_sd for every x"),
        "read_us": ("Q", "Q = read_us / g_max for every x"),
    },
    device.HermesSpec: {
        "nu_mean_break": ("", "mean = nu_mean_low if x < break, else nu_mean_high"),
        "nu_mean_low": ("mean", _PIECE),
        "nu_mean_high": ("mean", "sum_k c_k x^k"),
        "nu_sd_break": ("", "sd = nu_sd_low if x < break, else nu_sd_high"),
        "nu_sd_low": ("sd", _PIECE),
        "nu_sd_high": ("sd", "sum_k c_k x^k"),
        "read_break": ("", "Q = read_low if x < break, else read_high"),
        "read_low": ("Q", _PIECE),
        "read_high": ("Q", "sum_k c_k x^k"),
    },
    device.ScalarDriftSpec: {
        "t0_s": ("t0", "g(t) = g_prog (max(t, t0) / t0)^-nu"),
        "prog_coeff_us": ("c_k", _POLYNOMIAL),
        "prog_noise_scale": ("s_prog", _SIGNED),
        "weight_bits": ("b", "g = round to 2^b - 1 levels of [-g_max, g_max]"),
        "nu": ("nu", "g(t) = g_prog (max(t, t0) / t0)^-nu"),
    },
    device.AfmPcmSpec: {
        "smallest_us": ("", "g = 0 if |g| < smallest"),
        "one_device_us": ("", "prog_coeff_two_us instead of prog_coeff_us if |g| > one_device"),
        "prog_coeff_us": ("c_k", "sigma_prog = s_prog sum_k c_k |g|^k, |g| in uS"),
        "prog_coeff_two_us": ("c_k", "sigma_prog = s_prog sum_k c_k |g|^k, |g| in uS"),
        "prog_noise_scale": ("s_prog", _SIGNED),
    },
    reram.ReramWanSpec: {
        "times_s": ("t_i", "g(t_i) = max(0, target + s sigma_i N), N new for every reading"),
        "deviation_us": ("c_ik", "sigma_i = sum_k c_ik x^k"),
        "noise_scale": ("s", "g(t_i) = max(0, target + s sigma_i N)"),
    },
    reram.ReramCmoSpec: {
        "g_min_us": (
            "g_min",
            "w = (g - g_ref) / ((g_max - g_min) / 2), g_ref = (g_max + g_min) / 2",
        ),
        "prog_coeff_us": ("c_0, c_1", "sigma_prog = s_prog (c_0 + c_1 g)"),
        "decay_mean_us": ("", "m = s_drift slope ln t"),
        "decay_sd_us": ("", "d = s_drift |slope ln t + intercept|"),
        "read_us": ("K", _BEHIND),
        "t_read_s": ("t_read", _BEHIND),
        "prog_noise_scale": ("s_prog", "sigma_prog = s_prog (c_0 + c_1 g)"),
        "read_noise_scale": ("s_read", "K = s_read read_us"),
        "drift_scale": ("s_drift", "m = s_drift slope ln t, d = s_drift |slope ln t + intercept|"),
    },
    # tiles; inputs in [-1, 1], outputs in units of one fully-on input on one fully-on weight
    spec.CrossbarSpec: {
        "dac_bits": ("", "x = round to 2^bits - 1 levels of clamp(input / range, -1, 1)"),
        "adc_bits": ("", "y = round to 2^bits - 1 levels of clamp(y, -bound, bound)"),
        "out_bound": ("bound", "y = clamp(y, -bound, bound)"),
        "out_noise": ("sigma_out", "y += sigma_out N"),
        "w_noise": ("sigma_w", "y_i += sigma_w sqrt(sum_j |w_ij| x_j^2) N"),
        "ir_drop": (
            "s_ir",
            "y_i -= s_ir a_i (a_i (0.05 a_i - 0.2) + 0.5) sum_j w_ij x_j (1 - (1 - j/n)^2)",
        ),
        "ir_drop_g_ratio": ("r_g", "a_i = (n / r_g) sum_j |w_ij| |x_j|, n the tile's inputs"),
        "max_rows": ("", "a tile has at most max_rows inputs"),
        "max_columns": ("", "a tile has at most max_columns outputs"),
        "weight_scaling": ("", "w_ij / max |w| over the column, tile or layer"),
        "out_nonlinearity": ("n_s", "y / (1 + (n_s / bound) |y|)"),
        "out_nonlinearity_std": ("", "n_s |1 + std N|, one per output"),
        "slope_calibration": ("c", "factor (1 + (n_s / bound + r_series) c bound)^2"),
        "r_series": ("r_series", "y / (1 + r_series |y|)"),
        "v_offset_std": ("v", "v = std N for half of the outputs, 0 for the others; (1 - v) y"),
        "v_offset_w_min": (
            "",
            "r = -w_min sum_j x_j; (1 - v) (y + r) / (1 + r_series |y + r|) "
            "- (1 + v) r / (1 + r_series |r|)",
        ),
        "w_read_asymmetry_dtod": ("", "w (1 + std N) if its input is negative"),
        "inp_asymmetry": ("", "x (1 - share) if x < 0"),
        "out_asymmetry": ("", "y (1 - share) if y < 0"),
        "out_noise_std": ("", "sigma_out |1 + std N|, one per output"),
    },
    spec.CompensationSpec: {
        "drift_compensation": ("alpha", "alpha = mean |readout at 0| / mean |readout at t|"),
        "alpha_floor": ("", "max(mean |readout|, floor)"),
    },
    spec.TrainingSpec: {
        "noise_scale": ("s", _RAMP),
        "ramp_batches": ("", _RAMP),
        "noise_t_s": ("t", "g += s |g| Q sqrt(ln((t + t_read) / (2 t_read))) N"),
        "gaussian_sd": ("", "w += s gaussian_sd max|w| N"),
        "drop_connect": ("p", "w = 0 with probability p"),
        "clip_value": ("c", "|w| <= c, or c standard deviations"),
        "warmup_factor": ("", "rate = warmup_factor learning_rate in the warm-up"),
        "lr_drop_factor": ("", "rate = lr_drop_factor rate at each drop"),
        "distill_weight": ("lambda", "loss = (1 - lambda) loss + lambda loss(teacher)"),
        "ramp_share": ("", "ramp_batches = ramp_share times all mini-batches"),
        "remap_share": ("", "remap_every = remap_share times all mini-batches"),
        "warmup_share": ("", "warmup_batches = warmup_share times all mini-batches"),
    },
}
"""By spec and field: its symbol, and the equation in which it enters; "" for no symbol of its own.

A field that a spec inherits is here again if its law has another equation than the base's.
"""

SECTIONS: tuple[tuple[str, tuple[type[spec.Spec], ...]], ...] = (
    (
        "Devices",
        (
            *(device.DeviceSpec, device.StatisticalSpec, device.PcmSpec, device.SignedPcmSpec),
            *(device.StateIndependentSpec, device.HermesSpec, device.ScalarDriftSpec),
            device.AfmPcmSpec,
            reram.ReramWanSpec,
            reram.ReramCmoSpec,
        ),
    ),
    ("Tiles and their periphery", (spec.CrossbarSpec,)),
    ("Drift compensation", (spec.CompensationSpec,)),
    ("Recipes of training", (spec.TrainingSpec,)),
)

Row = tuple[str, str, str, str, str, str, str]
COLUMNS = ("field", "symbol", "what it is", "equation", "unit", "value", "source")


def described(kind: type) -> dict[str, str]:
    """Return the entries under "Attributes:" of a class's docstring, each on one line."""
    text = inspect.getdoc(kind) or ""
    _, _, attributes = text.partition("Attributes:\n")
    entries = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", attributes, re.MULTILINE)
    return {name: " ".join(words.split()) for name, words in entries}


def example(kind: type[spec.Spec], name: str) -> tuple[str, str]:
    """Return a value of a field with its source: the first preset's that has it, or the default."""
    for preset in map(presets.get, presets.names()):
        for part in (*(getattr(preset, p) for p in preset.PARTS), *preset.training.values()):
            if isinstance(part, kind) and name in part.values():
                value = part.values()[name]
                shown = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
                return f"{shown} (`{preset.name}`)", str(part.sources[name])
    unset = kind.optional()
    return (f"{unset[name]!r} unless set", "") if name in unset else ("", "")


def rows(kind: type[spec.Spec]) -> list[Row]:
    """Return a row per field that a spec's docstring describes, or that has an equation there."""
    table = []
    own, known = described(kind), SYMBOLS_AND_EQUATIONS.get(kind, {})
    inherited = {}
    for base in reversed(kind.__mro__):
        inherited |= {name: text for name, text in described(base).items() if name in known}
    for name, words in {**inherited, **own}.items():
        if name not in kind.field_names():  # a name that is one of the class itself
            continue
        symbol, equation = known.get(name, ("", ""))
        value, source = example(kind, name)
        quoted = f"`{equation}`" if equation else ""
        unit = explanation.unit_of(name)
        table.append((f"`{name}`", symbol, words, quoted, unit, value, source))
    return table


def sections() -> list[tuple[str, str, list[Row]]]:
    """Return heading, introduction and rows of each table of the page."""
    parts: list[tuple[str, str, list[Row]]] = []
    for title, kinds in SECTIONS:
        parts.append((f"## {title}", "", []))
        for kind in kinds:
            first_line = (inspect.getdoc(kind) or "").partition("\n")[0]
            parts.append((f"### {kind.__name__}", first_line, rows(kind)))
    return parts
