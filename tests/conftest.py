"""Fixtures and settings of all tests: one thread per process, no network, real data if present."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

# These variables must be set before torch and the Hugging Face libraries are imported.
for _name, _value in {
    "OMP_NUM_THREADS": "1",  # The suite runs one process per core.
    "MPLBACKEND": "Agg",
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}.items():
    os.environ.setdefault(_name, _value)

import pytest  # noqa: E402
import torch  # noqa: E402

from tests.models import ENGINES  # noqa: E402

if TYPE_CHECKING:
    from benchmarks.tasks import Task

ROOT = Path(__file__).parent.parent


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("cuda") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


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
