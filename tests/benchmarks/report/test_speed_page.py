"""docs/speed.md: which record a number comes from, its marks, and what hand-written text says."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from benchmarks.report import pages, speed_page, speed_records
from benchmarks.report.record import Record, named, of_kind
from benchmarks.report.speed_columns import WIDE, shown
from benchmarks.speed import goals, growth, memory
from benchmarks.speed.groups import Group
from benchmarks.speed.growth import Curve, Point
from benchmarks.speed.targets import CPP, EAGER
from benchmarks.speed.timing import PARTS, Measured
from benchmarks.speed.works import FULL
from tests.test_docs_names import problems

WRITTEN = re.sub(
    r"<!-- ([^/].*?) -->.*?<!-- /\1 -->",
    "",
    (pages.ROOT / "docs" / "speed.md").read_text(encoding="utf-8"),
    flags=re.DOTALL,
)


def record(name: str, groups: Sequence[Group], **changes: Any) -> Record:
    """Return a record of groups on two threads, at full size."""
    arguments = {"size": "full", "device": "cpu", "compiled": False, **changes}
    machine = {"cpu": "A CPU", "gpu": "A GPU", "torch_threads": 2, "load_before": 0.5}
    packages = ("torch", "aihwkit", "aihwkit-lightning", "python")
    return speed_records.record_of_groups(
        groups,
        name=f"speed-{name}",
        command=f"python -m benchmarks.speed --record {name} --out 'runs/a b' --rounds 2",
        arguments=arguments,
        versions=dict.fromkeys(packages, "1.0"),
        hardware=machine,
        extra={"integers": True},
    )


def group(name: str, **sides: list[float]) -> Group:
    """Return a group of sides that take these seconds in each round."""
    names = {"cpp": CPP, "eager": EAGER}
    measured = [Measured(names.get(side, side), 1.0, seconds=[*s]) for side, s in sides.items()]
    return Group(name, f"work of {name}", "units", 1.0, measured)


def rows(text: str) -> list[list[str]]:
    """Return the cells of a Markdown table, its headings first."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [line.strip("| ").split(" | ") for line in lines if "---" not in line]


def test_a_number_is_marked_if_it_misses_its_target_or_its_repeats_differ() -> None:
    groups = [
        group("cnn-forward", digital=[1.0, 1.0], native=[5.9, 6.1]),  # must 6
        group("cnn-forward-many", digital=[1.0, 1.0], native=[5.01, 5.01]),  # must 5
        group("mlp-forward", digital=[1.0, 1.0], native=[4.0, 8.0]),  # must 8; quartiles 5 and 7
        group("lstm-forward", digital=[2.0, 4.0], native=[20.0, 32.0]),  # ratios 10 and 8; must 5
    ]
    heading, *cells = rows(speed_page.slower(shown([record("one", groups)])))
    assert heading == ["work", "2 threads, eager (A)", "must, aim of eager"]
    assert [cell[1:] for cell in cells] == [
        ["6", "6, 5"],
        ["**5.01**", "5, 4.5"],
        ["~6", "8, 6"],
        ["**9**", "5, 4"],
    ]
    assert speed_page.missed(shown([record("one", groups)])).startswith(
        "- 2 threads, eager: 2 of 4 are met.\n- Not measured: WRN forward, all of rasch2023, exact;"
    )


def test_eager_and_compiled_and_a_gpu_are_columns_with_their_own_targets() -> None:
    groups = [group("cnn-forward", digital=[1.0], native=[5.8])]
    page = shown(
        [
            record("c", groups, device="cuda", compiled=True),
            record("b", groups, compiled=True),
            record("a", groups),
            record("d", groups, size="quick"),
        ]
    )
    heading, cells = rows(speed_page.slower(page))
    assert heading[1:] == [
        *("2 threads, eager (A)", "must, aim of eager"),
        *("2 threads, compiled (B)", "must, aim of compiled"),
        "A GPU, compiled (C)",
    ]
    assert cells[1:] == ["5.8", "6, 5", "**5.8**", "5.5, 4.5", "5.8"]
    assert [one.name for one in page.records] == ["speed-a", "speed-b", "speed-c"]


def test_a_column_takes_from_other_records_what_its_first_one_lacks() -> None:
    more = record("b", [group("mlp-forward", digital=[1.0], native=[3.0])])
    same = record("a", [group("cnn-forward", digital=[1.0], native=[4.0])])
    kept = replace(more, name="speed-0", hardware={**more.hardware, "allocator": {"MALLOC_": "1"}})
    groups = [group(n, digital=[1.0], native=[2.0]) for n in ("cnn-forward", "lstm-forward")]
    page = shown([same, kept, more, record("z", groups)])
    assert [cell[:2] for cell in rows(speed_page.slower(page))] == [
        ["work", "2 threads, eager (A)"],
        ["small CNN forward, all of rasch2023", "2"],
        ["MLP forward, all of rasch2023", "3 (B)"],
        ["LSTM forward, all of rasch2023", "2"],
    ]
    # Nothing is taken from the others, so they are not on the page.
    assert [one.name for one in page.records] == ["speed-z", "speed-b"]


def test_chips_have_seconds_and_ratios_and_eager_draws_of_compiled_records() -> None:
    chips = group("mlp-chip", native=[0.01], eager=[0.04], cpp=[0.5])
    program = group("bert-program", native=[2.0], eager=[4.0])
    compiled = record("b", [chips, program], compiled=True)
    eager = record("a", [group("cnn-forward", digital=[1.0], native=[2.0])])
    assert rows(speed_page.chips(shown([compiled, eager]))) == [
        ["work", "2 threads, eager (A)", "2 threads, compiled (B)", "must, aim"],
        ["BERT, program", "4 s (B)", "2 s", "3 s, 1.2 s"],
        ["MLP, program and one drift", "0.04 s (B), 12.5 x (B)", "0.01 s, 50 x", "40 x, 80 x"],
    ]


def test_a_sweep_is_compared_with_its_parts() -> None:
    sides = {"sweep": [21.0], "program": [1.0], "drift": [1.0], "forward": [2.0]}
    about = {"chips": 2, "times": 3}
    sweep = replace(group("sweep", **sides), about=about)  # 2 + 6 * (1 + 2) = 20
    assert speed_page.chips(shown([record("a", [sweep])])).endswith(
        "(must 1.1): 1.05 (2 threads, eager (A))."
    )


def test_whole_studies_are_judged_at_their_sizes_in_any_batch() -> None:
    study = group("goal-wrn", digital=[5.0], native=[50.0])
    for about, text in (
        ({**goals.SIZES, "batch": 1000}, "**50 s**, 10 x"),
        ({**goals.SIZES, "images": 9_999}, "50 s, 10 x"),
    ):
        on_gpu = record("g", [replace(study, about=about)], device="cuda", compiled=True)
        (_, cells) = rows(speed_page.studies(shown([on_gpu])))
        assert cells == ["work of goal-wrn", "A GPU, compiled (A)", text, "45 s"]


def test_growth_shows_exponents_by_record_and_one_figure() -> None:
    def grown(name: str, power: float, **machine: Any) -> Record:
        points = [Point(n, [n**power], round(8 * n), 0) for n in (1.0, 2.0, 4.0)]
        about = record(name, [])
        return speed_records.record_of_curves(
            [Curve("width", "forward", points)],
            {"A model": dict.fromkeys(memory.BOUNDS, 1.25)},
            name=about.name,
            command=about.command,
            arguments=about.arguments,
            versions=about.versions,
            hardware={**about.hardware, **machine},
            extra={},
        )

    page = shown([grown("a", 1.0, allocator={"MALLOC_TRIM_THRESHOLD_": "9"}), grown("b", 1.5)])
    text = speed_page.grown(page)
    assert rows(text) == [
        ["operation", "against", "from", "time (A)", "time, memory kept (B)", "peak memory"],
        ["forward", "width", "1 to 4", "**1.50**", "1.00", "1.00"],
    ]
    assert text.endswith("![cost against size](figures/speed-b.png)")
    assert rows(speed_page.held(page))[1] == ["A model", *["1.25"] * len(memory.BOUNDS)]
    command = speed_page.command_of(page.growth[1])
    assert command == (
        "MALLOC_TRIM_THRESHOLD_=9 python -m benchmarks.speed --rounds 2 --out runs/a"
    )


def test_shares_and_peaks_of_a_pass() -> None:
    sides = [
        Measured("digital", 1.0, "", [2.0], 10_000_000, dict.fromkeys(PARTS, 0.5)),
        Measured(
            "native", 1.0, "", [8.0], 25_000_000, dict(zip(PARTS, (4.0, 2.0, 1.0), strict=True))
        ),
    ]
    passes = replace(group("cnn-forward"), sides=sides)
    assert rows(speed_page.spent(shown([record("a", [passes])])))[1] == [
        *("work of cnn-forward", "2.00", "1.00", "0.50", "0.50", "10, 25"),
    ]


@pytest.mark.parametrize("name", [one.name for one in of_kind("speed", "growth")])
def test_the_command_of_a_record_runs_today(name: str) -> None:
    (one,) = named(name)
    words = shlex.split(speed_page.command_of(one))
    settings = [word for word in words if re.match("[A-Z_]+=", word)]
    assert words[len(settings) : len(settings) + 3] == ["python", "-m", "benchmarks.speed"]
    assert problems("benchmarks.speed", words[len(settings) + 3 :]) == []


def test_hand_written_numbers_are_those_of_the_code() -> None:
    text = " ".join(WRITTEN.split())
    kernels = f"{', '.join(map(str, FULL.cnn_widths[:-1]))} and {FULL.cnn_widths[-1]} channels"
    few, many = FULL.cnn_batches
    for part in (
        f"WRN-{FULL.wrn_depth}-{FULL.wrn_width}, {FULL.wrn_batch} images of {FULL.wrn_side} x",
        f"2 x {FULL.lstm_width} with a decoder of {FULL.lstm_words:,} words, {FULL.lstm_steps} "
        f"steps of {FULL.lstm_streams} streams",
        f"{FULL.bert_sentences} sentences of {FULL.bert_tokens} tokens",
        f"{kernels}, {few} images of {FULL.wrn_side} x {FULL.wrn_side}, in the larger batch {many}",
        f"784-{FULL.mlp_width}-{FULL.mlp_width}-10, {FULL.mlp_batch} vectors",
        f"more than {growth.LINEAR} is bold",
        f"more than {100 * WIDE:g} % away",
        f"a layer with {growth.LADDERS['full'].side:,} inputs",
    ):
        assert part in text, part
    unit = 0.5 / 127  # the largest error of the last digit of 8 bits
    for digits, stated in ((1, "4e-3"), (2, "1.6e-5")):
        error = unit / 254 ** (digits - 1)
        assert stated in text and error <= float(stated) <= 1.05 * error
    assert "1.2e-7" in text and 2.0**-23 <= 1.2e-7 <= 1.05 * 2.0**-23
    digits = 3 + 2 + 2  # weighted sum, weights times positions, |weights|
    assert f"{digits} bytes of digits" in text and f"up to {(4 + digits) / 4:.1f} times" in text


def test_the_page_stays_short() -> None:
    assert len(WRITTEN.split()) <= 900
