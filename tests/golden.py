"""Digests of chips, over presets, compensations, ways to draw and engines.

`python -m tests.golden` compares this tree with tests/golden.json; `--write` replaces that file.
A digest holds on the machine that wrote it (torch's version and the CPU decide the last bits of
`exp` and of products); on other machines, the few numbers stored beside it are compared within
`CLOSE`.
"""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from aimc_bridge import HWATraining, calibrate, convert, drift, program, sweep, train
from aimc_bridge.chip import fingerprint
from aimc_bridge.converted import matrices_of
from aimc_bridge.spec import Preset
from benchmarks.studies.ladder.rungs import LADDER
from presets import hermes, ideal, rasch2023, scalar_drift
from tests.models import linear, random

FILE = Path(__file__).with_name("golden.json")
CLOSE = 2e-5  # relative error allowed for numbers from another machine
TIMES = (0.0, 3600.0, 31536000.0)
COMPENSATIONS = ("none", "global", "global_exact_reference", "per_column", "oracle")
TILES = {"max_rows": 100, "max_columns": 7}
_WHY = "small tiles, in tests"

SIGNED = next(rung.preset for rung in LADDER if rung.key == "read_noise")
PRESETS: dict[str, Preset] = {
    "rasch2023": rasch2023.change(**TILES, why=_WHY),
    "rasch2023, pairs apart": rasch2023.change(**TILES, netting=False, why=_WHY),
    "hermes": hermes.change(**TILES, why=_WHY),
    "scalar_drift": scalar_drift,
    "signed pcm": SIGNED,
    "ideal": ideal.change(**TILES, why=_WHY),
}


def machine() -> str:
    """Describe what decides the last bits: torch, its instruction set, the processor."""
    cpu = platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0].splitlines()
        fields = dict(part.split(":", 1) for part in lines if ":" in part)
        about = {key.strip(): value.strip() for key, value in fields.items()}
        cpu = " ".join(about.get(k, "") for k in ("vendor_id", "cpu family", "model", "stepping"))
        cpu += " " + hashlib.sha256(about.get("flags", "").encode()).hexdigest()[:8]
    except OSError:
        pass
    return f"torch {torch.__version__} {torch.backends.cpu.get_cpu_capability()} {cpu}"


def network() -> nn.Sequential:
    """Return a convolution and two linear layers on several tiles each."""
    conv = nn.Conv2d(3, 8, 3, padding=1)
    with torch.no_grad():
        conv.weight.copy_(random(8, 3, 3, 3, seed=11) / 27**0.5)
        conv.bias.copy_(random(8, seed=12))  # type: ignore[union-attr]
    return nn.Sequential(
        conv, nn.ReLU(), nn.Flatten(), linear(8 * 36, 16), nn.ReLU(), linear(16, 5, seed=2)
    ).eval()


def inputs() -> Tensor:
    return random(4, 3, 6, 6, seed=5)


def digest(*tensors: Tensor) -> str:
    """Return a digest of the tensors' dtypes, shapes and bytes."""
    total = hashlib.sha256()
    for tensor in tensors:
        plain = tensor.detach().cpu().contiguous()
        total.update(repr((plain.dtype, tuple(plain.shape))).encode())
        total.update(plain.flatten().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()[:20]


def numbers(*tensors: Tensor) -> list[float]:
    """Return two numbers that another machine must reach too: the size and one projection."""
    flat = torch.cat([tensor.detach().cpu().double().flatten() for tensor in tensors])
    weights = torch.linspace(-1.0, 1.0, flat.numel(), dtype=torch.float64)
    return [float(flat.abs().sum()), float((flat * weights).sum())]


Entry = dict[str, Any]


def entry(*tensors: Tensor) -> Entry:
    return {"digest": digest(*tensors), "numbers": numbers(*tensors)}


def chip(preset: Preset, engine: str, draw_on: str) -> dict[str, Entry]:
    """Return the programmed and drifted weights, compensation factors and outputs of one chip."""
    model, x = network(), inputs()
    analog = convert(model, preset, engine=engine).eval()
    if preset.crossbar.input_range != "none":
        calibrate(analog, [x])
    program(analog, 7, draw_on=draw_on)
    matrices = matrices_of(analog)
    entries = {"programmed": entry(*(m.effective_weight() for m in matrices.values()))}
    for t_s in TIMES:
        drift(analog, t_s)
        entries[f"drifted {t_s:g}"] = entry(*(m.effective_weight() for m in matrices.values()))
        entries[f"alpha {t_s:g}"] = entry(*(m.alpha() for m in matrices.values()))
    if engine == "native":
        torch.manual_seed(3)
        with torch.no_grad():
            entries["outputs"] = entry(analog(x))
    else:  # No seed reaches the noise of the C++ tile.
        if preset.compensation.drift_compensation not in ("none", "oracle"):
            entries = {key: value for key, value in entries.items() if not key.startswith("alpha")}
    entries["fingerprint"] = {"digest": fingerprint(analog, matrices), "numbers": []}
    return entries


def trained(engine: str, preset: Preset, **changes: Any) -> dict[str, Entry]:
    """Return the weights after a few noisy mini-batches."""
    analog = convert(network(), preset, engine=engine)
    batches = [(inputs() + 0.1 * k, torch.arange(4) % 5) for k in range(4)]
    calibrate(analog, [x for x, _ in batches])

    def loss(model: nn.Module, batch: Any) -> Tensor:
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    recipe = HWATraining.for_(rasch2023, "wrn16").override(epochs=2, ramp_batches=3, **changes)
    train(analog, batches, loss, recipe=recipe, cpu=True, progress=False, teacher=network())
    return {"trained": entry(*(m.clean_weight() for m in matrices_of(analog).values()))}


def swept() -> dict[str, Entry]:
    """Return the values of a sweep."""
    analog = convert(network(), PRESETS["rasch2023"]).eval()
    x = inputs()
    calibrate(analog, [x])
    table = sweep(
        analog,
        lambda model: float(model(x).detach().sum()),
        ("1s", "1y"),
        chips=3,
        seed=4,
        progress=False,
    )
    return {"swept": entry(torch.tensor(table["value"].to_numpy()))}


def cases() -> Iterator[tuple[str, Callable[[], dict[str, Entry]]]]:
    """Yield pairs of a name and a function; names with "compiled" take seconds each."""
    for name, preset in PRESETS.items():
        for compensation in COMPENSATIONS:
            changed = preset.change(drift_compensation=compensation, why="golden")
            for engine, ways in (("native", ("cpu", "device")), ("aihwkit", ("cpu",))):
                for draw_on in ways:
                    label = f"{engine}, {name}, {compensation}, drawn on {draw_on}"
                    yield label, lambda p=changed, e=engine, d=draw_on: chip(p, e, d)
    for name in ("rasch2023", "hermes", "signed pcm"):
        label = f"compiled: native, {name}"
        yield label, lambda p=PRESETS[name]: chip(p, "native", "compiled")
    for kind in ("pcm", "gaussian", "programming"):
        label = f"trained: native, {kind}"
        yield (
            label,
            lambda k=kind: trained("native", QUIET, noise_type=k, drop_connect=0.1, remap_every=2),
        )
    yield "trained: native, hermes", lambda: trained("native", QUIET_HERMES)
    yield "trained: aihwkit", lambda: trained("aihwkit", QUIET)
    yield "swept: native", swept


# These presets have products without noise of their own: no seed reaches the noise of aihwkit's C++
# tile.
QUIET = PRESETS["rasch2023"].change(out_noise=0.0, w_noise=0.0, why=_WHY)
QUIET_HERMES = PRESETS["hermes"].change(out_noise=0.0, w_noise=0.0, why=_WHY)


def differences(name: str, now: dict[str, Entry], then: dict[str, Entry], exact: bool) -> list[str]:
    """Return one line per difference from the record.

    Args:
        name: The name of the case.
        now: The entries that this tree computes.
        then: The recorded entries.
        exact: Compare digests too, as this machine wrote the record; otherwise only the numbers are
            compared, within `CLOSE`.
    """
    if set(now) != set(then):
        return [f"{name}: has {sorted(now)}, recorded {sorted(then)}"]
    lines = []
    for what, value in now.items():
        if exact and value["digest"] != then[what]["digest"]:
            lines.append(f"{name}: {what} is not bit for bit what was recorded")
        scale = max([abs(n) for n in then[what]["numbers"]], default=0.0)
        for a, b in zip(value["numbers"], then[what]["numbers"], strict=True):
            if abs(a - b) > CLOSE * scale:
                lines.append(f"{name}: {what} {a!r}, recorded {b!r}")
    return lines


def main(words: list[str]) -> int:
    """Compare every case with the record, or rewrite the record."""
    torch.set_num_threads(1)
    record = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}
    if "--write" in words:
        new = {"machine": machine(), "cases": {name: work() for name, work in cases()}}
        text = json.dumps(new, indent=0)
        FILE.write_text(text + "\n", encoding="utf-8")
        print(f"{len(new['cases'])} cases written")
        return 0
    exact = record["machine"] == machine()
    lines = [
        line
        for name, work in cases()
        for line in differences(name, work(), record["cases"][name], exact)
    ]
    print("\n".join(lines) or f"all as recorded ({'bit for bit' if exact else 'closely'})")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
