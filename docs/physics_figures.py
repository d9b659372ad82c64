"""Draw the figures of docs/physics.md from the library's own functions.

    python docs/physics_figures.py

writes docs/figures/law-*.png. What each figure shows is also in the file, as numbers: a test
compares them with what the functions return today.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from aimc_bridge import HWATraining, convert, drawing, drift, physics, program
from aimc_bridge.converted import matrices_of
from aimc_bridge.physics import injection, mapping, mvm
from aimc_bridge.physics.drift import nu_mean, nu_sd
from presets import rasch2023

FOLDER = Path(__file__).parent / "figures"
PCM, CROSSBAR = rasch2023.pcm, rasch2023.crossbar
SIZE = (7.4, 2.9)  # two panels, inches
TIMES = (0.0, 1.0, 60.0, 3600.0, 86400.0, 30 * 86400.0, 365 * 86400.0)


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Return standard normal numbers, always the same."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def targets(points: int = 200) -> Tensor:
    """Return target conductances from 0 to g_max, microsiemens."""
    return torch.linspace(0.0, PCM.g_max_us, points)


def panels() -> tuple[Any, Any, Any]:
    """Return a figure with two panels side by side."""
    figure, axes = drawing.new(1, 2, SIZE)
    return figure, axes[0, 0], axes[0, 1]


def spread(axis: Any, x: Tensor, mean: Tensor, sd: Tensor, label: str, index: int = 0) -> None:
    """Draw a mean as a line, and one standard deviation around it as a band."""
    colour = drawing.COLOURS[index]
    axis.plot(x, mean, color=colour, lw=1.6, label=label)
    axis.fill_between(x, mean - sd, mean + sd, color=colour, alpha=0.18, lw=0)


def finish(figure: Any, *axes: Any, note: str = "") -> Any:
    """Put a legend in each panel that has labels, and a line under the figure."""
    for axis in axes:
        if axis.get_legend_handles_labels()[0]:
            axis.legend(frameon=False, fontsize=8, labelcolor=drawing.INK)
    drawing.caption(figure, ["preset rasch2023", note])
    return figure


def pair() -> Any:
    """Draw the two devices of a weight, and how tiles split a layer's inputs."""
    figure, left, right = panels()
    weight = torch.linspace(-1.0, 1.0, 201)
    for index, (name, g_us) in enumerate(
        zip(("positive device", "negative device"), mapping.legs(weight, PCM.g_max_us), strict=True)
    ):
        left.plot(weight, g_us, color=drawing.COLOURS[index], ls=drawing.DASHES[index], label=name)
    left.set(xlabel="weight / scale of its column", ylabel="target (uS)")
    left.set_xticks([-1.0, -0.5, 0.0, 0.5, 1.0])
    sizes = list(range(1, 1801))
    parts = [mapping.split_sizes(size, CROSSBAR.max_rows) for size in sizes]
    right.plot(sizes, [max(part) for part in parts], color=drawing.COLOURS[0], lw=1.4)
    right.set(xlabel="inputs of the layer", ylabel="inputs of its largest tile")
    return finish(figure, left, right)


def programming() -> Any:
    """Draw the programming error against the target, and programmed devices."""
    figure, left, right = panels()
    g_us = targets()
    left.plot(g_us, physics.sigma_prog_us(g_us, PCM), color=drawing.COLOURS[0], lw=1.6)
    left.set(xlabel="target (uS)", ylabel="sigma of programming (uS)", ylim=(0.0, None))
    written = physics.programmed(g_us, PCM, normal(2000, len(g_us)))
    sample = physics.programmed(g_us, PCM, normal(4, len(g_us), seed=1))
    right.plot(
        g_us.expand(4, -1).flatten(),
        sample.flatten(),
        ".",
        color=drawing.COLOURS[6],
        ms=1.5,
        alpha=0.6,
    )
    spread(right, g_us, written.mean(0), written.std(0), "mean and sd of 2,000")
    right.plot(g_us, g_us, color=drawing.INK, lw=1.0, ls="--", label="target")
    right.set(xlabel="target (uS)", ylabel="programmed (uS)")
    return finish(figure, left, right, note="points: single devices")


def drifting() -> Any:
    """Draw the drift exponent against the target, and conductance against time."""
    figure, left, right = panels()
    g_us = targets()[1:]
    mean, sd = nu_mean(g_us, PCM), nu_sd(g_us, PCM)
    spread(left, g_us, mean, sd, "mean and sd")
    left.set(xlabel="target (uS)", ylabel="drift exponent nu", ylim=(0.0, None))
    shares = (0.02, 0.1, 0.5, 1.0)
    for index, share in enumerate(shares):
        target = torch.full((4000,), share * PCM.g_max_us)
        nu = physics.drift_exponent(target, PCM, normal(4000))
        left_over = [float(physics.drifted(torch.ones(4000), nu, t_s, PCM).mean()) for t_s in TIMES]
        right.plot(
            TIMES,
            left_over,
            marker=drawing.MARKERS[index],
            ms=4,
            color=drawing.shade(index, len(shares)),
            label=f"{share * PCM.g_max_us:g} uS",
        )
    right.set(ylabel="share of the conductance left", ylim=(0.0, 1.05))
    drawing.time_axis(right, TIMES)
    right.tick_params(axis="x", labelsize=7)
    return finish(figure, left, right, note="right: means of 4,000 devices per target")


def reading() -> Any:
    """Draw the read noise against time and against the programmed conductance."""
    figure, left, right = panels()
    shares = (0.02, 0.1, 0.5, 1.0)
    for index, share in enumerate(shares):
        g_us = torch.tensor(share * PCM.g_max_us)
        left.plot(
            TIMES,
            [100 * float(physics.read_sigma(g_us, t_s, PCM)) for t_s in TIMES],
            marker=drawing.MARKERS[index],
            ms=4,
            color=drawing.shade(index, len(shares)),
            label=f"{share * PCM.g_max_us:g} uS",
        )
    left.set(ylabel="sigma of a reading (% of g)", ylim=(0.0, 110.0))
    drawing.time_axis(left, TIMES)
    left.tick_params(axis="x", labelsize=7)
    g_us = targets()[1:]
    for index, (t_s, name) in enumerate(((1.0, "1s"), (365 * 86400.0, "1y"))):
        sigma = physics.read_sigma(g_us, t_s, PCM) * g_us
        right.plot(
            g_us, sigma, color=drawing.COLOURS[index], ls=drawing.DASHES[index], label=name, lw=1.6
        )
    right.set(xlabel="programmed (uS)", ylabel="sigma of a reading (uS)", ylim=(0.0, None))
    return finish(figure, left, right, note="left: by programmed conductance, without drift")


def converters() -> Any:
    """Draw what the DAC and the ADC make of a value."""
    figure, left, right = panels()
    x = torch.linspace(-1.4, 1.4, 1001)
    y = torch.linspace(-14.0, 14.0, 1001)
    for index, bits in enumerate((8, 4)):
        spec = CROSSBAR.change(dac_bits=bits, adc_bits=bits, why="shown beside 8 bits")
        style = {"color": drawing.COLOURS[index], "lw": 1.4, "label": f"{bits} bits"}
        left.plot(x, mvm.converted_input(x, 1.0, spec), **style)
        right.plot(y, mvm.converted_output(y, spec), **style)
    left.set(xlabel="input / input range", ylabel="after the DAC")
    right.set(xlabel="output before the ADC", ylabel="after the ADC")
    return finish(figure, left, right, note="8 bits; 4 bits for comparison")


def product() -> Any:
    """Draw IR drop and noise of an output, against how much of the column is on."""
    figure, left, right = panels()
    rows = CROSSBAR.max_rows
    assert rows is not None
    position = mapping.TileGrid.of(1, rows, CROSSBAR).row_position(torch.ones(1, rows))
    on = torch.linspace(0.0, 1.0, 41)
    half = (torch.arange(rows) < rows // 2).float()

    def contract(inputs: Tensor, weights: Tensor) -> Tensor:
        return inputs @ weights.mT

    weight = torch.full((1, rows), 0.2)
    lines = {"all inputs": torch.ones(rows), "first half": half, "second half": 1.0 - half}
    for index, (name, which) in enumerate(lines.items()):
        sizes = torch.linspace(0.0, 10.0 / float(0.2 * which.sum()), 41)
        x = sizes[:, None] * which
        ideal = contract(x, weight)
        y = mvm.current(x, weight, weight, weight * position, rows, CROSSBAR, contract)
        left.plot(
            ideal.flatten(),
            (ideal - y).flatten(),
            color=drawing.COLOURS[index],
            ls=drawing.DASHES[index],
            label=name,
            lw=1.6,
        )
    left.set(
        xlabel="output without IR drop",
        ylabel="loss by IR drop",
        xlim=(0.0, 10.0),
        ylim=(0.0, None),
    )
    inputs = on[:, None].expand(-1, rows)
    for index, size in enumerate((0.05, 0.2, 1.0)):
        weight = torch.full((1, rows), size)
        sd = torch.as_tensor(mvm.noise_sd(inputs, weight, CROSSBAR, contract)).flatten()
        right.plot(on, sd, color=drawing.shade(index, 3), lw=1.6, label=f"all weights {size:g}")
    right.axhline(
        CROSSBAR.out_noise, color=drawing.INK, lw=1.0, ls="--", label="output noise alone"
    )
    right.set(xlabel="size of all inputs", ylabel="sigma of an output", ylim=(0.0, None))
    return finish(figure, left, right, note=f"a tile of {rows} inputs; units of the outputs")


def compensation() -> Any:
    """Draw the compensation factor of a tile against time, and what it leaves of the error."""
    figure, left, right = panels()
    layer = nn.Linear(256, 256, bias=False)
    with torch.no_grad():
        layer.weight.copy_(normal(256, 256))
    names = {"none": "none", "global": "global", "oracle": "known mean drift"}
    for index, (kind, label) in enumerate(names.items()):
        preset = rasch2023.change(drift_compensation=kind, why="a figure")
        analog = convert(nn.Sequential(layer), preset).eval()
        (matrix,) = matrices_of(analog).values()
        clean = matrix.effective_weight().clone()
        program(analog, 0)
        factors, errors = [], []
        for t_s in TIMES:
            drift(analog, t_s)
            alpha = matrix.alpha()
            factors.append(float(alpha.mean()))
            held = matrix.effective_weight() * alpha.mT
            errors.append(100 * float((held - clean).norm() / clean.norm()))
        style = {"color": drawing.COLOURS[index], "ls": drawing.DASHES[index], "label": label}
        left.plot(TIMES, factors, marker=drawing.MARKERS[index], ms=4, **style)
        right.plot(TIMES, errors, marker=drawing.MARKERS[index], ms=4, **style)
    left.set(ylabel="factor alpha")
    right.set(ylabel="error of the weights (%)", ylim=(0.0, None))
    for axis in (left, right):
        drawing.time_axis(axis, TIMES)
        axis.tick_params(axis="x", labelsize=7)
    return finish(figure, left, right, note="one tile of 256 x 256 Gaussian weights, chip 0")


def training() -> Any:
    """Draw the noise on the weights in training beside that of a chip."""
    figure, left, right = panels()
    weight = torch.linspace(0.0, 1.0, 60)
    spec = HWATraining.for_(rasch2023).spec.change(noise_type="pcm", why="a figure")
    eps, eps_read = normal(4000, 60), normal(4000, 60, seed=1)
    many = weight.expand(4000, -1)
    for index, scale in enumerate((1.0, 3.0)):
        noisy = injection.injected(many, 1.0, PCM, spec, scale, eps, eps_read)
        spread(left, weight, noisy.mean(0), noisy.std(0), f"noise scale {scale:g}", index)
        right.plot(
            weight,
            noisy.std(0),
            color=drawing.COLOURS[index],
            ls=drawing.DASHES[index],
            lw=1.6,
            label=f"noise scale {scale:g}",
        )
    left.set(xlabel="weight / largest", ylabel="weight in a mini-batch")
    right.set(xlabel="weight / largest", ylabel="its standard deviation", ylim=(0.0, None))
    return finish(figure, left, right, note="4,000 draws per weight; bands: one sd")


FIGURES: dict[str, Callable[[], Any]] = {
    "pair": pair,
    "programming": programming,
    "drift": drifting,
    "reading": reading,
    "converters": converters,
    "product": product,
    "compensation": compensation,
    "training": training,
}


def numbers(figure: Any) -> list[list[float]]:
    """Return the heights of each line of a figure at its start, middle and end."""
    lines = [line for axis in figure.axes for line in axis.get_lines()]
    heights = [[float(y) for y in line.get_ydata()] for line in lines]
    return [[float(f"{line[at]:.4g}") for at in (0, len(line) // 2, -1)] for line in heights]


def main(folder: Path = FOLDER) -> None:
    """Write all figures.

    Args:
        folder: Where to.
    """
    for name, draw in FIGURES.items():
        figure = draw()
        path = folder / f"law-{name}.png"
        drawing.save(figure, path, dpi=100, description=json.dumps(numbers(figure)), vector=False)
        print(path)


if __name__ == "__main__":
    main()
