"""Facts about layers: the numbers of one chip, without a trace in the run that records them."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from aimc_bridge import calibrate, convert, drift, program
from aimc_bridge.converted import matrices_of
from aimc_bridge.errors import CheckpointError
from aimc_bridge.sealed_files import read_sealed
from benchmarks import run, tasks
from benchmarks.studies import phases
from benchmarks.studies.layer_facts import kept_facts, layer_facts
from presets import ideal, rasch2023

TIMES = (1.0, 31536000.0)
WORDS = ["mlp", "--engine", "native", "--chips", "2", "--subset", "40", "--hwa-batches", "3"]
WORDS += ["--digital-epochs", "1", "--times", "1s", "1y"]


def converted(preset: Any = rasch2023) -> nn.Module:
    task = tasks.get("mlp")
    analog = convert(task.build(0).eval(), preset, engine="native")
    calibrate(analog, task.calibration_batches(2, batch_size=16))
    return analog


def generators() -> list[Any]:
    numbers = np.random.get_state()
    return [torch.get_rng_state().tolist(), numbers[1].tolist(), numbers[2], random.getstate()]


def test_the_factors_and_errors_are_those_of_the_chip() -> None:
    task, analog = tasks.get("mlp"), converted()
    facts = layer_facts(analog, task, 7, TIMES)
    assert facts is not None and (facts["seed"], facts["times"]) == (7, list(TIMES))
    matrices = matrices_of(analog)
    assert facts["layers"] == list(matrices)
    inputs: list[torch.Tensor] = []
    first = next(iter(matrices.values()))
    with torch.no_grad():
        exact_model = converted(ideal)
        handle = next(iter(matrices_of(exact_model).values())).watch_inputs(
            lambda x: inputs.append(x.clone())
        )
        for batch in task.batches("validation", task.ladder.probe_samples):
            task.logits(exact_model, batch)
        handle.remove()
        x = torch.cat(inputs)
        x = x[torch.linspace(0, len(x) - 1, min(len(x), task.ladder.probe_inputs)).long()]
        exact = next(iter(matrices_of(exact_model).values())).multiply(x)
    program(analog, 7)
    for place, t_s in enumerate(TIMES):
        drift(analog, t_s)
        alphas = [float(matrix.alpha().mean()) for matrix in matrices.values()]
        assert facts["alpha"][place] == pytest.approx(alphas, rel=1e-4)
        with torch.no_grad():
            error = (first.multiply(x) - exact).norm() / exact.norm()
        assert facts["mvm_error"][place][0] == pytest.approx(float(error), rel=0.05)
    # nothing else than drift makes the factor: none at the start, a year's afterwards
    assert np.mean(facts["alpha"][1]) > 1.2 > np.mean(facts["alpha"][0])


def test_an_ideal_chip_has_neither() -> None:
    facts = layer_facts(converted(ideal), tasks.get("mlp"), 0, TIMES)
    assert facts is not None
    assert np.allclose(facts["alpha"], 1.0) and np.abs(facts["mvm_error"]).max() < 1e-5


def test_the_model_and_the_generators_stay_as_they_are() -> None:
    """A chip that was programmed before is still there, at its own time."""
    task, analog = tasks.get("mlp"), converted()
    x = task.calibration_batches(1, batch_size=8)[0]
    program(analog, 3)
    drift(analog, 3600.0)
    with torch.no_grad():
        before = matrices_of(analog)
        alphas = [matrix.alpha().clone() for matrix in before.values()]
    state = {name: value.clone() for name, value in analog.state_dict().items()}
    modes = [module.training for module in analog.modules()]
    known = generators()
    facts = layer_facts(analog, task, 7, TIMES)
    assert generators() == known
    torch.manual_seed(11)  # the noise of the products is not that of the process
    assert layer_facts(analog, task, 7, TIMES) == facts
    assert [module.training for module in analog.modules()] == modes
    after = analog.state_dict()
    assert list(after) == list(state)
    assert all(torch.equal(after[name], value) for name, value in state.items())
    for matrix, alpha in zip(matrices_of(analog).values(), alphas, strict=True):
        assert torch.equal(matrix.alpha(), alpha)
    other = converted()
    program(other, 3)
    drift(other, 3600.0)
    with torch.no_grad():
        torch.manual_seed(1)
        expected = other(x)
        torch.manual_seed(1)
        assert torch.equal(analog(x), expected)


def test_a_run_has_the_same_results_without_them_and_after_an_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights and chips are equal bit for bit; what was measured is not measured again."""
    measured: list[int] = []

    def counted(*args: Any) -> dict[str, Any] | None:
        measured.append(len(measured))
        if len(measured) == 2:  # before the chips of the trained model
            raise KeyboardInterrupt
        return layer_facts(*args)

    monkeypatch.setattr(phases, "layer_facts", counted)
    whole, plain = tmp_path / "whole", tmp_path / "plain"
    assert run.main([*WORDS, "--out", str(whole)]) == 130
    assert run.main([*WORDS, "--out", str(whole), "--resume"]) == 0
    assert len(measured) == 3
    assert run.main([*WORDS, "--out", str(whole), "--resume"]) == 0
    assert len(measured) == 3

    monkeypatch.setattr(phases, "layer_facts", lambda *args: None)
    assert run.main([*WORDS, "--out", str(plain)]) == 0
    left, right = (pd.read_csv(out / "results.csv") for out in (whole, plain))
    pd.testing.assert_frame_equal(left, right, check_exact=True)
    for name in ("direct-native-40.csv", "hwa-native-40.csv"):
        files = [out / "work" / "mlp" / name for out in (whole, plain)]
        assert files[0].read_bytes() == files[1].read_bytes(), name
    # The header of a safetensors file lists its texts in any order; the checksum covers them all.
    trained = [read_sealed(out / "work" / "mlp" / "hwa.safetensors") for out in (whole, plain)]
    assert trained[0].seal == trained[1].seal and trained[0].seal
    facts, none = (
        json.loads((out / "run.json").read_text())["studies"]["mlp"]["layers"]
        for out in (whole, plain)
    )
    assert none == {"direct": None, "hwa": None}
    assert len(facts["direct"]["alpha"][1]) == len(facts["hwa"]["mvm_error"][0]) == 11
    page = (plain / "report.html").read_text()
    assert "Compensation and MVM error of each layer were not recorded" in page


def test_kept_facts_are_those_of_the_chip_and_times(tmp_path: Path) -> None:
    path = tmp_path / "layers-direct.json"
    calls: list[int] = []

    def measure() -> dict[str, Any]:
        calls.append(1)
        return {"seed": 1, "times": [1.0], "layers": ["a"], "alpha": [[1.0]], "mvm_error": [[0.1]]}

    expected = measure()
    for _ in range(2):
        assert kept_facts(path, measure, 1, (1.0,)) == expected
    assert len(calls) == 2
    kept_facts(path, measure, 1, (1.0, 2.0))  # other times: measured again
    assert len(calls) == 3
    path.write_text(path.read_text()[:20])
    with pytest.raises(CheckpointError, match=r"layers-direct\.json is damaged .* delete it"):
        kept_facts(path, measure, 1, (1.0,))
