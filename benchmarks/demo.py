"""The demo: `aimc-bridge demo`, about a minute, one model, no download.

A small network loses visibly when its weights are written to a chip as they are, and
hardware-aware training brings most of it back. docs/demo.md says which network, and why. The folder
`--out` is that of a run (see benchmarks.run). Exit codes: 0 done, 1 a training diverged, 2 bad
usage, 130 interrupted.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import Annotated, Literal

from cyclopts import Parameter

import presets
from aimc_bridge.commands import Output
from benchmarks import cli
from benchmarks.run import carry_out
from benchmarks.studies.settings import Settings

TASK = "mlp"


def demo(
    *,
    engine: Annotated[
        Literal["native", "aihwkit", "both"], Parameter(help="The engines that run the chips.")
    ] = "native",
    preset: cli.PresetName = presets.rasch2023,
    times: cli.Times = None,
    chips: cli.Chips = None,
    seed: cli.Seed = 0,
    device: cli.Device = "cpu",
    out: cli.Out = None,
    resume: cli.Resume = False,
    threads: cli.Threads = None,
    output: Output = Output(),
    words: cli.Words = (),
) -> None:
    """Show in a minute what drift costs a network and what training for it brings back.

    It is `benchmarks.run mlp` on the native engine. The last sentence is made from the numbers and
    their 95 % intervals: if an option takes the effect away, it says that.
    """
    settings = Settings(
        tasks=(TASK,),
        engine=engine,
        preset=preset,
        times=times,
        chips=chips,
        aihwkit_chips=chips,
        seed=seed,
        device=device,
    )
    carry_out("demo", settings, out, resume, threads, output, words)


app = cli.command("demo", demo)
main = partial(cli.execute, app)


if __name__ == "__main__":
    sys.exit(main())
