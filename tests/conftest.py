"""Fixtures and settings of all tests: one thread per process, no network, real data if present."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

# These variables must be set before torch and the Hugging Face libraries are imported.
for _name, _value in {
    "OMP_NUM_THREADS": "1",  # The suite runs one process per core.
    "MPLBACKEND": "Agg",
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "AIMC_BRIDGE_TIMINGS": "",  # Tests say nothing about the speed of this machine.
}.items():
    os.environ.setdefault(_name, _value)

import pytest  # noqa: E402
import torch  # noqa: E402

from aimc_bridge.engines import versions  # noqa: E402
from aimc_bridge.errors import VersionError  # noqa: E402
from tests.models import ENGINES  # noqa: E402

if TYPE_CHECKING:
    from benchmarks.tasks import Task

ROOT = Path(__file__).parent.parent


def why_no_aihwkit() -> str | None:
    """Return why the aihwkit engine cannot run here, or None if it can."""
    try:
        versions.check()
    except VersionError as error:
        return f"needs the aihwkit engine: {error}"
    return None


NO_AIHWKIT = why_no_aihwkit()
if (
    NO_AIHWKIT is not None
):  # A test that imports a wrong aihwkit itself must not reach its C++ code.
    sys.modules["aihwkit"] = None  # type: ignore[assignment] # an import then raises


def is_for_want_of_aihwkit(error: BaseException | None) -> bool:
    """Return whether an error says that aihwkit is not here, where it is not."""
    if NO_AIHWKIT is None or not isinstance(error, ImportError):
        return False
    return isinstance(error, VersionError) or (error.name or "").partition(".")[0] == "aihwkit"


@contextlib.contextmanager
def skipping_for_want_of_aihwkit(item: pytest.Item) -> Iterator[None]:
    """Skip a test that cannot go on without aihwkit, unless it is about the native engine."""
    try:
        yield
    except ImportError as error:
        if not is_for_want_of_aihwkit(error) or "native" in words(item):
            raise
        pytest.skip(str(NO_AIHWKIT))


def words(item: pytest.Item) -> list[str]:
    """Return the parameters of a test that are words."""
    callspec = getattr(item, "callspec", None)  # a test without parameters has none
    values = [] if callspec is None else callspec.params.values()
    return [value for value in values if isinstance(value, str)]


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Skip a file of tests that imports aihwkit where there is none."""
    report = yield
    call = getattr(report, "call", None)
    error = call.excinfo.value.__cause__ if report.failed and call and call.excinfo else None
    if is_for_want_of_aihwkit(error):
        report.outcome = "skipped"
        report.longrepr = (str(collector.path), 0, f"Skipped: {NO_AIHWKIT}")
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, None, None]:
    if item.get_closest_marker("cuda") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    needs_aihwkit = item.get_closest_marker("aihwkit") or "aihwkit" in words(item)
    if NO_AIHWKIT is not None and needs_aihwkit:
        pytest.skip(NO_AIHWKIT)
    with skipping_for_want_of_aihwkit(item):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    with skipping_for_want_of_aihwkit(item):
        return (yield)


@pytest.fixture(autouse=True)
def accelerate_forgets() -> Iterator[None]:
    """Remove what a test set up in Accelerate: the next may use another precision."""
    yield
    state = sys.modules.get("accelerate.state")
    if state is not None and state.is_initialized():
        state.AcceleratorState._reset_state(True)
        state.GradientState._reset_state()


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    """Return the name of each engine in turn."""
    return str(request.param)


@pytest.fixture
def no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unset the variable that names a folder of real data, whatever the shell has set."""
    monkeypatch.delenv("AIMC_BRIDGE_DATA", raising=False)


@pytest.fixture
def small_periphery(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use few chips for the cross-check's periphery rows; tests of layers cover them."""
    from aimc_bridge.equivalence import periphery

    monkeypatch.setattr(periphery, "EXACT_CHIPS", 4)
    monkeypatch.setattr(periphery, "CLIP_CHIPS", 4)


@pytest.fixture(scope="module")
def all_tasks() -> dict[str, Task]:
    """Return the embedded task of every model, by name."""
    from benchmarks import tasks

    return {name: tasks.get(name) for name in tasks.names("embedded")}


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Return the folder of real data: AIMC_BRIDGE_DATA, or shared/data beside the repository."""
    named = os.environ.get("AIMC_BRIDGE_DATA")
    folder = Path(named) if named else ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real data: AIMC_BRIDGE_DATA is not set and {folder} is not there")
    return folder
