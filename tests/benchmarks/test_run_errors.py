"""The benchmark command with bad input: one line, exit code 2, nothing left behind."""

from __future__ import annotations

import dataclasses
import math
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from aimc_bridge.sealed_files import write_tensors
from benchmarks import digital, run, tasks
from benchmarks.studies.phases import Phases
from tests.benchmarks.test_run import QUICK, ROOT, Interrupted, one_error

pytestmark = pytest.mark.usefixtures("no_data")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """Return a digital model, hardly trained."""
    out = tmp_path_factory.mktemp("digital") / "wrn"
    task = tasks.get("wrn", "embedded", None)
    digital.fit(task, out, recipe=dataclasses.replace(task.digital, epochs=0.1))
    return out


def truncated(model: Path, tmp_path: Path) -> list[str]:
    file = tmp_path / "model.safetensors"
    file.write_bytes((model / "model.safetensors").read_bytes()[:5000])
    return ["--checkpoint", str(file)]


def with_nan(model: Path, tmp_path: Path) -> list[str]:
    tensors = load_file(model / "model.safetensors")
    tensors["fc.weight"][0, 0] = math.nan
    write_tensors(tmp_path / "model.safetensors", tensors)
    return ["--checkpoint", str(tmp_path / "model.safetensors")]


def of_another(model: Path, tmp_path: Path) -> list[str]:
    return ["-o", "width=2", "--checkpoint", str(model)]


def missing(model: Path, tmp_path: Path) -> list[str]:
    return ["--checkpoint", str(tmp_path / "nowhere")]


def short_file(model: Path, tmp_path: Path) -> list[str]:
    folder = tmp_path / "data" / "cifar-100-binary"
    folder.mkdir(parents=True)
    for name in ("train.bin", "test.bin"):
        (folder / name).write_bytes(b"cut")
    return ["--data-dir", str(tmp_path / "data"), "-o", "dataset=cifar100"]


def trainings_of_nothing(model: Path, tmp_path: Path) -> list[str]:
    return ["--checkpoint", str(model), "--phases", "direct", "--seeds", "2"]


def a_file_as_out(model: Path, tmp_path: Path) -> list[str]:
    (tmp_path / "file").write_text("")
    return ["--out", str(tmp_path / "file" / "run")]


Extra = Callable[[Path, Path], list[str]]
BAD: list[tuple[str, list[str] | Extra, str]] = [
    ("preset", ["--preset", "rasch2032"], "rasch2032.*rasch2023"),
    ("task", ["gpt"], "unknown task 'gpt'; one of wrn, bert, lstm"),
    (
        "calibration",
        ["--calibration", "mean"],
        'Invalid value "mean" for --calibration. Choose from: "max", "percentile", "std"',
    ),
    (
        "engine",
        ["--engine", "cuda"],
        '"cuda" for --engine. .* "native", "aihwkit"',
    ),
    (
        "profile",
        ["--profile", "tiny"],
        '"tiny" for --profile. .* "embedded", "real", "gpu", "paper"',
    ),
    (
        "phase",
        ["--phases", "both"],
        '"both" for --phases. Choose from: "direct", "finetune", "control"',
    ),
    ("no phase", ["--phases"], "--phases names no phase"),
    ("negative time", ["--times", "-5"], "time '-5' is not understood; allowed: seconds"),
    ("nan", ["--times", "nan"], "time 'nan' is not understood"),
    ("inf", ["--times", "1h", "inf"], "time 'inf' is not understood"),
    ("huge", ["--times", "1e999"], "time '1e999' is not understood"),
    ("fortnight", ["--times", "1 fortnight"], "time '1 fortnight' is not understood"),
    ("no time", ["--times"], "--times names no time"),
    ("no chips", ["--chips", "0"], "--chips 0; allowed: 1 or more"),
    ("half a chip", ["--chips", "1.5"], "--chips 1.5; allowed: a whole number, 1 or more"),
    ("no samples", ["--subset", "-3"], "--subset -3; allowed: 1 or more"),
    ("device", ["--device", "tpu"], '"tpu" for --device. Choose from: "cpu", "cuda"'),
    ("shortened option", ["--chip", "3"], "Unknown option: --chip.*; see .*run --help"),
    (
        "no value",
        ["--preset"],
        "--preset requires an argument; see python -m .*run --help",
    ),
    ("field", ["--set", "noise=3"], "--set 'noise=3'; allowed: FIELD=VALUE, fields: noise_type"),
    ("type of a field", ["--set", "noise_scale=big"], "noise_scale.*big"),
    ("list for a field", ["--set", "noise_scale=[1]"], "noise_scale"),
    ("part of a batch", ["--set", "batch_size=2.5"], "batch_size"),
    ("null for a field", ["--set", "epochs=null"], "epochs"),
    ("text for a switch", ["--set", "learn_out_scales=maybe"], "learn_out_scales"),
    ("range of a field", ["--set", "drop_connect=2"], "drop_connect"),
    ("no field", ["--set", "noise_scale"], "allowed: FIELD=VALUE"),
    ("option", ["-o", "colour=red"], "unknown option 'colour' for task 'wrn'"),
    ("type of an option", ["-o", "depth=deep"], "depth='deep' of task 'wrn'; allowed: a whole"),
    ("empty loader", ["--set", "batch_size=5000"], "smaller than one batch; lower the batch"),
    ("data folder", ["--data-dir", "/nowhere"], r"no data folder /nowhere \(from --data-dir\)"),
    ("short data file", short_file, "train.bin holds 3 bytes; expected 153,700,000"),
    ("short checkpoint", truncated, "model.safetensors: not a safetensors file, or damaged"),
    ("NaN", with_nan, "fc.weight holds NaN or infinite values"),
    ("other model", of_another, "holds another model than WRN-10-2"),
    ("no checkpoint", missing, "no checkpoint at .*; train one: python -m benchmarks.digital wrn"),
    ("checkpoint of no task", ["--checkpoint", "gpt=x"], "'gpt' is not among wrn"),
    ("no training", trainings_of_nothing, "--seeds 2: .*nothing is trained; more chips .*--chips"),
    ("out is in a file", a_file_as_out, "--out .* cannot be (written|made)"),
]


@pytest.mark.parametrize(("extra", "complaint"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_bad_input_is_one_line_exit_code_2_and_nothing_left(
    model, tmp_path, monkeypatch, capsys, extra, complaint
) -> None:
    monkeypatch.chdir(tmp_path)
    words = extra if isinstance(extra, list) else extra(model, tmp_path)
    before = sorted(tmp_path.rglob("*"))
    out = [] if "--out" in words else ["--out", str(tmp_path / "deep" / "out")]
    assert run.main(["wrn", "--engine", "native", *out, *words]) == 2
    error = one_error(capsys.readouterr().err)
    assert re.search(complaint, error), error
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_where_there_is_none(tmp_path, capsys) -> None:
    out = tmp_path / "out"
    assert run.main(["wrn", "--engine", "native", "--device", "cuda", "--out", str(out)]) == 2
    assert "torch sees no CUDA device here; use --device cpu" in one_error(capsys.readouterr().err)
    assert not out.exists()


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch, capsys) -> None:
    def refuse(*_, **__) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)  # Root may write anywhere.
    assert run.main(["wrn", *QUICK, "--out", str(tmp_path / "out")]) == 2
    error = one_error(capsys.readouterr().err)
    assert "cannot be written (Permission denied); name another folder" in error


def test_what_fails_before_anything_is_done_leaves_no_folder(tmp_path, monkeypatch) -> None:
    def fail(self) -> None:
        raise Interrupted

    monkeypatch.setattr(Phases, "measure", fail)
    with pytest.raises(Interrupted):
        run.main(["wrn", *QUICK, "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "code", "complaint"),
    [
        (["wrn", "--preset", "rasch"], 2, "rasch2023"),
        (["--help"], 0, ""),
    ],
)
def test_the_real_command(tmp_path, words, code, complaint) -> None:
    process = subprocess.run(
        [sys.executable, "-m", "benchmarks.run", *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == code
    if code:
        assert complaint in process.stderr
        assert len(process.stderr.strip().splitlines()) == 1
        assert process.stdout == ""
    else:
        assert "--times" in process.stdout
    assert list(tmp_path.iterdir()) == []


TABLE = """base = "rasch2023"
name = "mine"
why = "measured"
[device]
g_max_us = 25.0
source = "our lab"
target_us = [0, 0, 25, 25]
t_s = [1, 5, 1, 5]
mean_us = [0.1, 0.1, 24, 23]
sd_us = [0.1, 0.1, 1, 1]
"""


def test_times_that_the_device_does_not_know_are_said_before_any_work(tmp_path, capsys) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(TABLE)
    words = ["wrn", "--preset", str(path), "--out", str(tmp_path / "out")]
    assert run.main([*words, "--dry-run"]) == 2
    said = one_error(capsys.readouterr().err)
    assert "--times 1h: time 3600 s is outside of the table of this device" in said
    assert run.main([*words, "--dry-run", "--times", "1s"]) == 2
    assert "--set noise_t_s=SECONDS" in one_error(capsys.readouterr().err)
    assert run.main([*words, "--dry-run", "--times", "1s", "--set", "noise_t_s=5"]) == 0
    assert not (tmp_path / "out").exists()


def test_two_models_of_one_name_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Their rows could not be told apart."""
    twin = tmp_path / "twin.py"
    twin.write_text(
        "from benchmarks.tasks.mlp import DigitsTask\n\n\n"
        'class Twin(DigitsTask):\n    name = "twin"\n'
    )
    out = tmp_path / "out"
    assert run.main(["mlp", f"{twin}:Twin", "--out", str(out)]) == 2
    assert "of the tasks mlp and twin are both called MLP 10x64, which" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("name", ["not here", "not here/model.safetensors", "begun"])
def test_the_way_to_a_missing_checkpoint_leads_there(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command in the error is followed to the letter; then the same run works."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "data").mkdir()
    if name == "begun":
        task = tasks.get("mlp")
        digital.fit(task, tmp_path / "runs" / name, checkpoint_every=1, stop_after=1)
    words = ["mlp", *QUICK, "--times", "1s", "--checkpoint", f"runs/{name}"]
    words += ["--data-dir", "data", "--out", "out"]
    assert run.main(words) == 2
    error = one_error(capsys.readouterr().err)
    assert f"no checkpoint at runs/{name}" in error
    assert not (tmp_path / "out").exists()
    command = shlex.split(error[error.index("python -m") :])
    assert command[:3] == ["python", "-m", "benchmarks.digital"]
    assert digital.main(command[3:]) == 0
    assert run.main(words) == 0


def test_the_way_to_a_checkpoint_has_the_options_of_the_task(tmp_path: Path, capsys) -> None:
    """Without them, the model that it trains would be another one."""
    words = ["wrn", *QUICK, "-o", "width=2", "--checkpoint", str(tmp_path / "x")]
    assert run.main([*words, "--out", str(tmp_path / "out")]) == 2
    assert f"--profile embedded -o width=2 --out {tmp_path / 'x'}" in capsys.readouterr().err


def test_a_file_that_no_training_writes_is_no_way_to_a_checkpoint(tmp_path: Path, capsys) -> None:
    words = ["wrn", *QUICK, "--checkpoint", str(tmp_path / "mine.safetensors")]
    assert run.main([*words, "--out", str(tmp_path / "out")]) == 2
    error = one_error(capsys.readouterr().err)
    assert "is called model.safetensors, and name its folder" in error
    assert error.endswith(f"--out {tmp_path}")
