"""Names on the pages: every dotted name, command, option and path in README.md and docs/ exists."""

from __future__ import annotations

import importlib
import itertools
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from cyclopts import App

from benchmarks.__main__ import COMMANDS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PACKAGES = "aimc_bridge|benchmarks|presets|tests"

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def written(page: Path) -> str:
    """Return the hand-written text of a page: what records generate quotes older commands."""
    text = page.read_text(encoding="utf-8")
    return re.sub(r"<!-- ([^/].*?) -->.*?<!-- /\1 -->", "", text, flags=re.DOTALL)


def blocks(text: str) -> str:
    """Return the shell blocks of a text: no comments, one line per command."""
    shell = "\n".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL)).replace("\\\n", " ")
    return re.sub(r"(?m)\s+#.*$", "", shell).replace("&&", "\n")


def spans(text: str) -> list[str]:
    """Return the inline code of a text, each on one line."""
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]


def dotted(text: str) -> set[str]:
    """Return the names in a text that begin with a package of this project."""
    names = re.findall(rf"(?<![\w./-])(?:{PACKAGES})(?:\.[A-Za-z_]\w*)+", text)
    return {name for name in names if not name.endswith((".py", ".md"))}  # names of files


def commands(text: str) -> Iterator[list[str]]:
    """Yield each command of this project: the module after `-m`, and its words."""
    for line in [*blocks(text).splitlines(), *spans(text)]:
        match = re.search(rf"(?<!\S)-m ((?:{PACKAGES})\b.*)", line)
        if match:
            yield shlex.split(match[1])


def resolve(name: str) -> None:
    """Import the longest module of this checkout that a name begins with; follow the rest."""
    parts = name.split(".")
    paths = [ROOT.joinpath(*parts[:end]) for end in range(1, len(parts) + 1)]
    end = sum(path.is_dir() or path.with_suffix(".py").exists() for path in paths)
    value: object = importlib.import_module(".".join(parts[:end]))
    for part in parts[end:]:
        value = getattr(value, part)


@cache
def app_of(module: str) -> App:
    """Return the app that `python -m MODULE` runs."""
    folder = ROOT.joinpath(*module.split("."))
    app = importlib.import_module(f"{module}.__main__" if folder.is_dir() else module).app
    assert isinstance(app, App)
    return app


def options_of(app: App) -> set[str]:
    """Return the options of a command, and the names of its positional words."""
    arguments = [argument for argument in app.assemble_argument_collection() if argument.parse]
    names = {name for argument in arguments for name in argument.names} - {"*"}
    return names | {*app.help_flags, *app.version_flags}


def problems(module: str, words: list[str]) -> list[str]:
    """Return the words of `python -m MODULE WORDS` that the command does not know."""
    _, apps, rest = app_of(module).parse_commands(words)
    app = apps[-1]
    if app.default_command is None:
        return [word for word in rest if word not in (*app.help_flags, *app.version_flags)]
    unknown = [word for word in rest if not _is_word(word) and word not in options_of(app)]
    positional = any(
        argument.parse and argument.index is not None
        for argument in app.assemble_argument_collection()
    )
    return unknown if positional else [*itertools.takewhile(_is_word, rest), *unknown]


def _is_word(word: str) -> bool:
    return not word.startswith("-")


@pages
def test_every_dotted_name_resolves(page: Path) -> None:
    for name in sorted(dotted(written(page))):
        resolve(name)


@pages
def test_every_command_and_its_options_exist(page: Path) -> None:
    for module, *words in commands(written(page)):
        assert problems(module, words) == [], f"python -m {module} {shlex.join(words)}"


@pages
def test_every_option_that_is_named_alone_exists(page: Path) -> None:
    known: set[str] = set()
    for module, _ in COMMANDS.values():
        app = app_of(module.removesuffix(".__main__"))
        apps = [app] if app.default_command else [app[name] for name in app if _is_word(name)]
        known |= {option for each in apps for option in options_of(each)}
    named = {span.split()[0] for span in spans(written(page)) if span.startswith("--")}
    assert sorted(named - known) == []


@pages
def test_every_path_exists(page: Path) -> None:
    text = written(page)
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (page.parent / link).exists(), link
    for span in spans(text):
        if re.match(rf"(?:{PACKAGES}|docs)/[\w./*-]+$", span):
            assert list(ROOT.glob(span)), span


def test_the_pages_have_all_of_these() -> None:
    texts = [written(page) for page in PAGES]
    called = [words for text in texts for words in commands(text)]
    assert {module for module, *_ in called} >= {
        *(f"benchmarks.{name}" for name in COMMANDS if name != "report"),
        "aimc_bridge",
    }
    assert sum(len(words) for words in called) > 100
    assert len(set().union(*map(dotted, texts))) > 20


@pytest.mark.parametrize(
    "text",
    [
        "`python -m benchmarks.run wrn --no-such-option 3`",
        "`python -m benchmarks.record frobnicate`",
        "`python -m benchmarks.record add runs/x --record y`",
        "`python -m benchmarks.speed wrn`",
        "`python -m aimc_bridge report`",
        "```sh\npython -m benchmarks.ladder \\\n    --ladders  # a comment\n```",
    ],
)
def test_a_wrong_command_would_be_noticed(text: str) -> None:
    ((module, *words),) = commands(text)
    assert problems(module, words)


@pytest.mark.parametrize("name", ["aimc_bridge.registry", "benchmarks.keep", "presets.rasch2024"])
def test_a_wrong_name_would_be_noticed(name: str) -> None:
    assert dotted(f"see `{name}`.") == {name}
    with pytest.raises((AttributeError, ModuleNotFoundError)):
        resolve(name)
