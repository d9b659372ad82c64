"""Find the number of a preset that costs most: change one at a time, on the same chips.

    python examples/own_preset.py

Both sides of a difference share their random numbers, so ten chips show small effects.
"""

from aimc_bridge import calibrate, convert, sweep
from examples.digits import accuracy, images, trained
from presets import rasch2023

CHANGES = {
    "finer converters": {"dac_bits": 12, "adc_bits": 12},
    "half the output noise": {"out_noise": 0.02},
    "no read noise over time": {"read_noise_scale": 0.0},
    "small tiles": {"max_rows": 32},
}


def main(chips: int = 10, time: str = "1y") -> dict[str, tuple[float, float]]:
    """Return by change: the mean gain in accuracy, and its standard error over chips."""
    model, values = trained(), {}
    for name, numbers in {"as it is": {}, **CHANGES}.items():
        preset = rasch2023.change(**numbers, why="what-if") if numbers else rasch2023
        analog = convert(model, preset).eval()
        calibrate(analog, [images[:1000]])
        values[name] = sweep(analog, accuracy, time, chips).value
    gains = {name: values[name] - values["as it is"] for name in CHANGES}
    return {name: (float(gain.mean()), float(gain.sem())) for name, gain in gains.items()}


if __name__ == "__main__":
    for name, (gain, error) in main().items():
        print(f"{name:25} {100 * gain:+.1f} +- {100 * error:.1f} points after a year")
