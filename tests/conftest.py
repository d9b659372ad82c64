"""What all tests share: one thread a process, no network, real data where there are some."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

# before torch and the Hugging Face libraries are imported
for _name, _value in {
    "OMP_NUM_THREADS": "1",  # the suite runs a process a core
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


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    """Each engine in turn."""
    return str(request.param)


@pytest.fixture
def no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """No folder of real data is named, whatever the shell has."""
    monkeypatch.delenv("AIMC_BRIDGE_DATA", raising=False)


@pytest.fixture
def small_periphery(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few chips for the cross-check's rows of the periphery, which are tested with the layers."""
    from aimc_bridge.equivalence import periphery

    monkeypatch.setattr(periphery, "EXACT_CHIPS", 4)
    monkeypatch.setattr(periphery, "CLIP_CHIPS", 4)


@pytest.fixture(scope="module")
def all_tasks() -> dict[str, Task]:
    """The embedded task of every model, by name."""
    from benchmarks import tasks

    return {name: tasks.get(name) for name in tasks.names("embedded")}


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data: AIMC_BRIDGE_DATA, or shared/data beside the repository."""
    named = os.environ.get("AIMC_BRIDGE_DATA")
    folder = Path(named) if named else ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real data: AIMC_BRIDGE_DATA is not set and {folder} is not there")
    return folder
