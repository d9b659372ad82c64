"""Mutation testing of a random sample: small faults in the code, each of which a test should find.

`python -m tests.mutation --sample 100` (needs `pip install cosmic-ray`; docs/reliability.md has the
last result). cosmic-ray finds all places for its faults in the modules of GROUPS. A sample, drawn
with a seed and spread over the groups in proportion to their number of faults, is applied one by
one in a temporary copy of the repository. The tests of the group run in a fork of this process,
which has imported torch and aihwkit already. A limit of processor time ends faults that make them
endless, however busy the machine is. Results are added to a file of JSON lines, and a run that was
stopped goes on there.
"""

from __future__ import annotations

import argparse
import ast
import compileall
import contextlib
import importlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from py_compile import PycInvalidationMode
from typing import Any

ROOT = Path(__file__).parent.parent
COPIED = ("aimc_bridge", "benchmarks", "presets", "tests", "docs", "examples", "setup.cfg")
LOADED = (
    "torch._dynamo", "torchvision", "aihwkit.inference", "aihwkit.nn", "pandas", "scipy.stats",
    "safetensors.torch", "accelerate.state", "rich.progress",
)  # fmt: skip
PROJECT = ("aimc_bridge", "benchmarks", "presets", "tests")
LIMIT_S = 60
"""Processor time of one test, in seconds: some times what the longest takes without a fault."""
ASLEEP_S = 3600
"""A run that takes this long by the clock is taken to wait for nothing."""
OUTPUT = "pytest.txt"
BROKEN = 70  # status of a fork in which pytest did not run, so that no test found a fault
FIELDS = ("operator_name", "occurrence", "start_pos", "end_pos", "operator_args")

P, T, N = "tests/physics", "tests/training", "tests/engines/native"
CHIPS = (
    "tests/test_chip.py", "tests/test_chip_files.py", "tests/independence",
    "tests/engines/aihwkit/test_chip.py", f"{P}/test_compensation.py", "tests/test_faults.py",
    "tests/test_golden.py", "tests/test_cells_everywhere.py", "tests/test_conductances.py",
)  # fmt: skip
ENGINES = (
    *CHIPS, "tests/engines/aihwkit", "tests/engines/test_line_effects.py",
    "tests/engines/test_precision.py", "tests/engines/test_transforms.py",
    "tests/test_calibration.py", "tests/engines/test_inputs.py", "tests/test_devices.py",
)  # fmt: skip
GROUPS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "physics": (
        ("aimc_bridge/physics/**/*.py",),
        (f"{P}/test_physics.py", f"{P}/test_injection.py", f"{P}/test_mvm.py",
         f"{P}/test_line_effects.py", f"{P}/test_mapping.py", f"{P}/test_edges.py",
         f"{P}/test_compensation.py", "tests/test_faults.py", f"{P}/test_laws.py",
         "tests/presets", "tests/test_golden.py", f"{P}/test_cells.py", f"{P}/test_unit_cell.py",
         "tests/test_cells_everywhere.py", "tests/engines/aihwkit",
         "tests/engines/test_line_effects.py", "tests/test_chip.py", "tests/test_devices.py",
         "tests/test_conductances.py"),
    ),
    "spec": (
        ("aimc_bridge/spec/**/*.py",),
        ("tests/spec", "tests/presets", "tests/test_faults.py", f"{T}/test_settings.py",
         f"{P}/test_laws.py", f"{P}/test_edges.py", "tests/engines/aihwkit/test_engine.py",
         "tests/test_golden.py", "tests/test_parameters_page.py", f"{P}/test_cells.py",
         f"{P}/test_unit_cell.py", "tests/test_devices.py", "tests/test_conductances.py",
         f"{P}/test_line_effects.py", "tests/fuzz/test_presets.py"),
    ),
    "chip": (
        ("aimc_bridge/rng.py", "aimc_bridge/chip.py"),
        ("tests/test_rng.py", *CHIPS, "tests/engines/test_inputs.py", "tests/test_sweep.py",
         "tests/test_threads.py"),
    ),
    "calibration": (
        ("aimc_bridge/calibration.py",),
        ("tests/test_calibration.py", "tests/test_calibration_outliers.py", "tests/test_golden.py",
         "tests/engines/test_precision.py", "tests/test_conversion.py", "tests/test_first_pass.py"),
    ),
    "native": (
        ("aimc_bridge/engines/native/programmed.py", "aimc_bridge/engines/native/stored.py",
         "aimc_bridge/engines/native/crossbar.py"),
        (f"{N}/test_state.py", f"{N}/test_edges.py", f"{N}/test_product.py", *ENGINES,
         f"{T}/test_own_loop.py", f"{T}/test_training.py", f"{N}/test_integers.py"),
    ),
    "aihwkit": (
        ("aimc_bridge/engines/aihwkit/matrix.py", "aimc_bridge/engines/aihwkit/noise.py",
         "aimc_bridge/engines/aihwkit/tile.py", "aimc_bridge/engines/aihwkit/tile_state.py"),
        ("tests/engines/aihwkit", *ENGINES, f"{T}/test_engines.py", f"{T}/test_own_loop.py",
         f"{T}/test_training.py"),
    ),
    "training": (
        ("aimc_bridge/training/**/*.py",),
        (f"{T}/test_plain.py", f"{T}/test_session.py", f"{T}/test_settings.py",
         f"{T}/test_loss.py", f"{T}/test_accumulation.py", f"{T}/test_any_model.py",
         f"{T}/test_setup.py", f"{T}/test_engines.py", f"{P}/test_injection.py",
         f"{T}/test_runs.py", f"{T}/test_own_loop.py", f"{T}/test_training.py",
         "tests/test_threads.py", "tests/test_every_argument.py", "tests/test_faults.py",
         "tests/test_first_pass.py", f"{T}/test_resume.py", f"{T}/test_replicas.py",
         "tests/integrations/test_two_processes.py"),
    ),
}  # fmt: skip
"""The modules of each group, and the tests that should find its faults, the fastest first."""
LAWS = (f"{P}/test_physics.py", f"{P}/test_laws.py", "tests/presets/test_published.py")
CLOSEST: dict[str, tuple[str, ...]] = {
    "physics/cells": ("tests/test_cells_everywhere.py",),
    "physics/drift": (f"{P}/test_physics.py", f"{P}/test_compensation.py"),
    "physics/own": ("tests/test_devices.py",),
    "physics/mvm": (f"{P}/test_edges.py", f"{P}/test_line_effects.py"),
    "physics/variation": (f"{P}/test_mvm.py", f"{P}/test_line_effects.py"),
    "physics/elementwise": (f"{P}/test_mvm.py", f"{P}/test_physics.py"),
    "physics/programming": (*LAWS[:2], f"{P}/test_cells.py"),
    "physics/reading": (f"{P}/test_physics.py", f"{P}/test_compensation.py"),
    "physics/device_values": ("tests/test_conductances.py", f"{P}/test_unit_cell.py"),
    "physics/state": ("tests/test_chip.py", f"{P}/test_cells.py"),
    "laws/table": ("tests/test_devices.py",),
    "laws/own": ("tests/test_devices.py",),
    **dict.fromkeys(("laws/base", "laws/statistical", "laws/formulas"), LAWS),
    **dict.fromkeys(("laws/reram_cmo", "laws/reram_wan", "laws/afm"), LAWS[1:]),
    "spec/faults": ("tests/spec", "tests/test_faults.py"),
    "spec/own": ("tests/test_devices.py",),
    "spec/reram": ("tests/spec", "tests/presets/test_published.py"),
    "spec/table": ("tests/spec", "tests/test_devices.py"),
    "spec/training": ("tests/spec", f"{T}/test_settings.py"),
    "native/programmed": ("tests/test_chip.py",),
    "training/loop": (f"{T}/test_runs.py", f"{T}/test_training.py"),
    "training/progress": (f"{T}/test_runs.py",),
    "training/checkpoint": (f"{T}/test_resume.py",),
    "training/state": (f"{T}/test_resume.py",),
    "training/start": (f"{T}/test_settings.py", f"{T}/test_plain.py", f"{T}/test_runs.py"),
    "training/watch": (f"{T}/test_own_loop.py",),
    "training/weights": (f"{T}/test_own_loop.py", f"{T}/test_training.py", "tests/test_faults.py"),
}
"""Tests of single modules, which run before those of the group, with those named after them."""
OTHERS = ("benchmarks", "equivalence", "fuzz", "_page")
"""Words in the paths of tests that are named like a module and are not about it."""


def files_of(tests: tuple[str, ...]) -> list[str]:
    """Return the files of tests, each once, in this order; folders become what they hold."""
    files: dict[str, None] = {}
    for test in tests:
        path = Path(test)
        if not path.exists():
            raise FileNotFoundError(f"{test} of the lists of tests is not there")
        files.update(dict.fromkeys(map(str, sorted(path.rglob("test_*.py")) or [path])))
    return list(files)


def tests_of(group: str, path: Path) -> tuple[list[str], list[str]]:
    """Return the tests that should find a fault of a module, and those that run if they pass."""
    named = sorted(map(str, Path("tests").rglob(f"test_{path.stem}*.py")))
    named = [test for test in named if not any(word in test for word in OTHERS)]
    if path.stem in ("base", "own", "table", "weights", "watch", "start", "state"):
        named = [test for test in named if path.parent.name in test]  # other modules' names too
    first = files_of((*named, *CLOSEST.get(f"{path.parent.name}/{path.stem}", ())))
    first = first or files_of(GROUPS[group][1][:3])
    return first, [test for test in files_of(GROUPS[group][1]) if test not in first]


def spans_of_annotations(path: Path) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Return where annotations begin and end: Python never computes them in this project."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        parts = [getattr(node, name, None) for name in ("annotation", "returns")]
        for part in parts:
            if isinstance(part, ast.expr) and part.end_lineno and part.end_col_offset:
                start, end = (part.lineno, part.col_offset), (part.end_lineno, part.end_col_offset)
                found.append((start, end))
    return found


def faults_of(paths: list[Path]) -> list[Any]:
    """Return all faults that cosmic-ray has for some modules, outside of annotations."""
    from cosmic_ray.commands import init
    from cosmic_ray.work_db import WorkDB, use_db

    with use_db(":memory:", WorkDB.Mode.create) as database:
        init(paths, database, {})
        faults = [mutation for item in database.work_items for mutation in item.mutations]
    spans = {path: spans_of_annotations(path) for path in paths}
    return [
        fault
        for fault in faults
        if not any(a <= fault.start_pos < b for a, b in spans[Path(fault.module_path)])
    ]


def is_python(text: str) -> bool:
    """Return whether a text is Python; `**` of a mapping made a `|` is not, and is no fault."""
    try:
        compile(text, "fault", "exec", dont_inherit=True)
    except SyntaxError:
        return False
    return True


def sampled(size: int, seed: int, file: Path) -> list[tuple[str, Any]]:
    """Return the sample in random order, with at least one fault of each group.

    It is kept in a file, because to look for all faults takes a minute.
    """
    from cosmic_ray.work_item import MutationSpec

    if file.exists():
        kept = json.loads(file.read_text(encoding="utf-8"))
        return [(group, MutationSpec(**fields)) for group, fields in kept]
    generator, sample = random.Random(seed), []
    faults = {
        group: faults_of(sorted({path for glob in globs for path in Path().glob(glob)}))
        for group, (globs, _) in GROUPS.items()
    }
    total = sum(map(len, faults.values()))
    print({group: len(some) for group, some in faults.items()}, "faults,", total, "in total")
    for group, some in faults.items():
        count = max(1, round(size * len(some) / total))
        sample += [(group, fault) for fault in generator.sample(some, min(count, len(some)))]
    generator.shuffle(sample)
    kept = [
        (group, {name: getattr(fault, name) for name in FIELDS} | {"module_path": str(path)})
        for group, fault in sample
        for path in (fault.module_path,)
    ]
    file.write_text(json.dumps(kept), encoding="utf-8")
    return sample


class Limit:
    """A plugin of pytest: each test may take LIMIT_S of processor time, and so may collecting."""

    def begin(self) -> None:
        """Allow this process LIMIT_S from now on; what it starts inherits the limit."""
        usage = resource.getrusage(resource.RUSAGE_SELF)
        until = int(usage.ru_utime + usage.ru_stime) + 1 + LIMIT_S
        resource.setrlimit(resource.RLIMIT_CPU, (until, resource.RLIM_INFINITY))

    pytest_collection = pytest_runtest_logstart = begin


def tested(stages: Sequence[Sequence[str]]) -> tuple[str, float]:
    """Run tests in a fork, in this folder, with a limit of processor time.

    Args:
        stages: The tests; those of a stage are collected only if all before it passed.

    Returns:
        "killed", "survived" or "timeout", and the processor time that the tests took.

    Raises:
        RuntimeError: If pytest did not run, so that no test can have found anything.
    """
    before = _spent_s()
    child = os.fork()
    if child == 0:
        try:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            _in_child(stages)
        except BaseException:  # noqa: BLE001 # told here, and judged by the parent
            traceback.print_exc()
        finally:  # never on into the parent's clean-up
            os._exit(BROKEN)
    end, done, status = time.monotonic() + ASLEEP_S, 0, 0
    try:
        while not done and time.monotonic() < end:
            done, status = os.waitpid(child, os.WNOHANG)
            time.sleep(0.05)
    finally:  # the child, and what it started; also if this process is told to end
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
    if not done:
        os.waitpid(child, 0)
    ended_by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
    if not done or ended_by in (signal.SIGXCPU, signal.SIGKILL):
        return "timeout", _spent_s() - before
    if os.waitstatus_to_exitcode(status) == BROKEN:
        raise RuntimeError("pytest did not run; what it printed is above, or in pytest.txt")
    return "survived" if status == 0 else "killed", _spent_s() - before


def _spent_s() -> float:
    """Return the processor time of all children that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _in_child(stages: Sequence[Sequence[str]]) -> None:
    """Run tests, and exit with pytest's status."""
    import pytest

    os.setpgrp()
    for name in [n for n in sys.modules if n.partition(".")[0] in PROJECT]:
        del sys.modules[name]
    sys.path.insert(0, str(Path.cwd()))
    output = os.open(OUTPUT, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(output, stream)
    status = 0
    for tests in filter(None, stages):
        words = ["-x", "-q", "-p", "no:cacheprovider", "-k", "not compile", *tests]
        status = status or int(pytest.main(words, [Limit()])) % pytest.ExitCode.NO_TESTS_COLLECTED
    sys.stdout.flush()
    os._exit(status)


def found_by() -> str:
    """Return the line of pytest that names the test which failed last, or its last line."""
    lines = Path(OUTPUT).read_text(encoding="utf-8", errors="replace").splitlines()
    named = [line for line in lines if line.startswith(("FAILED ", "ERROR "))]
    return (named or [*filter(None, lines)] or [""])[-1][:160]


def copied(folder: Path) -> None:
    """Copy the repository, and compile it; modules are checked by content, not by their time."""
    for name in COPIED:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, folder / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, folder / name)
    compileall.compile_dir(
        folder, quiet=2, invalidation_mode=PycInvalidationMode.CHECKED_HASH, workers=1
    )
    tests = dict.fromkeys(test for _, listed in GROUPS.values() for test in listed)
    words = ["-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *tests]
    subprocess.run([sys.executable, *words], cwd=folder, check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    """Test a sample of faults, and print how many were found."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--sample", type=int, default=100, help="number of faults")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sample")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after this time")
    parser.add_argument("--out", type=Path, default=Path("mutants.jsonl"), help="file of results")
    parser.add_argument("--check", action="store_true", help="run all tests without a fault")
    options = parser.parse_args()
    from cosmic_ray.mutating import use_mutation
    from cosmic_ray.plugins import get_operator
    from scipy.stats import binomtest

    out, end = options.out.absolute(), time.monotonic() + options.seconds
    lines = out.read_text(encoding="utf-8").splitlines() if out.exists() else []
    results = {line["fault"]: line for line in map(json.loads, lines)}
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # to import plugins takes seconds per fault
    sys.dont_write_bytecode = True
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory() as folder:
        copied(Path(folder))
        os.chdir(folder)
        if options.check:
            for group, (_, tests) in GROUPS.items():
                print(group, *tested((files_of(tests),)), found_by(), flush=True)
            return
        file = out.with_name(f"{out.stem}-{options.sample}-{options.seed}.json")
        sample = sampled(options.sample, options.seed, file)
        for name in LOADED:
            importlib.import_module(name)
        for group, fault in sample:
            line, column = fault.start_pos
            name = f"{fault.module_path}:{line}:{column} {fault.operator_name} {fault.occurrence}"
            if name in results or time.monotonic() > end:
                continue
            operator = get_operator(fault.operator_name)(**fault.operator_args)
            with use_mutation(fault.module_path, operator, fault.occurrence) as (_, mutated):
                if not is_python(mutated or ""):
                    print("no Python", name, flush=True)
                    continue
                text = (mutated or "").splitlines()[line - 1].strip()
                stages = tests_of(group, Path(fault.module_path))
                outcome, spent_s = tested(stages)
            results[name] = {
                "fault": name, "group": group, "line": text, "outcome": outcome,
                "cpu_s": round(spent_s, 1), "found_by": found_by() if outcome == "killed" else "",
            }  # fmt: skip
            with out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(results[name]) + "\n")
            print(outcome, name, "|", text, flush=True)
        os.chdir(ROOT)
    survivors = sum(result["outcome"] == "survived" for result in results.values())
    count = len(results)
    if count:
        interval = binomtest(count - survivors, count).proportion_ci(method="wilson")
        print(
            f"{count - survivors} of {count} faults found; 95 % interval of the share (Wilson) "
            f"{interval.low:.1%} to {interval.high:.1%}"
        )


if __name__ == "__main__":
    main()
