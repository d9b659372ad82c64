"""Memory: what models hold, that it grows linearly, that programming leaks nothing.

Bytes are counted, not estimated: every storage that a model keeps alive, once.
"""

from __future__ import annotations

import gc
import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor

from aimc_bridge import calibrate, convert, drift, program
from aimc_bridge.engines.native.onednn import multiplies_integers
from benchmarks.speed import memory, sides, works
from benchmarks.speed.memory import (
    events,
    held_by,
    held_bytes,
    matrix_bytes,
    peak_bytes,
    storage,
)
from benchmarks.speed.works import FULL, Work
from presets import rasch2023
from tests.models import linear, random

CPU = torch.device("cpu")


# --- other ways to count, to check ours with ------------------------------------------------------


def live_bytes() -> int:
    """Return the bytes of all tensors that Python knows, each storage once.

    Tensors of torch.compile that have a shape and no memory do not count.
    """
    gc.collect()
    tensors = [
        value
        for value in gc.get_objects()
        if issubclass(type(value), Tensor)
        and not issubclass(type(value), FakeTensor | FunctionalTensor)
    ]
    return sum(dict(map(storage, tensors)).values())


def net_bytes(run: Callable[[], object]) -> int:
    """Return the bytes that `run` took from torch's allocator on the CPU and did not give back."""
    gc.collect()

    def whole() -> None:
        run()
        gc.collect()

    return sum(events(whole))


def by_attribute(model: nn.Module) -> dict[str, float]:
    """Return the bytes of each attribute's storages, largest first.

    They are relative to the bytes of the weights on tiles.
    """
    whole = matrix_bytes(model)
    shares: dict[str, float] = {}
    for path, size in held_by(model).items():
        crossbar_path, _, rest = path.rpartition("crossbar.")
        key = re.sub(r"\[.*?\]", "", rest) if crossbar_path else path.rpartition(".")[2]
        shares[key] = shares.get(key, 0.0) + size / whole
    return dict(sorted(shares.items(), key=lambda pair: -pair[1]))


# --- the counting itself --------------------------------------------------------------------------


class Holder(nn.Module):
    """A module that holds the same tensors in every way there is."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(100))
        self.register_buffer("seen", torch.zeros(10, dtype=torch.long))
        self.view = self.weight.detach()[:50]
        self.cache = {"a": (torch.zeros(7), [torch.zeros(5)])}
        self.inner = nn.Linear(3, 2, bias=False)


def test_every_storage_counts_once() -> None:
    model = Holder()
    assert held_by(model) == {
        "weight": 400,
        "seen": 80,
        "cache['a'][0]": 28,
        "cache['a'][1][0]": 20,
        "inner.weight": 24,
    }
    model.weight.sum().backward()
    assert held_by(model)["weight.grad"] == 400
    model.again = model  # type: ignore[assignment]
    model.part = torch.zeros(1000)[:1]  # type: ignore[assignment]
    assert held_bytes(model) == 400 + 400 + 80 + 28 + 20 + 24 + 4000


def test_held_bytes_are_what_a_converted_model_keeps_alive() -> None:
    """Python's own list of tensors agrees, at every stage."""
    work = small()
    works_before = live_bytes()
    counts = []
    for stage, model in memory.stages(work, rasch2023):
        counts.append((stage, live_bytes() - works_before, held_bytes(model)))
    shared = 50_000  # Caches of positions, indices and zeros are shared by all layers of a size.
    for stage, alive, held in counts:
        assert 0 <= alive - held <= shared, stage
    assert counts[2][2] > 500_000


def test_peak_is_the_most_at_once() -> None:
    x = torch.zeros(250_000)  # 1 MB

    def run() -> Tensor:
        a = x + 1
        b = a + 1
        del a
        c = b + 1
        del b
        return c.sum()

    assert peak_bytes(run, CPU) == pytest.approx(2_000_000, abs=1000)
    assert sum(events(run)) == 0
    held = [torch.zeros(250_000)]

    def replace() -> None:  # What was there before is freed first.
        held.clear()
        held.append(torch.zeros(250_000))

    assert peak_bytes(replace, CPU) == 0


def test_net_bytes_see_what_stays() -> None:
    alive: list[Tensor] = []
    assert net_bytes(lambda: torch.zeros(1000) + 1) == 0
    assert net_bytes(lambda: alive.append(torch.zeros(1000))) == 4000


# --- bounds ---------------------------------------------------------------------------------------


def small() -> Work:
    """Return work on a wide layer after a narrow one, in several tiles both ways."""
    model = nn.Sequential(linear(96, 520), nn.ReLU(), linear(520, 530, seed=1)).eval()
    return Work("small", model, "rows", 4, lambda n: random(n, 96), lambda n: random(n), "wrn16")


def one_bert_layer() -> Work:
    return works.bert(FULL, layers=1)


@pytest.mark.parametrize(
    "build",
    [small, lambda: works.wrn(FULL), lambda: works.lstm(FULL), one_bert_layer],
    ids=["linear", "wrn", "lstm", "bert"],
)
def test_what_a_model_adds_to_its_weights_is_bounded(build: Callable[[], Work]) -> None:
    """It adds at most 1.5 times the weights before programming.

    After programming it is at most 4 times, after the first product 5 times; see `memory`.
    """
    work = build()
    work.size = min(work.size, 2)
    model = None
    for stage, model in memory.stages(work, rasch2023):
        bound = memory.BOUNDS[stage]
        assert memory.added(model) <= bound, f"{stage}: {by_attribute(model)}"
    # A restored model has scales and ranges only.
    assert model is not None and memory.added(model) < 0.05


def test_a_chip_counts_its_conductances_exponents_and_held_weights() -> None:
    """A chip needs at least these.

    A count that missed one of them would pass every bound.
    """
    stages = memory.added_by_stage(small(), rasch2023)
    assert stages[memory.CONVERTED] < 0.05
    assert stages[memory.PROGRAMMED] >= 3.0
    assert stages[memory.RUN] >= 3.0


def test_digital_parts_are_not_counted_as_added() -> None:
    work = one_bert_layer()
    (_, model) = next(memory.stages(work, rasch2023))
    embeddings = sum(p.numel() * 4 for p in work.model.bert.embeddings.parameters())  # type: ignore[union-attr,operator]
    assert memory.digital_bytes(model) > embeddings > 10 * matrix_bytes(model) / 4
    assert held_bytes(model) > memory.digital_bytes(model) + matrix_bytes(model)


# --- leaks ----------------------------------------------------------------------------------------


def programmed_again(model: nn.Module, x: Tensor, first: int, count: int) -> None:
    """Program `count` chips; drift and use each."""
    with torch.no_grad():
        for seed in range(first, first + count):
            program(model, seed)
            drift(model, "1h")
            model(x)


def test_a_thousand_programmings_leave_nothing_behind() -> None:
    model = convert(nn.Sequential(linear(24, 16)), rasch2023).eval()
    x = random(3, 24)
    calibrate(model, [x])
    programmed_again(model, x, 0, 3)
    held, alive = held_bytes(model), live_bytes()
    programmed_again(model, x, 3, 1000)
    assert held_bytes(model) == held
    assert live_bytes() == alive
    # This is the allocator's own account, which counts tensors that Python does not see too.
    net_bytes(lambda: programmed_again(model, x, 2000, 1))  # From here on it knows the chip.
    assert net_bytes(lambda: programmed_again(model, x, 3000, 40)) == 0


def test_a_leak_would_be_seen() -> None:
    """The same counts find a layer that keeps one number of every programming."""
    model = convert(nn.Sequential(linear(24, 16)), rasch2023).eval()
    x = random(3, 24)
    calibrate(model, [x])
    leaked: list[Tensor] = []

    def leaking(first: int, count: int) -> None:
        for seed in range(first, first + count):
            programmed_again(model, x, seed, 1)
            leaked.append(torch.zeros(1))

    programmed_again(model, x, 0, 3)
    alive = live_bytes()
    leaking(3, 10)
    assert live_bytes() == alive + 40
    net_bytes(lambda: leaking(100, 1))
    assert net_bytes(lambda: leaking(200, 40)) == 160


# --- growth ---------------------------------------------------------------------------------------


def chip_bytes(n_in: int, n_out: int, tile: int, used: bool) -> int:
    """Return the bytes that a programmed and drifted layer holds; if `used`, after a product."""
    preset = rasch2023.change(max_rows=tile, max_columns=tile, why="tiles of another size")
    model = convert(nn.Sequential(linear(n_in, n_out, bias=False)), preset).eval()
    x = random(2, n_in)
    calibrate(model, [x])
    program(model, 0)
    drift(model, "1h")
    if used:
        with torch.no_grad():
            model(x)
    return held_bytes(model)


@pytest.mark.parametrize("used", [False, True], ids=["drifted", "used"])
def test_a_chip_grows_linearly_with_its_width(used: bool) -> None:
    """Equal steps of width cost equal bytes, to 1 %.

    So no term grows faster, and none makes a jump.
    """
    widths = [64, 128, 192, 256, 320]
    sizes = [chip_bytes(128, width, 64, used) for width in widths]
    steps = [b - a for a, b in zip(sizes, sizes[1:], strict=False)]
    assert max(steps) <= min(steps) * 1.01
    assert min(steps) >= 4 * 4 * 64 * 128  # Weights, conductances, exponents, and held weights.


@pytest.mark.parametrize("used", [False, True], ids=["drifted", "used"])
def test_a_chip_grows_linearly_with_the_number_of_its_tiles(used: bool) -> None:
    """Tiles are 64 x 64, in both directions."""
    tiles = [(1, 1), (2, 1), (2, 2), (2, 4), (4, 4), (4, 8)]
    counts = [rows * columns for rows, columns in tiles]
    sizes = [chip_bytes(64 * rows, 64 * columns, 64, used) for rows, columns in tiles]
    each = [size / count for size, count in zip(sizes, counts, strict=True)]
    # A matrix has some things once (an index of its rows); with more tiles, their part per tile
    # shrinks. Where products are not in integers, a used chip of two rows of tiles or more keeps a
    # copy of its weights by rows.
    copied = used and not multiplies_integers()
    assert each[-1] <= each[1 if copied else 0]
    assert each[-1] >= 4 * 4 * 64 * 64


def test_smaller_tiles_of_the_same_matrix_cost_scales_only() -> None:
    """One more row of tiles adds no matrix.

    It adds a scale and a compensation factor per column.
    """
    large, small = chip_bytes(128, 128, 128, False), chip_bytes(128, 128, 32, False)
    assert large < small < large * 1.1


def test_held_by_tells_where_bytes_are() -> None:
    model = sides.analog(small(), rasch2023)
    shares = by_attribute(model)
    for name in ("weight", "conductance_us", "nu", "held"):
        assert shares[name] == pytest.approx(1.0, abs=0.01)
