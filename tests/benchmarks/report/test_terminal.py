"""The table at the end of a run: a table at 100 columns, whatever the models are called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from benchmarks.report import terminal

TIMES = (1.0, 3600.0, 86400.0, 31536000.0)
MODELS = {"wrn": "WRN-10-1", "bert": "BERT 2x64, from scratch", "lstm": "LSTM 2x64"}


def results(engines: tuple[str, ...]) -> tuple[pd.DataFrame, dict[str, Any]]:
    rows = []
    studies = {}
    for task, model in MODELS.items():
        metric = "perplexity" if task == "lstm" else "accuracy"
        studies[task] = {"model": model, "metric": metric}
        base = {"model": model, "dataset": "d", "metric": metric}
        rows.append({**base, "phase": "digital", "engine": "", "value": 0.9})
        for engine in engines:
            for phase in ("direct", "hwa"):
                for t_s in TIMES:
                    for chip in range(10):
                        where = {"phase": phase, "engine": engine, "t_inference": t_s}
                        rows.append({**base, **where, "chip": chip, "value": 0.8 + 0.01 * chip})
    return pd.DataFrame(rows), studies


@pytest.mark.parametrize("engines", [("native",), ("native", "aihwkit")])
def test_a_run_of_three_models_is_three_tables_at_100_columns(engines: tuple[str, ...]) -> None:
    rows, studies = results(engines)
    text = terminal.of_run(rows, studies, [], Path("runs/x"), 100)
    *parts, last = text.split("\n\n")
    assert last == "Report: runs/x/summary.md" and len(parts) == len(MODELS)
    for part, model in zip(parts, MODELS.values(), strict=True):
        title, head, rule, *lines = part.splitlines()
        assert title.startswith(model) and "chips 10" in title and "digital" in title
        assert head.split()[-4:] == ["1s", "1h", "1d", "1y"] and set(rule.strip()) == {"─"}
        assert len(lines) == 2 * len(engines)
        assert ("native" in title) == (len(engines) == 1)
        assert all(len(line) <= 100 for line in part.splitlines())
        assert all(line.count("±") == 4 for line in lines)


def test_a_wide_terminal_has_one_table_and_a_very_narrow_one_sentences() -> None:
    rows, studies = results(("native",))
    wide = terminal.of_run(rows, studies, [], Path("x"), 300)
    assert len(wide.split("\n\n")) == 2 and wide.splitlines()[0].split()[0] == "model"
    narrow = terminal.of_run(rows, studies, [], Path("x"), 40)
    assert max(map(len, narrow.splitlines())) <= 40
    assert narrow.count("±") == wide.count("±") and narrow.count("phase ") == 6


def test_a_summary_is_drawn_on_a_terminal_and_plain_in_a_pipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = (
        "# Ladder\n\n| rung | 1y |\n| --- | --- |\n| first | **78.75** |\n\n![a](figures/a.png)\n"
    )
    told = f"Report: {tmp_path / 'summary.md'}"
    monkeypatch.setattr(terminal.sys.stdout, "isatty", lambda: False, raising=False)
    plain = terminal.of_summary(summary, tmp_path)
    assert plain == f"{summary.partition('![')[0].rstrip()}\n\n{told}"
    monkeypatch.setattr(terminal.sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(terminal, "width", lambda: 100)
    wide = f"| {' | '.join('abc')} |\n| --- | --- | --- |\n| `{'x' * 60}` | {'y' * 60} | z |\n"
    cells = terminal.of_summary(wide, tmp_path).partition("Report:")[0]
    assert cells.count("x") == cells.count("y") == 60  # nothing is cut
    drawn = terminal.of_summary(summary, tmp_path)
    assert "78.75" in drawn and "Ladder" in drawn and drawn.endswith(f"\n\n{told}")
    assert not any(mark in drawn for mark in ("| ---", "**", "figures/a.png"))
    assert max(map(len, drawn.splitlines())) < 130  # 100 columns and the codes of bold
