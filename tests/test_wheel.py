"""The wheel, as another project uses it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

from aimc_bridge import doctor, shadowing
from aimc_bridge.engines import versions
from aimc_bridge.errors import ShadowedError
from benchmarks.report import record
from tests.test_imports import ROOT
from tests.test_setup import pythons_module

PACKAGES = ("aimc_bridge", "benchmarks", "presets")

# What a user of aihwkit alone writes. Its folder also holds a file called benchmarks.py.
STUDY = """
import sys

import presets
import torch
from aihwkit.inference import drift_analog_weights, program_analog_weights
from aihwkit.nn.conversion import convert_to_analog

print(presets.__file__)
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 8))
x = torch.randn(64, 64)
digital = model(x).detach()
exact = convert_to_analog(model, presets.ideal.rpu_config()).eval()
print(float((exact(x).detach() - digital).norm() / digital.norm()))

analog = convert_to_analog(model, presets.rasch2023.rpu_config()).eval()
target = model[0].weight.detach()
program_analog_weights(analog, None)  # with the noise model of the configuration
programmed = analog[0].get_weights()[0].clone()
largest = target.abs().amax(dim=1, keepdim=True)
print(float(((programmed - target) / largest).std()))
drift_analog_weights(analog, 86400.0)
drifted = analog[0].get_weights()[0]
print(float((drifted * target).sum() / (programmed * target).sum()))
assert analog(x).isfinite().all()
print(sorted(name for name in sys.modules if name.partition(".")[0] == "benchmarks"))
"""


def run(
    python: Path | str, *words: str, cwd: Path, timeout: float = 300, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run Python in a folder, without the paths of this process."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [str(python), *words],
        cwd=cwd,
        env={**kept, **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def copied(folder: Path) -> Path:
    """Copy the project's sources into a folder, if this setuptools can build them."""
    setuptools = pytest.importorskip("setuptools")
    if int(setuptools.__version__.partition(".")[0]) < 77:
        pytest.skip(f"needs setuptools 77 to build the wheel, not {setuptools.__version__}")
    source = folder / "source"
    unwanted = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=unwanted)
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    return source


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the wheel of the project, built from a copy of its sources."""
    folder = tmp_path_factory.mktemp("wheel")
    source = copied(folder)
    words = ("-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w")
    process = run(sys.executable, *words, str(folder), str(source), cwd=folder)
    assert process.returncode == 0, process.stdout + process.stderr
    (path,) = folder.glob("aimc_bridge-*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder into which the wheel alone is installed, beside this environment."""
    folder = tmp_path_factory.mktemp("installed")
    words = ("-m", "pip", "install", "--no-deps", "--no-index", "--target", str(folder))
    process = run(sys.executable, *words, str(wheel), cwd=folder)
    assert process.returncode == 0, process.stdout + process.stderr
    return folder


def project(folder: Path) -> Path:
    """Make the folder of another project: its study, and a file called benchmarks.py."""
    (folder / "benchmarks.py").write_text("raise RuntimeError('not this one')\n")
    (folder / "study.py").write_text(STUDY)
    return folder


def check_study(process: subprocess.CompletedProcess[str], home: Path) -> None:
    """Assert that the study used the wheel's presets on aihwkit's tiles."""
    assert process.returncode == 0, process.stderr
    place, exact, programmed, drifted, loaded = process.stdout.splitlines()
    assert Path(place).resolve().is_relative_to(home.resolve())
    assert float(exact) < 1e-5
    # sigma is 0.26 + 1.97 r - 1.17 r^2 of 25 microsiemens, 0.26 of those at 0, which have no
    # negative side: 0.036 for r uniform in [0, 1].
    assert 0.034 < float(programmed) < 0.0383
    # Large weights have nu = 0.049, smaller ones up to 0.1: (86420 / 20) ** -0.049 = 0.66.
    assert 0.58 < float(drifted) < 0.68
    assert loaded == "[]"


def test_the_wheel_holds_what_the_commands_read(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*"):
            parts = path.relative_to(ROOT).parts
            if path.is_file() and "__pycache__" not in parts and "checkpoints" not in parts:
                assert "/".join(parts) in names
    assert {name.partition("/")[0] for name in names if ".dist-info" not in name} == set(PACKAGES)


@pytest.mark.aihwkit
def test_a_study_of_another_project_beside_its_own_benchmarks(
    installed: Path, tmp_path: Path
) -> None:
    folder = project(tmp_path)
    process = run(sys.executable, "study.py", cwd=folder, PYTHONPATH=str(installed))
    check_study(process, installed)


@pytest.mark.slow
@pytest.mark.parametrize("pair", versions.PAIRS, ids=[pair.aihwkit for pair in versions.PAIRS])
def test_the_wheel_in_a_new_environment(pair: versions.Pair, wheel: Path, tmp_path: Path) -> None:
    python = pythons_module().interpreter(pair)
    if python is None:
        pytest.skip(f"no interpreter for aihwkit {pair.aihwkit} on this machine")
    folder, venv = tmp_path / "project", tmp_path / "venv"
    folder.mkdir()
    project(folder)
    words = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check", str(wheel))
    for command in ((python, "-m", "venv", str(venv)), (venv / "bin" / "python", *words)):
        process = run(*command, cwd=folder, timeout=1800)
        assert process.returncode == 0, process.stdout + process.stderr
    check_study(run(venv / "bin" / "python", "study.py", cwd=folder), venv)
    process = run(venv / "bin" / "aimc-bridge", "doctor", cwd=folder)
    assert process.returncode == 0, process.stdout + process.stderr
    expected = f"pairing{' ' * 21}aihwkit {pair.aihwkit} with torch {pair.torch[-1]}."
    assert expected in process.stdout
    shutil.rmtree(venv)


# --- records and pages ----------------------------------------------------------------------------


RECORDS = """
from benchmarks import record

print(record.records.FOLDER, len(record.records.of_kind("run")))
print(record.main(["check"]), record.main(["write"]))
"""


def test_installed_commands_read_the_records_and_say_where_the_pages_are(
    installed: Path, tmp_path: Path
) -> None:
    process = run(sys.executable, "-c", RECORDS, cwd=tmp_path, PYTHONPATH=str(installed))
    folder = installed / "benchmarks" / "records"
    assert process.stdout.splitlines() == [f"{folder} {len(record.of_kind('run'))}", "2 2"]
    errors = process.stderr.splitlines()
    assert len(errors) == 2 and len(set(errors)) == 1
    assert errors[0] == (
        f"error: README.md and docs/ are not in {installed}: the installed package has the records "
        "and not the pages; run this command in a clone of the project"
    )
    assert not (installed / "docs").exists()


# --- shadowed packages ----------------------------------------------------------------------------


def shadowed(folder: Path, kind: str, name: str) -> Path:
    """Write a file or a package of a user's own; return what the error must name."""
    folder.mkdir(exist_ok=True)
    if kind == "file":
        path = folder / f"{name}.py"
        path.write_text("mine = 1\n")
        return path
    (folder / name).mkdir()
    (folder / name / "__init__.py").touch()
    return folder / name


@pytest.mark.parametrize("kind", ["file", "package"])
@pytest.mark.parametrize(
    "use",
    [
        "from aimc_bridge import convert",
        "import presets, aimc_bridge; aimc_bridge.sweep",
        "import benchmarks",
        "import sys; sys.path[0] = ''; from aimc_bridge import convert",  # as in a notebook
        "import os, aimc_bridge; os.chdir('..'); os.chdir('here'); aimc_bridge.convert",
    ],
)
def test_a_shadowed_presets_is_named(kind: str, use: str, tmp_path: Path) -> None:
    path = shadowed(tmp_path / "here", kind, "presets")
    process = run(sys.executable, "-c", use, cwd=path.parent, PYTHONPATH=str(ROOT))
    assert process.returncode == 1
    assert process.stderr.splitlines()[-1] == (
        f"aimc_bridge.errors.ShadowedError: {path} shadows the package presets of aimc-bridge, "
        f"which is in {ROOT / 'presets'}; rename it, or start Python where "
        '"import presets" does not find it first'
    )


@pytest.mark.parametrize("kind", ["file", "package"])
@pytest.mark.parametrize("command", ["benchmarks.run", "benchmarks.record", "benchmarks"])
def test_a_command_beside_a_shadowing_presets(kind: str, command: str, tmp_path: Path) -> None:
    path = shadowed(tmp_path, kind, "presets")
    process = run(sys.executable, "-m", command, cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert process.returncode == 2 and process.stdout == ""
    assert process.stderr.startswith(f"error: {path} shadows the package presets of aimc-bridge, ")
    assert len(process.stderr.splitlines()) == 1


CONSOLE = "import sys; from aimc_bridge.console import main; sys.exit(main())"


@pytest.mark.parametrize("name", ["presets", "benchmarks"])
def test_the_console_script_names_what_shadows_its_packages(name: str, tmp_path: Path) -> None:
    path = shadowed(tmp_path, "file", name)
    words = ("-c", CONSOLE, "doctor", "--dry-run")
    process = run(sys.executable, *words, cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert process.returncode == 2
    assert process.stderr.startswith(f"error: {path} shadows the package {name} of aimc-bridge, ")


def test_the_installed_console_script_does_not_look_in_the_folder(
    installed: Path, tmp_path: Path
) -> None:
    for name in ("presets", "benchmarks"):
        shadowed(tmp_path, "file", name)
    script = installed / "bin" / "aimc-bridge"
    process = run(
        sys.executable, str(script), "doctor", "--dry-run", cwd=tmp_path, PYTHONPATH=str(installed)
    )
    assert (process.returncode, process.stderr) == (0, "")
    assert process.stdout.startswith("would check: versions")


@pytest.mark.parametrize("kind", ["file", "package"])
@pytest.mark.parametrize("name", ["presets", "benchmarks"])
def test_a_shadowed_aimc_bridge_is_named_by_the_other_packages(
    name: str, kind: str, tmp_path: Path
) -> None:
    path = shadowed(tmp_path, kind, "aimc_bridge")
    path = path / "__init__.py" if kind == "package" else path
    expected = f"{path} shadows the package aimc_bridge, which {name} needs; rename it"
    process = run(sys.executable, "-c", f"import {name}", cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert process.returncode == 1
    assert process.stderr.splitlines()[-1] == f"ImportError: {expected}"
    if name == "benchmarks":
        words = ("-m", "benchmarks.run", "--dry-run")
        process = run(sys.executable, *words, cwd=tmp_path, PYTHONPATH=str(ROOT))
        assert (process.returncode, process.stderr) == (2, f"error: {expected}\n")


THIRD_PARTY = f"""
import sys
sys.path += {[path for path in sys.path if path.endswith("site-packages")]!r}
"""

HOOK = f"""
import sys
from importlib.machinery import PathFinder


class Last:
    def find_spec(name, path=None, target=None):
        return PathFinder.find_spec(name, [{str(ROOT)!r}]) if path is None else None


sys.meta_path.append(Last)
"""


def test_folders_beside_a_study_do_not_shadow_an_editable_install(tmp_path: Path) -> None:
    source = copied(tmp_path)
    use = f"from setuptools import build_meta; build_meta.build_editable({str(tmp_path)!r})"
    process = run(sys.executable, "-c", use, cwd=source)
    assert process.returncode == 0, process.stdout + process.stderr
    (editable,) = tmp_path.glob("aimc_bridge-*.whl")
    zipfile.ZipFile(editable).extractall(tmp_path / "site-packages")
    study = tmp_path / "study"
    for name in PACKAGES:
        (study / name).mkdir(parents=True)  # a clone called aimc_bridge, a folder of settings
    use = (
        f"import sys, site; site.addsitedir({str(tmp_path / 'site-packages')!r})\n"
        "import benchmarks\n"
        "from presets import rasch2023\n"
        "from aimc_bridge import convert; print(convert.__module__)\n"
        "print(benchmarks.__file__, sys.modules['presets'].__file__)"
    )
    process = run(sys.executable, "-S", "-c", THIRD_PARTY + use, cwd=study)
    assert process.returncode == 0, process.stderr
    files = [source / name / "__init__.py" for name in ("benchmarks", "presets")]
    assert process.stdout.splitlines() == ["aimc_bridge.conversion", " ".join(map(str, files))]


def test_a_bare_folder_that_an_import_hook_does_not_find_first_is_named(tmp_path: Path) -> None:
    (tmp_path / "presets").mkdir()
    use = f"{THIRD_PARTY}{HOOK}from aimc_bridge import convert"
    process = run(sys.executable, "-S", "-c", use, cwd=tmp_path)
    assert process.returncode == 1
    assert process.stderr.splitlines()[-1].startswith(
        f"aimc_bridge.errors.ShadowedError: {tmp_path / 'presets'} shadows the package presets "
    )


def test_what_does_not_shadow(tmp_path: Path) -> None:
    (tmp_path / "presets").mkdir()  # a folder of files, not a package
    (tmp_path / "presets" / "mine.toml").touch()
    use = (
        "from aimc_bridge.shadowing import check; check('presets', 'benchmarks')\n"
        "import presets; print(presets.rasch2023)"
    )
    process = run(sys.executable, "-c", use, cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert process.returncode == 0, process.stderr
    assert process.stdout.startswith("rasch2023")


def test_a_module_made_by_hand_is_not_a_shadow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "presets", ModuleType("presets"))
    shadowing.check("presets", "no_such_package")
    monkeypatch.setitem(sys.modules, "presets", pytest)
    with pytest.raises(ShadowedError, match="pytest shadows the package presets"):
        shadowing.check("presets")


def test_the_doctor_names_what_shadows_a_package(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {"presets", "benchmarks"}.isdisjoint(finding.what for finding in doctor.versions())
    monkeypatch.setitem(sys.modules, "presets", pytest)
    (finding,) = (finding for finding in doctor.versions() if finding.what == "presets")
    folder = Path(pytest.__file__).parent
    assert (finding.ok, finding.note) == (False, f"{folder} shadows this package; rename it")
