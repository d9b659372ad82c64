"""A report on what this machine can run: `python -m aimc_bridge doctor`.

It lists the versions of packages, the tiles of the aihwkit engine and the devices.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial

from rich.console import Console

from aimc_bridge.commands import Output, command, execute
from aimc_bridge.engines.versions import (
    installed,
    minor,
    pair_for,
    torchvision_for,
    works,
)
from aimc_bridge.errors import VersionError
from aimc_bridge.shadowing import shadow

PACKAGES = (
    *("torch", "torchvision", "aihwkit", "transformers", "accelerate", "datasets", "safetensors"),
    *("numpy", "scipy", "pandas", "scikit-learn", "matplotlib", "joblib"),
)
ENGINE = "aihwkit engine"
_MARKS = {True: ("ok", "green"), False: ("no", "red"), None: ("--", "yellow")}


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        what: What was looked at.
        ok: True if it works, False if not; None if it is missing and nothing needs it.
        note: A version, a reason or advice.
    """

    what: str
    ok: bool | None
    note: str


Sections = dict[str, list[Finding]]


def examine() -> Sections:
    """Find out what this machine can run.

    Programs over the library add sections of their own, as `benchmarks.doctor` adds the data sets.

    Returns:
        The findings under their headings; `ENGINE` is the heading of the aihwkit engine.
    """
    return {
        "versions": list(versions()),
        "native engine": list(native()),
        ENGINE: list(reference()),
    }


def show(sections: Sections, console: Console) -> None:
    """Print findings, and what to do if the aihwkit engine cannot run.

    Args:
        sections: From `examine`.
        console: Where they are printed.
    """
    for title, findings in sections.items():
        console.print(title, style="bold", markup=False, highlight=False, soft_wrap=True)
        for finding in findings:
            mark, style = _MARKS[finding.ok]
            console.print(f"  {mark}  ", style=style, end="", markup=False, highlight=False)
            line = f"{finding.what:<28}{finding.note}"
            console.print(line.rstrip(), markup=False, highlight=False, soft_wrap=True)
    if not healthy(sections):
        advice = (
            'the aihwkit engine cannot run here: see "no" above; engine="native" does without it'
        )
        console.print(advice, style="red", markup=False, highlight=False, soft_wrap=True)


def healthy(sections: Sections) -> bool:
    """Return whether the aihwkit engine can run.

    Args:
        sections: From `examine`.
    """
    return all(finding.ok is not False for finding in sections[ENGINE])


def versions() -> Iterator[Finding]:
    """Yield the versions of the packages that matter, and what shadows the project's own.

    torchvision must be the version that is built for the installed torch.
    """
    yield Finding("python", True, platform.python_version())
    for name in ("presets", "benchmarks"):
        other = shadow(name)
        if other is not None:
            yield Finding(name, False, f"{other} shadows this package; rename it")
    numbers = {name: installed(name) for name in PACKAGES}
    required = torchvision_for(numbers["torch"] or "")
    pair = pair_for()
    # beside an aihwkit that does not work with this torch, the torch must change too: one advice
    whole = numbers["aihwkit"] is not None and not works(numbers["aihwkit"], numbers["torch"])
    for name, number in numbers.items():
        if number is None:
            bound = name in ("aihwkit", "torch", "torchvision")
            command = pair.command if bound else f'pip install "{name}"'
            yield Finding(name, False, f"not installed; run: {command}")
        elif name == "torchvision" and required is not None and minor(number) != required:
            command = pair.command if whole else f'pip install "torchvision=={required}.*"'
            note = f"torch {numbers['torch']} needs {required}; run: {command}"
            yield Finding(name, False, f"{number}: {note}")
        else:
            yield Finding(name, True, number)


def native() -> Iterator[Finding]:
    """Yield the devices of the native engine."""
    try:
        import torch
    except (ImportError, OSError) as problem:
        yield Finding("cpu", False, f"torch cannot be imported ({problem})")
        return
    yield Finding("cpu", True, f"{torch.get_num_threads()} threads")
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            yield Finding(f"cuda:{index}", True, torch.cuda.get_device_name(index))
    else:
        yield Finding("cuda", None, "torch sees no CUDA device")


def reference() -> Iterator[Finding]:
    """Yield whether aihwkit works with torch, and whether each tile multiplies here."""
    try:
        from aimc_bridge.engines.aihwkit.trial import TILES, trial
    except VersionError as problem:
        yield Finding("pairing", False, str(problem))
        return
    import torch

    yield Finding(
        "pairing", True, f"aihwkit {installed('aihwkit')} with torch {installed('torch')}"
    )
    for tile in TILES:
        problem_on_cpu = trial(tile, "cpu")
        yield Finding(f"{tile} tile, cpu", problem_on_cpu is None, problem_on_cpu or "")
        if torch.cuda.is_available():
            refusal = trial(tile, "cuda")
            yield Finding(f"{tile} tile, cuda", True if refusal is None else None, refusal or "")


# --- the command ----------------------------------------------------------------------------------

PROGRAM = "python -m aimc_bridge doctor"


def check(*, output: Output = Output()) -> int:
    """Check what this machine can run: versions, tiles, devices.

    Exit code 1: the aihwkit engine cannot run here.
    """
    return tell(examine, ["versions", "native engine", ENGINE], output)


def tell(look: Callable[[], Sections], parts: list[str], output: Output) -> int:
    """Print what a doctor finds, as `output` says.

    Args:
        look: Returns the findings.
        parts: What is looked at, for --dry-run.
        output: How it is printed.

    Returns:
        The exit code: 1 if the aihwkit engine cannot run.
    """
    if output.dry_run:
        output.result(f"would check: {', '.join(parts)}", {"plan": parts})
        return 0
    sections = look()
    able = healthy(sections)
    if output.as_json:
        findings = {title: [asdict(f) for f in section] for title, section in sections.items()}
        output.result("", {"healthy": able, "findings": findings})
    elif not output.quiet:
        show(sections, Console())
    return 0 if able else 1


app = command("doctor", check, program=PROGRAM)
main = partial(execute, app, program=PROGRAM)


if __name__ == "__main__":
    sys.exit(main())
