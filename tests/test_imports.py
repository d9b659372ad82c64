"""The direction of imports, and the side effects of an import."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import NamedTuple

import pytest

import aimc_bridge

ROOT = Path(__file__).parent.parent
PACKAGES = ("aimc_bridge", "presets", "benchmarks")

# --- imports go one way ---------------------------------------------------------------------------

# A unit imports units of a lower rank only: two units of one rank do not know each other, and `rng`
# and `errors`, at the bottom, import nothing of ours.
RANK = {
    "aimc_bridge.errors": 0,
    "aimc_bridge.rng": 0,
    "aimc_bridge.aliases": 1,
    "aimc_bridge.shadowing": 1,
    "aimc_bridge.commands": 2,
    "aimc_bridge.files": 1,
    "aimc_bridge.arguments": 2,
    "aimc_bridge.sealed_files": 2,
    "aimc_bridge.csv_cells": 1,
    "aimc_bridge.sweep_files": 2,
    "aimc_bridge.shards": 3,
    "aimc_bridge.markdown": 1,
    "aimc_bridge.modes": 1,
    "aimc_bridge.products": 1,
    "aimc_bridge.progress": 1,
    "aimc_bridge.times": 1,
    "aimc_bridge.workers": 1,
    "aimc_bridge.interruption": 0,
    "aimc_bridge.folding": 1,
    "aimc_bridge.source_code": 1,
    "aimc_bridge.value_kinds": 1,
    "aimc_bridge.dataflow": 2,
    "aimc_bridge.usage": 3,
    "aimc_bridge.spec": 2,
    "aimc_bridge.drawing": 2,
    "aimc_bridge.curves": 3,
    "aimc_bridge.plotting": 4,
    "presets": 3,
    "aimc_bridge.physics": 3,
    "aimc_bridge.devices": 4,
    "aimc_bridge.engines": 4,
    "aimc_bridge.engines.match": 4,
    "aimc_bridge.engines.base": 5,
    "aimc_bridge.layers": 5,
    "aimc_bridge.converted": 6,
    "aimc_bridge.refusals": 7,
    "aimc_bridge.custom_layers": 7,
    "aimc_bridge.tracked_tensors": 6,
    "aimc_bridge.watching": 7,
    "aimc_bridge.engines.native": 7,
    "aimc_bridge.engines.aihwkit": 7,
    "aimc_bridge.first_pass": 8,
    "aimc_bridge.reach": 8,
    "aimc_bridge.native": 8,
    "aimc_bridge.walk": 8,
    "aimc_bridge.calibration": 8,
    "aimc_bridge.transferring": 8,
    "aimc_bridge.chip": 9,
    "aimc_bridge.conversion": 9,
    "aimc_bridge.batchnorm": 9,
    "aimc_bridge.training": 9,
    "aimc_bridge.conductances": 10,
    "aimc_bridge.sweeps": 10,
    "aimc_bridge.equivalence": 11,
    "aimc_bridge.doctor": 11,
    "aimc_bridge.integrations": 11,
    "aimc_bridge.__main__": 12,
    "benchmarks": 13,
    "aimc_bridge.console": 14,  # the script that starts the benchmarks
}
PRESETS_MAY = {"aimc_bridge.spec", "aimc_bridge.errors"}
# Preset.rpu_config imports it when it is called.
UPWARD = ("aimc_bridge.spec", "aimc_bridge.engines.aihwkit")


class Import(NamedTuple):
    """An import of `module`; `lazy` if inside a function, `typing` if for type checkers."""

    importer: str
    module: str
    lazy: bool
    typing: bool


def imports(importer: str, source: str) -> list[Import]:
    """Return all imports of a module's source, including those by `import_module("...")`."""
    listed: list[Import] = []

    def visit(node: ast.AST, lazy: bool, typing: bool) -> None:
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{importer} line {node.lineno}: a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Call) and node.args:
            called = ast.unparse(node.func)
            first = node.args[0]
            if called.endswith(("import_module", "__import__")) and isinstance(first, ast.Constant):
                names = [str(first.value)]
        listed.extend(Import(importer, name, lazy, typing) for name in names)
        lazy = lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.body:
                visit(child, lazy, True)
            for child in node.orelse:
                visit(child, lazy, typing)
            return
        for child in ast.iter_child_nodes(node):
            visit(child, lazy, typing)

    visit(ast.parse(source), False, False)
    return listed


def unit(module: str) -> str:
    """Return the unit of a module of ours: "aimc_bridge.physics.drift" -> ".physics"."""
    parts = module.split(".")
    if parts[0] != "aimc_bridge":
        return parts[0]
    for length in (3, 2):
        named = ".".join(parts[:length])
        if named in RANK:
            return named
    return named if module_path(named).exists() else "aimc_bridge"


def module_path(module: str) -> Path:
    path = ROOT / module.replace(".", "/")
    return path if path.is_dir() else path.with_suffix(".py")


def broken_rules(imported: Import) -> list[str]:
    """Return the rules of the layout that an import breaks."""
    sentence = f"{imported.importer} imports {imported.module}"
    rules: list[str] = []
    if (
        imported.module.split(".")[0] == "aihwkit"
        and unit(imported.importer) != "aimc_bridge.engines.aihwkit"
        # It uses aihwkit as it comes, to compare with.
        and imported.importer != "benchmarks.speed.sides"
    ):
        rules.append(f"{sentence}: only aimc_bridge.engines.aihwkit imports aihwkit")
    if imported.module.split(".")[0] not in PACKAGES:
        return rules
    source, target = unit(imported.importer), unit(imported.module)
    if source == "aimc_bridge":  # __init__ resolves its names on first use.
        # Ctrl-C must be quiet before anything that takes time is imported
        first = target == "aimc_bridge.interruption"
        if not (imported.typing or imported.lazy or first):
            rules.append(f"{sentence}: aimc_bridge/__init__.py resolves its names on first use")
    elif source == target or (source, target) == UPWARD and imported.lazy:
        pass
    elif source == "presets" and target not in PRESETS_MAY:
        rules.append(f"{sentence}: presets import spec and errors only")
    elif target == "presets" and source != "benchmarks":
        rules.append(f"{sentence}: nothing in aimc_bridge imports presets")
    elif target != "aimc_bridge" and RANK[source] <= RANK[target]:
        rules.append(f"{sentence}: imports go one way")
    elif target == "aimc_bridge" and source != "benchmarks":
        rules.append(f"{sentence}: the library imports its modules, not its public names")
    return rules


def modules() -> dict[str, str]:
    """Return the source of every module in the three packages, by module name."""
    sources = {}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            sources[name] = path.read_text(encoding="utf-8")
    return sources


def test_imports_go_one_way() -> None:
    unranked = {unit(name) for name in modules()} - {"aimc_bridge"} - set(RANK)
    assert not unranked, f"give these a rank in RANK: {sorted(unranked)}"
    broken = [
        rule
        for name, source in modules().items()
        for imported in imports(name, source)
        for rule in broken_rules(imported)
    ]
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize(
    ("importer", "line", "rule"),
    [
        ("aimc_bridge.physics.drift", "from aimc_bridge.engines.base import Matrix", "one way"),
        ("aimc_bridge.engines.native.layers", "from aimc_bridge import chip", "one way"),
        (
            "aimc_bridge.engines.native.layers",
            "from aimc_bridge.engines.aihwkit import ENGINE",
            "one way",
        ),
        ("aimc_bridge.chip", "def f():\n    import aimc_bridge.training", "one way"),
        ("aimc_bridge.sweeps", "from benchmarks.tasks.data import find", "one way"),
        ("aimc_bridge.rng", "from aimc_bridge.errors import UsageError", "one way"),
        ("aimc_bridge.errors", "import aimc_bridge.rng", "one way"),
        ("aimc_bridge.spec", "from aimc_bridge.engines.aihwkit import config", "one way"),
        ("aimc_bridge.training", "from aimc_bridge import convert", "public names"),
        ("aimc_bridge", "from aimc_bridge.chip import program", "first use"),
        ("aimc_bridge.chip", "import presets", "nothing in aimc_bridge"),
        ("aimc_bridge.chip", "def f():\n    from presets import ideal", "nothing in aimc_bridge"),
        ("presets._ideal", "from aimc_bridge.physics import drifted", "spec and errors"),
        ("benchmarks.studies.base", "import aihwkit.nn", "aihwkit"),
        ("aimc_bridge.chip", "import importlib\nimportlib.import_module('aihwkit')", "aihwkit"),
        ("aimc_bridge.chip", "def f():\n    from aihwkit.nn import AnalogLinear", "aihwkit"),
    ],
)
def test_a_wrong_import_is_found(importer: str, line: str, rule: str) -> None:
    broken = [r for imported in imports(importer, line) for r in broken_rules(imported)]
    assert len(broken) == 1 and rule in broken[0]


def test_a_right_import_is_not_refused() -> None:
    lines = {
        "aimc_bridge.spec": "def f():\n    from aimc_bridge.engines.aihwkit.config import a",
        "aimc_bridge.engines.aihwkit.tile": "import aihwkit.nn\nfrom aimc_bridge import layers",
        "aimc_bridge": "if TYPE_CHECKING:\n    from aimc_bridge.chip import program",
        "benchmarks.run": "import presets\nfrom aimc_bridge import convert",
    }
    for importer, line in lines.items():
        assert [r for imported in imports(importer, line) for r in broken_rules(imported)] == []


# --- side effects of an import --------------------------------------------------------------------


def python(code: str, cwd: Path = ROOT, **environment: str) -> str:
    """Return what a new process prints."""
    process = subprocess.run(
        [sys.executable, "-c", code],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout.strip()


def test_importing_the_packages_imports_nothing_heavy() -> None:
    loaded = python(
        "import sys, presets, aimc_bridge\n"
        "presets.get('rasch2023').to_dict()\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    ).split()
    assert {"presets", "aimc_bridge"} <= set(loaded)
    heavy = {"torch", "aihwkit", "transformers", "numpy", "pandas", "matplotlib", "accelerate"}
    assert not heavy & set(loaded)


def test_using_the_public_names_has_no_side_effects() -> None:
    printed = python(
        "import random, sys, numpy, torch, presets, aimc_bridge\n"
        "def state():\n"
        "    numbers = numpy.random.get_state()\n"
        "    return random.getstate(), str(numbers), torch.get_rng_state().tolist(), \\\n"
        "        torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()\n"
        "before = state()\n"
        "for name in aimc_bridge.__all__:\n"
        "    getattr(aimc_bridge, name)\n"
        "print(before == state(), torch.cuda.is_initialized(),\n"
        "      'aihwkit' in sys.modules, 'transformers' in sys.modules)"
    )
    assert printed == "True False False False"


def test_every_public_name_is_there() -> None:
    for name in aimc_bridge.__all__:
        assert getattr(aimc_bridge, name) is not None
        assert name in dir(aimc_bridge)
    with pytest.raises(AttributeError, match="no attribute 'programme'"):
        _ = aimc_bridge.programme


def installed() -> bool:
    try:
        distribution("aimc-bridge")
    except PackageNotFoundError:
        return False
    return True


@pytest.mark.skipif(not installed(), reason="aimc-bridge is not installed in this environment")
def test_presets_in_a_bare_script_elsewhere(tmp_path: Path) -> None:
    script = tmp_path / "study.py"
    script.write_text("import presets\nprint(presets.get('rasch2023').pcm.g_max_us)\n")
    process = subprocess.run(
        [sys.executable, script.name], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert process.stdout.strip() == "25.0", process.stderr


def test_the_library_costs_little_beyond_torch() -> None:
    """A fifth of what torch itself takes, in CPU time.

    It is the least of five: other work on the machine counts little. `import aimc_bridge` takes its
    functions from their modules when they are first used.
    """
    code = (
        "import time\n"
        "began = time.process_time()\n"
        "import torch\n"
        "start = time.process_time()\n"
        "import aimc_bridge, presets\n"
        "package = time.process_time() - start\n"
        "from aimc_bridge import calibrate, convert, coverage, drift, handles, program, restore\n"
        "print(start - began, package, time.process_time() - start)\n"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        for _ in range(5)
    ]
    times = [[float(text) for text in run.stdout.split()] for run in runs]
    torch_s, package, functions = (min(column) for column in zip(*times, strict=True))
    assert package < functions < 0.2 * torch_s
