"""The cross-check: `python -m benchmarks.crosscheck`.

Compares our device laws with aihwkit's noise model of each preset and writes crosscheck.csv and
summary.md. Exit codes: 0 no cell is different, 1 a cell is different, 2 bad usage.
"""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console

import presets
from aimc_bridge.equivalence import device_level
from aimc_bridge.equivalence.device import TIMES
from aimc_bridge.errors import AimcError, UsageError
from benchmarks.command import Parser


def parser() -> Parser:
    """The command line."""
    made = Parser(
        prog="python -m benchmarks.crosscheck",
        description="Compare the native device laws with aihwkit's, with statistics.",
        allow_abbrev=False,
    )
    add = made.add_argument
    choices = ", ".join(presets.names())
    add("--preset", nargs="*", default=["rasch2023", "scalar_drift", "hermes"], help=choices)
    add("--times", nargs="*", default=list(TIMES), help="as 1s 1h '1 day' 3600")
    add("--samples", type=int, default=500_000, help="devices a cell")
    add("--seed", type=int, default=0)
    add("--out", type=Path, default=Path("runs/crosscheck"), help="folder of the results")
    return made


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    try:
        args = parser().parse_args(arguments)
        unknown = [name for name in args.preset if name not in presets.names()]
        if unknown or not args.preset:
            allowed = ", ".join(presets.names())
            raise UsageError(f"--preset {' '.join(unknown)}: no such preset; there are: {allowed}")
        different = 0
        for name in args.preset:
            report = device_level(
                presets.get(name),
                times=args.times,
                samples=args.samples,
                seed=args.seed,
                progress=console.print,
            )
            report.save(args.out / name)
            different += len(report.different)
            counts = report.table["verdict"].value_counts()
            said = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
            print(f"{name}: {said}; {args.out / name}")
    except AimcError as error:
        console.print(f"error: {' '.join(str(error).split())}", style="red")
        return 2
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
