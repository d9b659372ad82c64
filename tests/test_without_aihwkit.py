"""All that works without aihwkit, or with a torch that its wheels do not support."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from aimc_bridge.engines import versions
from tests.test_imports import ROOT

# In a new process: no aihwkit at all, or one whose torch is another.
MISSING = """
import importlib.metadata as metadata, sys
true = metadata.version
sys.modules["aihwkit"] = None
def version(name):
    if name == "aihwkit":
        raise metadata.PackageNotFoundError(name)
    return true(name)
metadata.version = version
"""
NEWER_TORCH = """
import importlib.metadata as metadata, sys
true = metadata.version
sys.modules["aihwkit"] = None
metadata.version = lambda name: {"torch": "2.99.0", "aihwkit": "1.2.0"}.get(name) or true(name)
"""
ABSENCES = {
    "no aihwkit": (MISSING, "found aihwkit not installed with torch "),
    "a newer torch": (NEWER_TORCH, "found aihwkit 1.2.0 with torch 2.99.0; "),
}

LIBRARY = """
import torch
from torch import nn
import presets
from aimc_bridge import HWATraining, calibrate, convert, coverage, drift, load_chip, program
from aimc_bridge import restore, save_chip, sweep, train
from aimc_bridge.errors import VersionError

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(8, 12), nn.Tanh(), nn.Conv1d(3, 4, 2), nn.Flatten())
x = torch.randn(5, 3, 8)
preset = presets.rasch2023
analog = convert(model, preset)
calibrate(analog, [x])
recipe = HWATraining.for_(preset).override(epochs=1)
train(analog, [x, x], lambda m, batch: m(batch).square().mean(), recipe=recipe)
print(*coverage(analog, x)["where"])
program(analog.eval(), seed=3)
drift(analog, "1d")
held = analog[0].effective_weight()
save_chip(analog, "chip.safetensors")
restore(analog)
load_chip(analog, "chip.safetensors")
print(torch.equal(analog[0].effective_weight(), held))
restore(analog)
print(len(sweep(analog, lambda m: float(m(x).norm().detach()), times=("1s", "1y"), chips=2)))
for use in (preset.rpu_config, lambda: convert(model, preset, engine="aihwkit")):
    try:
        use()
    except VersionError as error:
        print(error)
"""
COMMANDS = """
from benchmarks import crosscheck, run
quick = ["--subset", "20", "--hwa-batches", "2", "--digital-epochs", "1", "--chips", "1"]
codes = [
    run.main(["wrn", "--engine", "native", *quick, "--times", "1s", "--out", "native"]),
    run.main(["wrn", *quick, "--out", "both"]),
    crosscheck.main([]),
]
from aimc_bridge.__main__ import main
print(*codes, main(["doctor", "--quiet"]))
"""


def without(absence: str, code: str, folder: Path) -> tuple[list[str], list[str]]:
    """Return the lines that a new process prints, and the errors it prints."""
    process = subprocess.run(
        [sys.executable, "-c", f"{absence}\n{code}"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert process.returncode == 0, process.stderr
    errors = [line for line in process.stderr.splitlines() if line.startswith("error: ")]
    return process.stdout.splitlines(), errors


@pytest.mark.parametrize("absence", ABSENCES)
def test_the_library_but_for_the_aihwkit_engine(absence: str, tmp_path: Path) -> None:
    start, found = ABSENCES[absence]
    (lines, errors) = without(start, LIBRARY, tmp_path)
    assert lines[:3] == ["analog analog", "True", "4"] and errors == []
    assert found in lines[3] and lines[3].endswith(versions.pair_for().command)
    assert lines[4:] == [lines[3]]


def test_the_commands_but_for_the_aihwkit_engine(tmp_path: Path) -> None:
    start, found = ABSENCES["no aihwkit"]
    lines, (both, crosscheck) = without(start, COMMANDS, tmp_path)
    assert lines[-1] == "0 2 2 1"  # the last one, the doctor, examines both engines
    command = versions.pair_for().command
    assert found in both and both.endswith(f"{command}; or leave it out: --engine native")
    assert found in crosscheck and crosscheck.endswith(command)
    rows = (tmp_path / "native" / "results.csv").read_text().splitlines()
    assert any(",hwa,native,rasch2023,1.0," in row for row in rows)
    assert [path.name for path in tmp_path.iterdir()] == ["native"]
