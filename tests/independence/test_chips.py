"""No two layers, tiles, chips, times or stages share noise, from programming to compensation."""

from __future__ import annotations

import pytest
from torch import Tensor

from tests.independence.correlation import assert_independent, assert_shared
from tests.independence.fields import COLUMNS, PRESETS, ROWS, chips, forget
from tests.models import ENGINES

DEVICE_STAGES = ("program", "exponent", "read", "faults")
LAYER, TILE, SEED, TIME = 1, 2, 3, 4  # places in the name of a field


@pytest.fixture(scope="module", params=ENGINES)
def noise(request: pytest.FixtureRequest) -> dict[tuple[object, ...], Tensor]:
    """Return the noise of all stages on each engine in turn."""
    return {k: v for stage in PRESETS for k, v in chips(str(request.param), stage).items()}


def test_devices_share_no_noise(noise: dict[tuple[object, ...], Tensor]) -> None:
    """Cell by cell: programming, exponents, readings at two times, and broken devices."""
    fields = {key: value for key, value in noise.items() if key[0] in DEVICE_STAGES}
    assert len(fields) == 3 * 4 * 2 * 5 and {v.numel() for v in fields.values()} == {ROWS * COLUMNS}
    assert_independent(fields)


def test_compensation_shares_no_noise(noise: dict[tuple[object, ...], Tensor]) -> None:
    """Column by column: the reference, readouts at two times, and the mean noise of devices."""
    fields = {key: value if value.ndim == 1 else value.mean(1) for key, value in noise.items()}
    assert len(fields) == 3 * 4 * 2 * 8 and {v.numel() for v in fields.values()} == {COLUMNS}
    assert_independent(fields)


# What is planted: the stage, the kind of stream, the forgotten word of its name (None: the seed),
# and in which entry the names of the fields that share noise then differ.
PLANTS = {
    "native": [
        ("program", "program", 1, LAYER),
        ("program", "program", None, SEED),
        ("exponent", "exponent", 1, LAYER),
        ("exponent", "exponent", None, SEED),
        ("read", "read", 1, LAYER),
        ("read", "read", 2, TIME),
        ("read", "read", None, SEED),
        ("compensation", "compensation", 1, LAYER),
        ("compensation", "compensation", 2, TIME),
        ("compensation", "compensation", None, SEED),
        ("faults", "faults", 1, LAYER),
    ],
    "aihwkit": [
        ("program", "program", 1, LAYER),
        ("program", "program", 2, TILE),
        ("program", "program", 3, TILE),
        ("program", "program", None, SEED),
        ("exponent", "program", 1, LAYER),
        ("exponent", "program", 2, TILE),
        ("read", "read", 1, LAYER),
        ("read", "read", 2, TILE),
        ("read", "read", 3, TILE),
        ("read", "read", 4, TIME),
        ("read", "read", None, SEED),
    ],
}


@pytest.mark.parametrize(
    ("engine", "stage", "kind", "index", "among"),
    [(engine, *plant) for engine, plants in PLANTS.items() for plant in plants],
)
def test_a_shared_stream_is_found(
    monkeypatch: pytest.MonkeyPatch,
    engine: str,
    stage: str,
    kind: str,
    index: int | None,
    among: int,
) -> None:
    """The same correlations find every part of a name that is forgotten, and name the culprits."""
    forget(monkeypatch, kind, index, seed=index is None)
    assert_shared(chips(engine, stage), among)
