"""Trainings of a run side by side: equal numbers, one voice, and no process that is left behind."""

from __future__ import annotations

import csv
import io
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import joblib
import psutil
import pytest
import torch
from rich.console import Console

from aimc_bridge import progress
from aimc_bridge.commands import Output
from aimc_bridge.errors import UsageError
from aimc_bridge.progress import ProgressBar
from aimc_bridge.sealed_files import read_tensors
from benchmarks import run, tasks
from benchmarks.studies import side_by_side
from benchmarks.studies.estimates import Costs, Estimate
from benchmarks.studies.replicas import Replica
from benchmarks.studies.settings import Settings
from benchmarks.studies.side_by_side import usual_workers
from benchmarks.studies.steps import Step, Steps

ROOT = Path(__file__).parents[3]
PATIENCE_S = 300.0  # on a machine that is busy with other things
SMALL = ["--subset", "40", "--hwa-batches", "3", "--digital-epochs", "2", "--times", "1s", "1y"]
NATIVE = ["--engine", "native", "--chips", "2", *SMALL]

pytestmark = pytest.mark.usefixtures("no_data")
posix = pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")


def done(words: list[str], out: Path, workers: int, *more: str) -> Path:
    assert run.main([*words, "--workers", str(workers), "--out", str(out), *more]) == 0
    return out


def facts(out: Path) -> dict[str, object]:
    """Return what the record says, without seconds and without the names of the folder."""

    def timeless(value: object) -> object:
        if isinstance(value, dict):
            return {key: timeless(part) for key, part in value.items() if key != "wall_s"}
        return value

    record = json.loads((out / "run.json").read_text())
    return {key: timeless(value) for key, value in record.items() if key != "command"}


@pytest.fixture(scope="module")
def one_by_one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    words = ["wrn", "mlp", *NATIVE, "--seeds", "2"]
    return done(words, tmp_path_factory.mktemp("one") / "out", 1)


def test_side_by_side_gives_the_same_files(
    one_by_one: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Four trainings on two processes: each process does one after another.

    The output is read from the file descriptors: nothing comes from the processes themselves.
    """
    out = done(["wrn", "mlp", *NATIVE, "--seeds", "2"], tmp_path / "out", 2, "--json")
    assert (out / "results.csv").read_bytes() == (one_by_one / "results.csv").read_bytes()
    assert facts(out) == facts(one_by_one)
    names = {p.relative_to(out) for p in out.rglob("*") if p.suffix in (".safetensors", ".csv")}
    assert len(names) > 4 * 5
    for name in names:
        if name.suffix == ".safetensors":  # the order of the names in their heads is by chance
            first, second = read_tensors(one_by_one / name), read_tensors(out / name)
            torch.testing.assert_close(second, first, rtol=0, atol=0, equal_nan=True)
        elif name.name not in ("metrics.csv", "hwa.csv", "log.csv"):  # those have seconds too
            assert (out / name).read_bytes() == (one_by_one / name).read_bytes(), name
    printed = capfd.readouterr()
    lines = printed.err.splitlines()
    assert "2 trainings side by side, in a process each" in lines
    steps = [line for line in lines if line.startswith("[")]
    assert [line.partition("/")[0] for line in steps] == [f"[{i}" for i in range(1, 17)]
    assert sum("mlp, seed 1: " in line for line in steps) == 4
    assert any(line.startswith("      mlp, seed 1: accuracy ") for line in lines)
    result = json.loads(printed.out)
    values = [row[result["columns"].index("value")] for row in result["rows"]]
    with (one_by_one / "results.csv").open(encoding="utf-8", newline="") as file:
        assert values == [float(row["value"]) for row in csv.DictReader(file)]


@pytest.mark.aihwkit
def test_both_engines_give_the_same_and_quiet_is_quiet(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The ideal chip has no noise: that of aihwkit's single products comes from no seed."""
    words = ["wrn", "mlp", "--preset", "ideal", "--chips", "1", "--aihwkit-chips", "1", *SMALL]
    one = done(words, tmp_path / "one", 1, "--quiet")
    expected = capfd.readouterr()
    two = done(words, tmp_path / "two", 2, "--quiet")
    assert capfd.readouterr() == expected and expected.err == ""
    assert (one / "results.csv").read_bytes() == (two / "results.csv").read_bytes()


def test_a_run_goes_on_with_another_number_of_workers(one_by_one: Path, tmp_path: Path) -> None:
    words, out = ["wrn", "mlp", *NATIVE], tmp_path / "out"
    done([*words, "--phases", "direct"], out, 1)
    done([*words, "--seeds", "2", "--phases", "direct", "hwa"], out, 2, "--resume")
    assert (out / "results.csv").read_bytes() == (one_by_one / "results.csv").read_bytes()


# --- ends -----------------------------------------------------------------------------------------


def started(out: Path) -> subprocess.Popen[str]:
    words = ["wrn", "mlp", *NATIVE, "--chips", "20", "--workers", "2", "--out", str(out)]
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.run", *words],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a group of its own, as in a terminal
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def busy(process: subprocess.Popen[str], out: Path) -> list[psutil.Process]:
    """Wait until a training measures chips; return the processes that were started."""
    end = time.monotonic() + PATIENCE_S
    while not list(out.glob("work/*/direct-native-40.csv")):
        assert time.monotonic() < end, "waited too long"
        assert process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.02)
    return psutil.Process(process.pid).children(recursive=True)


def of_our_code(process: psutil.Process) -> bool:
    return "spawn_main" in " ".join(process.cmdline())


@posix
@pytest.mark.parametrize(
    ("number", "everyone", "code"),
    [
        (signal.SIGINT, True, 130),  # Ctrl-C: a terminal tells all processes
        pytest.param(signal.SIGTERM, False, 143, marks=pytest.mark.slow),
        pytest.param(signal.SIGKILL, False, -9, marks=pytest.mark.slow),
    ],
)
def test_a_run_that_is_stopped_leaves_no_process_and_goes_on(
    tmp_path: Path, number: signal.Signals, everyone: bool, code: int
) -> None:
    out = tmp_path / "out"
    process = started(out)
    children = busy(process, out)
    assert sum(map(of_our_code, children)) == 2
    if everyone:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    _, text = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == code
    assert psutil.wait_procs(children, timeout=30.0)[1] == []
    assert "Traceback" not in text
    if code > 0:
        said = "interrupted" if code == 130 else "terminated"
        hint = f"the same command with --out {out} --resume"
        assert text.splitlines()[-1] == f"{said}; what is done is kept; to go on: {hint}"
    words = ["wrn", "mlp", *NATIVE, "--chips", "20"]
    done(words, out, 1, "--resume")
    expected = done(words, tmp_path / "whole", 1)
    assert (out / "results.csv").read_bytes() == (expected / "results.csv").read_bytes()
    assert not list(out.rglob(".*partial*"))


@posix
def test_a_process_that_is_killed_is_one_line(tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = started(out)
    children = busy(process, out)
    next(filter(of_our_code, children)).kill()
    _, text = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 2
    assert psutil.wait_procs(children, timeout=30.0)[1] == []
    assert "Traceback" not in text
    hint, error = text.splitlines()[-2:]
    assert hint.endswith(f"--out {out} --resume")
    assert "was ended from outside (signal 9)" in error and "--workers 1 takes less" in error


def test_a_training_that_fails_ends_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error is that of one process: a line and the exit code."""
    words = ["wrn", "mlp", *NATIVE, "--set", "noise_scale=1e30", "--workers", "2"]
    assert run.main([*words, "--out", str(tmp_path / "out")]) == 1
    text = capsys.readouterr().err
    assert "Traceback" not in text
    assert [line for line in text.splitlines() if line.startswith("error: ")], text
    assert not [p for p in psutil.Process().children(recursive=True) if of_our_code(p)]


class Stranger(Exception):
    """An error that cannot be pickled back."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(one + two)


class Wordy(Exception):
    """An error that comes back from pickle with other words."""

    def __init__(self, path: str, line: int = 0) -> None:
        super().__init__(f"{path}, line {line}")


def test_an_error_that_cannot_be_sent_keeps_its_type_and_words() -> None:
    class Local(Exception):
        """An error whose class pickle does not find."""

    for error, name in ((Stranger(1, 2), "Stranger: 3"), (Local("mine"), "Local: mine")):
        received = side_by_side._received(*side_by_side._sent(error))
        assert isinstance(received, side_by_side.WorkerError)
        assert str(received).endswith(name)
    received = side_by_side._received(*side_by_side._sent(Wordy("a.csv", 3)))
    assert str(received).endswith("Wordy: a.csv, line 3")


def test_an_error_that_can_be_sent_is_the_same() -> None:
    received = side_by_side._received(*side_by_side._sent(UsageError("mine")))
    assert type(received) is UsageError and str(received) == "mine"


CLOSED = """
import dataclasses
from presets import rasch2023

class Law:
    def __init__(self):
        self.lock = lambda: None

    def program(self, weights, generator):
        return weights

    def read(self, state, t_inference, generator):
        return state

MINE = rasch2023.with_device(Law(), name="mine", why="a test")
"""


def test_what_cannot_be_sent_runs_one_after_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By default with a note; if processes were asked for, that is an error."""
    (tmp_path / "closed_law.py").write_text(CLOSED, encoding="utf-8")
    words = ["wrn", "mlp", *NATIVE, "--phases", "direct"]
    words += ["--preset", f"{tmp_path / 'closed_law.py'}:MINE"]
    monkeypatch.setattr("benchmarks.studies.whole_run.usual_workers", lambda *_: 2)
    assert run.main([*words, "--workers", "2", "--out", str(tmp_path / "no")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: --workers 2: a training cannot be sent to another process (")
    assert not (tmp_path / "no").exists()
    assert run.main([*words, "--out", str(tmp_path / "out")]) == 0
    assert "one training after another: a training cannot be sent" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["wrn", "bert", "lstm", "mlp"])
def test_the_tasks_of_the_readme_can_be_sent(name: str) -> None:
    task = tasks.get(name)
    sent = pickle.loads(pickle.dumps(task))
    model, same = task.build(0).eval(), sent.build(0).eval()
    batch, other = next(iter(task.batches("test"))), next(iter(sent.batches("test")))
    with torch.no_grad():
        assert torch.equal(task.logits(model, batch), sent.logits(same, other))


# --- how many -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "replica", "expected", "cores", "workers"),
    [
        (Settings(), Replica(), Estimate(300.0, True), 2, 2),
        (Settings(), Replica(), Estimate(300.0, True), 1, 1),
        (Settings(), Replica(), Estimate(10.0, True), 8, 1),  # over before a process works
        (Settings(), Replica(), Estimate(10.0, True, ("mine",)), 8, 8),
        (Settings(profile="real"), Replica(), Estimate(300.0, True), 8, 1),
        (Settings(device="cuda"), Replica(), Estimate(300.0, True), 8, 1),
        (Settings(shard="1/2"), Replica(), Estimate(300.0, True), 8, 1),
        (Settings(), Replica(0, 2), Estimate(300.0, True), 8, 1),
    ],
)
def test_as_many_workers_as_cores_if_it_pays(
    settings: Settings,
    replica: Replica,
    expected: Estimate,
    cores: int,
    workers: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(joblib, "cpu_count", lambda: cores)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert usual_workers(settings, replica, expected) == workers


def test_threads_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joblib, "cpu_count", lambda: 8)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert usual_workers(Settings(), Replica(), Estimate(300.0, True)) == 2


# --- bars -----------------------------------------------------------------------------------------


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    """Return what a process sends of its bars."""
    told: list[tuple[object, ...]] = []

    def draw(show: bool, _: bool) -> object:
        return side_by_side._Bar(told.append, show)

    monkeypatch.setattr(progress, "_draw", draw)
    return told


def test_a_bar_is_drawn_by_the_other_process(
    sent: list[tuple[object, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(
        progress, "bars", lambda _, __=True, made=progress.bars: on(made(True), screen)
    )
    with ProgressBar("chips", 4, 1, show=True) as bar:
        for _ in range(3):
            bar.advance(note="97.5 % at 1y")
    state = {"description": "chips", "total": 4, "completed": 4.0, "note": "97.5 % at 1y"}
    assert sent[0][0] == "bar" and sent[-1] == ("bar", state, True)
    with side_by_side._Bars(True) as bars:
        bars.draw("wrn", {**state, "completed": 2.0}, False)
        bars.draw("lstm", {**state, "description": "training"}, False)
        bars.draw("wrn", state, True)
        assert set(bars._lines) == {"lstm"}
        bars._display.refresh()
    words = screen.getvalue()
    assert "wrn: chips" in words and "4/4 97.5 % at 1y" in words and "lstm: training" in words


def on(display: progress.Progress, screen: io.StringIO) -> object:
    display.live.console = Console(file=screen, force_terminal=True, width=100, color_system=None)
    return display


def test_a_hidden_bar_sends_nothing(sent: list[tuple[object, ...]]) -> None:
    with ProgressBar("chips", 4, show=False) as bar:
        bar.advance()
    assert sent == []


def test_bars_are_not_sent_at_every_step(sent: list[tuple[object, ...]]) -> None:
    with ProgressBar("training", 1000, show=True) as bar:
        for _ in range(1000):
            bar.advance()
    assert 2 <= len(sent) < 100
    assert sent[-1][1]["completed"] == 1000.0  # type: ignore[index]


def test_a_step_takes_the_time_that_its_own_process_measured(tmp_path: Path) -> None:
    """The process that counts steps may be busy when the messages come."""
    told: list[tuple[object, ...]] = []
    with side_by_side._Told(told.append).doing("one"):
        time.sleep(0.2)
    begun, (_, _, whole, seconds) = told
    assert begun == ("begin", "one") and whole is True
    assert isinstance(seconds, float) and 0.2 <= seconds < 60.0
    known = Costs(tmp_path / "costs.json")
    steps = Steps([Step("one", "a step", (("a kind", 2.0),))], Output(quiet=True), known)
    steps.begin("one")
    steps.end("one", seconds=7.0)  # although it ends at once
    assert known.seconds("a kind", 2.0) == (7.0, True)
