"""The command line that all commands share: options, errors, exit codes, output."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import presets
from aimc_bridge import commands
from aimc_bridge.errors import DataError, TrainingError, UsageError
from benchmarks import __main__ as listing
from benchmarks import cli
from benchmarks.studies import replicas
from tests.test_imports import ROOT, python


def command(function) -> cli.App:
    return cli.command("toy", function)


def outcome(function, *words: str) -> int:
    return cli.execute(command(function), words, on_interrupt="stopped; --resume goes on")


# --- options --------------------------------------------------------------------------------------


def options(
    *names: cli.TaskNames,
    times: cli.Times = None,
    chips: cli.Chips = None,
    preset: cli.PresetName = presets.rasch2023,
    changes: cli.Set = (),
    option: cli.Option = (),
    device: cli.Device = "cpu",
    out: cli.Out = None,
    output: cli.Output = cli.Output(),
    words: cli.Words = (),
) -> None:
    """Show what was parsed."""
    output.result(
        "text",
        {
            "names": names,
            "times": times,
            "chips": chips,
            "preset": preset,
            "changes": cli.changes_of(changes),
            "option": option,
            "out": out,
            "words": words,
        },
    )


def test_options_mean_what_they_say(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["wrn", "--times", "1h", "1s", "1h", "--set", "noise_scale=4", "--set", "epochs=2"]
    words += ["bert", "-o", "depth=2", "--option", "width=1", "--chips", "3", "--json"]
    words += ["--preset", "ideal", "--out", "runs/x"]
    assert outcome(options, *words) == 0
    assert json.loads(capsys.readouterr().out) == {
        "names": ["wrn", "bert"],
        "times": [1.0, 3600.0],
        "chips": 3,
        "preset": "ideal",
        "changes": {"noise_scale": 4, "epochs": 2},
        "option": ["depth=2", "width=1"],
        "out": "runs/x",
        "words": words,
    }


def test_the_last_of_a_repeated_option_counts_and_lists_add_up(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A script may add words to those it was given.

    Examples are --out and --resume.
    """
    words = ["--chips", "1", "--json", "--out", "a", "--times", "1h", "--chips", "2", "--json"]
    assert outcome(options, *words, "--out", "b", "--times", "1s", "--preset", "ideal") == 0
    values = json.loads(capsys.readouterr().out)
    assert (values["chips"], values["out"], values["times"]) == (2, "b", [1.0, 3600.0])


SEE = "; see python -m benchmarks.toy --help"


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--bogus"], f"Unknown option: --bogus.*{SEE}"),
        (["--no-quiet"], f"Unknown option: --no-quiet.*{SEE}"),
        (["--chip", "3"], rf"Unknown option: --chip\. Did you mean --chips\?{SEE}"),
        (["--out"], f"Parameter --out requires an argument{SEE}"),
        (["--chips", "0"], "--chips 0; allowed: 1 or more"),
        (["--chips", "-3"], "--chips -3; allowed: 1 or more"),
        (["--chips", "many"], "--chips many; allowed: a whole number, 1 or more"),
        (["--times"], "--times names no time; allowed: one or more, as 1s 1h '1 day' 3600"),
        (["--times", "soon"], "time 'soon' is not understood; allowed: seconds >= 0, .*"),
        (["--times", "-5"], "time '-5' is not understood; .*"),
        (["--device", "tpu"], 'Invalid value "tpu" for --device.*"cpu", "cuda".*'),
        (["--preset", "pcm"], "--preset: no preset 'pcm'; there are: rasch2023, .*json file"),
        (["--set", "noise=3"], "--set 'noise=3'; allowed: FIELD=VALUE, fields: noise_type, .*"),
        (["--set", "noise_scale"], "--set 'noise_scale'; allowed: FIELD=VALUE, .*"),
    ],
)
def test_bad_usage_is_one_line(
    words: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert outcome(options, *words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.fullmatch(f"error: {complaint}\n", captured.err), captured.err


def test_a_file_takes_no_name_of_the_library(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "chip.toml"
    lines = 'base = "rasch2023"\nname = "rasch2023"\nwhy = "x"\n[change]\ng_max_us = 40.0\n'
    path.write_text(lines)
    assert outcome(options, "--preset", str(path)) == 2
    assert "'rasch2023' is one of the library's" in capsys.readouterr().err
    presets.save(presets.rasch2023, path)  # the library's own numbers are no other preset
    assert outcome(options, "--preset", str(path)) == 0


def test_two_presets_of_one_name_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def work(*, preset: cli.PresetNames = (presets.rasch2023,)) -> None:
        """Do nothing."""

    for file, g_max in (("a.toml", 40.0), ("b.toml", 50.0)):
        preset = presets.rasch2023.change(name="mine", g_max_us=g_max, why="test")
        presets.save(preset, tmp_path / file)
    a, b = (str(tmp_path / file) for file in ("a.toml", "b.toml"))
    assert outcome(work, "--preset", a, "rasch2023") == 0
    assert outcome(work, "--preset", a, b) == 2
    assert "a second preset with the name 'mine'" in capsys.readouterr().err


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_streams_change_no_exit_code(closed: str, tmp_path: Path) -> None:
    """A shell may start a program without standard output or standard error."""
    script = (
        "import sys\nfrom benchmarks import cli\n"
        "def toy(*, chips: cli.Chips = 3, output: cli.Output = cli.Output()) -> int:\n"
        "    output.say('note')\n    output.result('text', {})\n    return 1\n"
        "sys.exit(cli.execute(cli.command('toy', toy)))\n"
    )
    file = tmp_path / "toy.py"
    file.write_text(script)
    for words, code in (("", 1), ("--chips 0", 2)):
        line = f"{sys.executable} {file} {words} {closed}"
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(["bash", "-c", line], cwd=ROOT, env=environment, check=False)
        assert done.returncode == code


def test_a_seed_out_of_range_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def work(*, seed: cli.Seed = 0) -> None:
        """Do nothing."""

    assert outcome(work, "--seed", "9" * 23) == 2
    assert "between -2^62 and 2^62" in capsys.readouterr().err


def test_the_variables_of_a_launcher_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "x")
    with pytest.raises(UsageError, match="WORLD_SIZE='x'"):
        cli.processes()
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UsageError, match="without RANK"), replicas.replicas("cpu"):
        pass


def test_a_run_to_resume_must_be_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    def work(*, out: cli.Out = None, resume: cli.Resume = False) -> int:
        """Do nothing."""
        return 0

    assert outcome(work, "--resume") == 2
    assert "--resume without --out; name the folder" in capsys.readouterr().err
    assert outcome(work, "--resume", "--out", str(tmp_path)) == outcome(work) == 0


def test_a_preset_may_be_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The preset has the name that the file gives it; a faulty file is an error of one line."""
    path = tmp_path / "mine.toml"
    path.write_text('base = "ideal"\nname = "mine"\nwhy = "a test"\n[change]\nadc_bits = 7\n')
    assert cli.preset_of(str(path)).name == "mine"
    assert cli.preset_of(str(path)).crossbar.adc_bits == 7
    assert outcome(options, "--json", "--preset", str(path)) == 0
    assert json.loads(capsys.readouterr().out)["preset"].startswith("mine")
    assert outcome(options, "--preset", str(tmp_path / "none.toml")) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and "none.toml" in said and len(said.splitlines()) == 1


def test_a_preset_may_come_from_python(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As tasks do, so that its device can be an object; files of data run no code."""
    path = tmp_path / "chips_of_mine.py"
    path.write_text(
        "from presets import ideal\n\nclass Mine:\n"
        "    def program(self, weights, generator):\n        return weights\n"
        "    def read(self, state, t_inference, generator):\n        return state\n\n"
        'mine = ideal.with_device(Mine(), name="mine", why="a test")\nother = 3\n'
    )
    preset = cli.preset_of(f"{path}:mine")
    assert preset.name == "mine" and preset.pcm.law == "own"
    assert cli.preset_of("chips_of_mine:mine") == preset
    assert cli.preset_of("presets:rasch2023") is presets.rasch2023
    for word, said in (
        (f"{path}:other", f"{path} has no preset 'other'; its presets: ideal, mine"),
        (f"{tmp_path}/none.py:mine", "none.py"),
        ("no.such.module:mine", "no.such.module cannot be imported (ModuleNotFoundError"),
    ):
        assert outcome(options, "--preset", word) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and said in error and len(error.splitlines()) == 1


@pytest.mark.parametrize("word", ["-h", "--help"])
def test_help_names_every_option(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert outcome(options, word) == 0
    page = capsys.readouterr().out
    assert page.startswith("Usage: python -m benchmarks.toy [OPTIONS]\n")
    for name in ("--times", "--chips", "--preset", "--set", "-o", "--quiet", "--json", "--dry-run"):
        assert f" {name} " in page
    assert "words" not in page.lower()


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert outcome(options, "--version") == 0
    assert listing.main(["--version"]) == 0
    assert capsys.readouterr().out.split() == [version("aimc-bridge")] * 2


# --- errors and exit codes ------------------------------------------------------------------------

FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (
            UsageError("two\n  lines [bold]and markup[/bold]"),
            2,
            "two lines [bold]and markup[/bold]",
        ),
        (TrainingError("diverged"), 1, "diverged"),
        (DataError(), 2, "DataError"),
        (FULL, 2, "No space left on device"),
        (PermissionError(errno.EACCES, "Permission denied", "/x/y"), 2, "/x/y: Permission denied"),
        (OSError(errno.ENOSPC, "No space", "a.partial", None, "a.csv"), 2, "a.csv: No space"),
        (OSError("nobody answers"), 2, "nobody answers"),
        (OSError(), 2, "OSError"),
    ],
)
def test_an_expected_error_is_one_line(
    error: Exception, code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def work() -> None:
        raise error

    assert outcome(work) == code
    assert capsys.readouterr() == ("", f"error: {message}\n")


def test_a_bug_stays_a_traceback() -> None:
    def work() -> None:
        raise KeyError("typo")

    with pytest.raises(KeyError, match="typo"):
        outcome(work)


@pytest.mark.parametrize(("text", "message"), [("", "stopped; --resume goes on"), ("own", "own")])
def test_an_interruption_says_how_to_go_on(
    text: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def work() -> None:
        raise KeyboardInterrupt(text)

    assert outcome(work) == 130
    assert capsys.readouterr() == ("", f"{message}\n")


@pytest.mark.parametrize(("value", "code"), [(None, 0), (0, 0), (1, 1), (False, 0)])
def test_what_a_command_returns_is_its_exit_code(value: int | None, code: int) -> None:
    assert outcome(lambda: value) == code


@pytest.mark.parametrize("code", [0, 1])
@pytest.mark.parametrize("words", [[], ["--json"]])
def test_a_reader_who_leaves_changes_nothing(tmp_path: Path, code: int, words: list[str]) -> None:
    """The work is finished, and its exit code is the process's own.

    Nothing is printed about it.
    """
    script = tmp_path / "toy.py"
    script.write_text(
        "import sys, time\n"
        "from pathlib import Path\n"
        "from benchmarks import cli\n"
        "def work(*, output: cli.Output = cli.Output()) -> int:\n"
        "    sys.stdin.read()\n"  # This waits until the reader has gone.
        "    for _ in range(3):\n"
        "        output.result('x' * 100_000, {'x': 'x' * 100_000})\n"
        "        print('and more', flush=True)\n"
        f"    Path({str(tmp_path / 'done')!r}).touch()\n"
        f"    return {code}\n"
        "sys.exit(cli.execute(cli.command('toy', work)))\n"
    )
    process = subprocess.Popen(
        [sys.executable, script, *words],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin and process.stdout and process.stderr
    process.stdout.close()
    process.stdin.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(60) == code
    assert (tmp_path / "done").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_is_one_line(unbuffered: str) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks", "doctor", "--dry-run"],
            cwd=ROOT,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert (done.returncode, done.stderr) == (
        2,
        b"error: standard output: No space left on device\n",
    )


# --- output ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("no such\nthing"), 2),
        (TrainingError("diverged"), 1),
        (OSError(errno.ENOSPC, "No space left on device", "a/b"), 2),
        (KeyboardInterrupt(), 130),
    ],
)
def test_with_json_an_error_is_json_too(
    error: BaseException, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def work(*, output: cli.Output = cli.Output()) -> None:
        raise error

    assert outcome(work, "--json") == code
    captured = capsys.readouterr()
    data = json.loads(captured.out)
    assert data["exit_code"] == code
    assert captured.err.replace("\n", "").removeprefix("error: ") == data["error"]
    assert outcome(work, "--json", "--bogus") == 2
    assert "Unknown option" in json.loads(capsys.readouterr().out)["error"]
    assert outcome(work) == code and capsys.readouterr().out == ""


def test_quiet_prints_the_result_in_few_words(capsys: pytest.CaptureFixture[str]) -> None:
    def work(*, output: cli.Output = cli.Output()) -> None:
        output.say("note")
        output.result("table", {"a": 1}, short="it works")

    assert outcome(work, "--quiet") == 0
    assert capsys.readouterr() == ("it works\n", "")


@pytest.mark.parametrize(
    ("words", "out", "err"),
    [
        ([], "table\n", "note\n"),
        (["--quiet"], "", ""),
        (["--json"], '{"a": [1.5, null], "b": {"1": "x/y"}}\n', "note\n"),
        (["--json", "--quiet"], '{"a": [1.5, null], "b": {"1": "x/y"}}\n', ""),
    ],
)
def test_output(words: list[str], out: str, err: str, capsys: pytest.CaptureFixture[str]) -> None:
    def work(*, output: cli.Output = cli.Output()) -> None:
        output.say("note")
        output.result("table", {"a": (1.5, float("nan")), "b": {1: Path("x/y")}})

    assert outcome(work, *words) == 0
    assert capsys.readouterr() == (out, err)


# --- the list of commands -------------------------------------------------------------------------


def test_the_list_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["-h"], ["--help"]):
        assert listing.main(words) == 0
        page = capsys.readouterr().out
        for name in listing.COMMANDS:
            assert f" {name} " in page


def test_an_unknown_command_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert listing.main(["runn", "wrn", "--chips", "2"]) == 2
    assert capsys.readouterr() == (
        "",
        f"error: no command 'runn'; did you mean run? there are: {', '.join(listing.COMMANDS)}\n",
    )
    assert listing.main(["--bogus"]) == 2
    assert "see aimc-bridge --help" in capsys.readouterr().err


def test_the_list_imports_no_command() -> None:
    printed = python(
        "import sys\n"
        "from benchmarks.__main__ import main\n"
        "main(['--help'])\n"
        "print(sorted({'torch', 'numpy', 'presets', 'benchmarks.run'} & set(sys.modules)))"
    )
    assert printed.splitlines()[-1] == "[]"


def test_a_command_is_called_by_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert listing.main(["doctor", "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["plan"][0] == "versions"
    assert commands.INTERRUPTED == "interrupted"


def test_every_command_helps_and_is_completed(capsys: pytest.CaptureFixture[str]) -> None:
    """Options that all commands share are in each; completion knows the options of all."""
    script = listing.app.generate_completion(shell="bash")
    assert "--reestimate-bn" in script
    for name in listing.COMMANDS:
        assert name in script
        assert listing.main([name, "--help"]) == 0
        page = capsys.readouterr().out
        assert page.startswith(f"Usage: python -m benchmarks.{name} ")
        if name != "record":  # has commands of its own
            assert all(f" {word} " in page for word in ("--quiet", "--json", "--dry-run"))
        assert listing.main([name, "--bogus"]) == 2
        said = capsys.readouterr().err
        assert said.startswith("error: Unknown ") and "--bogus" in said
