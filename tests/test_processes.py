"""Real processes: pools that end with their parent, signals at any moment, one writer per file."""

from __future__ import annotations

import multiprocessing
import os
import random as chance
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import psutil
import pytest
import torch
from torch import nn

from aimc_bridge import calibrate, convert, interruption, sweep
from aimc_bridge.errors import UsageError
from aimc_bridge.files import only_writer
from benchmarks.__main__ import COMMANDS
from presets import rasch2023
from tests.models import mlp, random

ROOT = Path(__file__).parent.parent
PATIENCE_S = 300.0  # on a machine that is busy with other things

posix = pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")


def size(model: nn.Module) -> float:
    with torch.no_grad():
        return float(model(random(20, 12)).abs().mean())


def slow_size(model: nn.Module) -> float:
    time.sleep(0.05)
    return size(model)


def make() -> nn.Module:
    analog = convert(mlp(), rasch2023).eval()
    calibrate(analog, [random(20, 12)])
    return analog


SWEEP = """
import sys
from aimc_bridge import sweep
from tests.test_processes import make, slow_size

if __name__ == "__main__":
    sweep(make(), slow_size, "1s", chips=int(sys.argv[2]), executor=2, resume=sys.argv[1],
          progress=False)
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("script") / "parallel.py"
    path.write_text(SWEEP, encoding="utf-8")
    return path


def listen() -> None:
    """Let a child process hear SIGINT, which shells turn off for what runs in the background."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def started(script: Path, *words: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, script, *map(str, words)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=listen,
    )


def wait_for(condition: object, process: subprocess.Popen[str]) -> None:
    """Wait until a function returns something true, as long as the process runs."""
    end = time.monotonic() + PATIENCE_S
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, "waited too long"
        assert process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.02)


def gone(processes: list[psutil.Process], within_s: float) -> list[psutil.Process]:
    """Wait for processes to end; return those that are still there."""
    return psutil.wait_procs(processes, timeout=within_s)[1]


@posix
@pytest.mark.parametrize("kill", ["SIGKILL", "SIGTERM", "SIGINT"])
def test_a_parallel_sweep_that_is_killed_leaves_no_workers_and_goes_on(
    script: Path, tmp_path: Path, kill: str
) -> None:
    path = tmp_path / "sweep.csv"
    process = started(script, path, 400)
    wait_for(path.exists, process)
    time.sleep(chance.Random(kill).random() / 2)
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 2
    process.send_signal(getattr(signal, kill))
    process.communicate(timeout=PATIENCE_S)
    assert gone(children, 30.0) == []
    done = pd.read_csv(path)
    assert 0 < len(done) < 400
    chips = int(done.chip.max()) + 1
    table = sweep(make(), size, "1s", chips=chips, resume=path, progress=False)
    expected = sweep(make(), size, "1s", chips=chips, progress=False)
    pd.testing.assert_frame_equal(table, expected, check_exact=True)
    assert not list(tmp_path.glob(".*partial*"))


# --- executors ------------------------------------------------------------------------------------


@pytest.mark.skipif(find_spec("distributed") is None, reason="dask.distributed is not installed")
def test_dask_with_a_worker_that_is_killed() -> None:
    """The tasks of a dead worker are done by another one, and the table is complete and equal."""
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster),
    ):
        victim = next(iter(cluster.workers.values()))

        def kill(count: int) -> None:
            if count == 3:
                os.kill(victim.pid, signal.SIGKILL)

        table = _interfered(kill, executor="dask")
    expected = sweep(make(), size, ("1s", "1h"), chips=12, progress=False)
    pd.testing.assert_frame_equal(table, expected, check_exact=True)


@pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed")
def test_ray() -> None:
    import ray
    from ray.util.joblib import register_ray

    ray.init(num_cpus=2, include_dashboard=False)
    register_ray()
    try:
        table = sweep(
            make(), size, ("1s", "1h"), chips=4, executor="ray", workers=2, progress=False
        )
    finally:
        ray.shutdown()
    expected = sweep(make(), size, ("1s", "1h"), chips=4, progress=False)
    pd.testing.assert_frame_equal(table, expected, check_exact=True)


def _interfered(act: object, **options: object) -> pd.DataFrame:
    """Sweep while a thread calls `act` with the number of chips that are done."""
    import tempfile
    import threading

    with tempfile.TemporaryDirectory() as folder:
        path, over = Path(folder) / "sweep.csv", threading.Event()

        def watch() -> None:
            seen = 0
            while not over.wait(0.02):
                count = len(path.read_text(encoding="utf-8").splitlines()) if path.exists() else 0
                for number in range(seen + 1, count // 2 + 1):
                    act(number)  # type: ignore[operator]
                seen = max(seen, count // 2)

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            return sweep(
                make(), slow_size, ("1s", "1h"), chips=12, resume=path, progress=False,
                **options,  # type: ignore[arg-type]
            )  # fmt: skip
        finally:
            over.set()
            thread.join()


def test_processes_inside_an_evaluation() -> None:
    """The evaluation has torch's generator, and the processes do not wait for it."""
    inner = make()

    def nested(model: nn.Module) -> float:
        table = sweep(inner, size, "1s", chips=2, seed=7, executor=2, progress=False)
        return float(table.value.mean())

    outer = sweep(make(), nested, "1s", chips=1, progress=False)
    assert outer.value[0] == sweep(inner, size, "1s", chips=2, seed=7, progress=False).value.mean()


# --- one writer per file --------------------------------------------------------------------------


def test_a_second_sweep_on_one_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "sweep.csv"

    def second(model: nn.Module) -> float:
        with pytest.raises(UsageError, match="another sweep is writing this file; wait"):
            sweep(make(), size, "1s", chips=1, resume=path, progress=False)
        return size(model)

    sweep(make(), second, "1s", chips=2, resume=path, progress=False)
    assert [file.name for file in tmp_path.iterdir()] == ["sweep.csv"]
    assert len(sweep(make(), size, "1s", chips=2, resume=path, progress=False)) == 2


@posix
def test_a_dead_process_holds_no_file(tmp_path: Path) -> None:
    path = tmp_path / "sweep.csv"
    program = (
        "import sys, time; from pathlib import Path; from aimc_bridge.files import only_writer\n"
        "with only_writer(Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, path],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        refused = pytest.raises(UsageError, match="another sweep is writing this file")
        with refused, only_writer(path):
            pass
        process.kill()
    with only_writer(path):
        pass
    assert list(tmp_path.iterdir()) == []


# --- Ctrl-C ---------------------------------------------------------------------------------------

WORDS = {
    "aimc-bridge": [
        "-c",
        "import sys; sys.argv = ['aimc-bridge', 'run', '--help']\n"
        "from aimc_bridge.console import main; sys.exit(main())",
    ],
    "aimc_bridge": ["-m", "aimc_bridge", "doctor"],
    "benchmarks": ["-m", "benchmarks", "doctor"],
    **{name: ["-m", f"benchmarks.{name}", "--help"] for name in COMMANDS},
}


def interrupted(words: list[str], delay_s: float) -> tuple[int, str]:
    """Send SIGINT some time after Python has begun to import the project; return code and text."""
    process = subprocess.Popen(
        [sys.executable, "-X", "importtime", *words],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=listen,
    )
    assert process.stderr is not None
    for line in process.stderr:  # what follows is the first module after the handler is in place
        if line.rpartition("|")[2].strip() in ("aimc_bridge", "aimc_bridge.errors"):
            break
    else:
        pytest.fail("the project was not imported")
    time.sleep(delay_s)
    process.send_signal(signal.SIGINT)
    with process:
        text = process.stderr.read()
    return process.returncode, "\n".join(
        line for line in text.splitlines() if not line.startswith("import time:")
    )


@posix
@pytest.mark.slow
@pytest.mark.parametrize("delay_s", [0.0, 0.1, 0.3, 1.0, 3.0])
@pytest.mark.parametrize("name", [name for name in WORDS if name != "aimc-bridge"])
def test_ctrl_c_is_quiet_whenever_it_comes(name: str, delay_s: float) -> None:
    code, text = interrupted(WORDS[name], delay_s)
    assert code in (0, 130), text  # 0: it was done before
    assert text in ("", "interrupted")


@posix
@pytest.mark.parametrize("delay_s", [0.0, 0.5])
def test_ctrl_c_during_imports_is_quiet(delay_s: float) -> None:
    assert interrupted(["-m", "benchmarks.run", "lstm", "--dry-run"], delay_s) == (
        130,
        "interrupted",
    )


@pytest.mark.parametrize(
    ("words", "ours"),
    [
        (["python", "-m", "benchmarks.run", "lstm"], True),
        (["python", "-X", "dev", "-W", "error", "-m", "benchmarks"], True),
        (["python", "-um", "aimc_bridge", "doctor"], True),
        (["python", "-maimc_bridge"], True),
        (["python", "/usr/bin/aimc-bridge", "run"], True),
        (["python", "-m", "pytest", "-m", "benchmarks"], False),
        (["python", "train.py", "-m", "benchmarks"], False),
        (["python", "-c", "import aimc_bridge"], False),
        (["python"], False),
        (["python", "-m"], False),
    ],
)
def test_only_the_projects_own_commands_leave_at_ctrl_c(
    words: list[str], ours: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "orig_argv", words)
    assert interruption.is_command() is ours


NAMESAKE = """
import signal, sys

numbers = (signal.SIGINT, signal.SIGTERM)
before = [signal.getsignal(number) for number in numbers]
import aimc_bridge, aimc_bridge.workers
from aimc_bridge import interruption

assert aimc_bridge.__file__.startswith(sys.argv[1]), aimc_bridge.__file__
assert not interruption.is_command()
assert [signal.getsignal(number) for number in numbers] == before
assert "torch" not in sys.modules
"""


def test_a_namesake_of_ours_keeps_its_own_ctrl_c(tmp_path: Path) -> None:
    """A user's package may be called benchmarks, too: the library then changes no handler."""
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "mine.py").write_text(NAMESAKE, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.mine", ROOT],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr


@posix
def test_a_forked_child_of_a_command_dies_of_sigterm(handlers: None) -> None:
    """It has the command's handlers, but they are not about it."""
    context = multiprocessing.get_context("fork")
    running = context.Event()  # Python forgets signals that come while it forks

    def work() -> None:
        running.set()
        time.sleep(60)

    with interruption.signals() as came:
        process = context.Process(target=work)
        process.start()
        assert running.wait(PATIENCE_S)
        process.terminate()
        process.join(PATIENCE_S)
    assert process.exitcode == -signal.SIGTERM
    assert not came.came


WATCHED = """
import multiprocessing, os, sys, time
from aimc_bridge.workers import end_with

def work(parent):
    end_with(parent)
    os.write(1, f"{os.getpid()}\\n".encode())  # at once: both write into one pipe
    time.sleep(600)

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    processes = [context.Process(target=work, args=(os.getpid(),)) for _ in range(2)]
    for process in processes:
        process.start()
    time.sleep(600)
"""


@posix
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_workers_end_with_their_parent_however_they_were_started(
    tmp_path: Path, method: str
) -> None:
    script = tmp_path / "watched.py"
    script.write_text(WATCHED, encoding="utf-8")
    parent = subprocess.Popen(
        [sys.executable, script, method],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    with parent:
        assert parent.stdout is not None
        workers = [psutil.Process(int(parent.stdout.readline())) for _ in range(2)]
        time.sleep(1.5)  # they live as long as their parent
        assert all(worker.is_running() for worker in workers)
        parent.kill()
    assert gone(workers, 30.0) == []


@pytest.fixture
def handlers() -> Iterator[None]:
    """Give this process Python's own handlers for a test."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@posix
@pytest.mark.parametrize(
    ("number", "code", "text"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")],
)
@pytest.mark.parametrize("translated", [False, True])
def test_signals_while_a_command_works(
    number: int,
    code: int,
    text: str,
    translated: bool,
    handlers: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Also if a library turns the interruption into an error of its own."""
    from aimc_bridge import commands

    def work() -> None:
        """Wait for a signal."""
        try:
            os.kill(os.getpid(), number)
            time.sleep(10)
        except KeyboardInterrupt:
            if translated:
                raise ImportError("half a module") from None
            raise

    app = commands.command("wait", work, program="wait")
    assert commands.execute(app, [], program="wait") == code
    assert capsys.readouterr().err == f"{text}\n"
    assert signal.getsignal(number) in (signal.default_int_handler, signal.SIG_DFL)
