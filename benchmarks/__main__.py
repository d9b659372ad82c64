"""All commands by their names: `python -m benchmarks COMMAND`, or `aimc-bridge COMMAND`.

The module of a command is imported only when the command is called or its options are completed, so
that the list is printed at once.
"""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Sequence
from typing import Annotated

from cyclopts import Parameter

from aimc_bridge.commands import application, execute
from aimc_bridge.errors import UsageError
from aimc_bridge.interruption import INTERRUPTED

COMMANDS = {
    "demo": ("benchmarks.demo", "See in a minute what drift costs, and what training brings back."),
    "run": ("benchmarks.run", "Convert, train hardware-aware, program, drift, report."),
    "digital": ("benchmarks.digital", "Train the digital model of a task."),
    "crosscheck": ("benchmarks.crosscheck", "Compare the native engine with aihwkit."),
    "ladder": ("benchmarks.ladder", "Measure what each simplification of the physics costs."),
    "ablation": ("benchmarks.ablation", "Measure what each technique of a recipe is worth."),
    "speed": ("benchmarks.speed.__main__", "Time the engines side by side."),
    "intervals": ("benchmarks.intervals", "Measure how often the intervals hold the truth."),
    "zoo": ("benchmarks.zoo.__main__", "Take architectures of other libraries through everything."),
    "report": ("benchmarks.report.__main__", "Write summaries again; compare several runs."),
    "record": ("benchmarks.record", "Keep results and models; write the tables of the pages."),
    "presets": ("benchmarks.presets", "Show, compare and export presets."),
    "doctor": ("benchmarks.doctor", "Check what this machine can run."),
}
"""Name -> (the module, which has `app` and `main(words)`; one line of help)."""


def listing(*names: Annotated[str, Parameter(show=False)]) -> None:
    """Run the benchmarks of analog in-memory computing."""
    if not names:
        app.help_print()
        return
    near = difflib.get_close_matches(names[0], COMMANDS, 1)
    guess = f"did you mean {near[0]}? " if near else ""
    raise UsageError(f"no command {names[0]!r}; {guess}there are: {', '.join(COMMANDS)}")


app = application("aimc-bridge", usage="Usage: aimc-bridge COMMAND [OPTIONS]")
app.default(listing)
for _name, (_module, _help) in COMMANDS.items():
    app.command(f"{_module}:app", name=_name, help=_help)
app.register_install_completion_command(help="Install completion for bash, zsh or fish.")


def main(words: Sequence[str] | None = None) -> int:
    """Run the command that the first word names, or list the commands if there is no word.

    Args:
        words: The words of the command line; None means the words of this process.

    Returns:
        The exit code of the command, or 2 if the command is unknown.
    """
    words = list(sys.argv[1:] if words is None else words)
    if words and words[0] in COMMANDS:
        try:
            module = importlib.import_module(COMMANDS[words[0]][0])
        except KeyboardInterrupt:  # main() of another program, which handles Ctrl-C itself
            print(INTERRUPTED, file=sys.stderr)
            return 130
        code: int = module.main(words[1:])
        return code
    unknown = bool(words) and not words[0].startswith("-")
    return execute(app, words[:1] if unknown else words, program="aimc-bridge")


if __name__ == "__main__":
    sys.exit(main())
