"""Code on the pages: every block of README.md and docs/ runs, parses, or is listed with a reason.

Python blocks of one page run one after the other, as one program. A block ```text right after a
Python block is what it prints. Commands are parsed by their real parsers.
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

import presets
from benchmarks.__main__ import COMMANDS
from tests.test_docs_names import app_of

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]

# What a page says that its reader has: it runs before the page's first block.
GIVEN = {
    "docs/recipes.md": """
import torch
from torch import nn
from aimc_bridge import calibrate, convert
from presets import rasch2023

loader = [(torch.randn(8, 12), torch.randint(3, (8,))) for _ in range(2)]
def loss(model, batch):
    return nn.functional.cross_entropy(model(batch[0]), batch[1])

analog = convert(nn.Linear(12, 3), rasch2023)
calibrate(analog, [loader[0][0]])
""",
    "docs/adapters.md": """
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
config = BertConfig(vocab_size=50, intermediate_size=64, max_position_embeddings=16, **sizes)
model = BertForSequenceClassification(config).eval()
batches = [{"input_ids": torch.randint(50, (4, 8))}]
""",
}

# What makes a page quick in this test: (what the page has, what runs here).
SMALLER = {"README.md": [("chips=10", "chips=5")]}

# Pages whose blocks run in a test of their own.
ELSEWHERE = {
    "docs/aihwkit-notes.md": "test_aihwkit_notes.py",
    "docs/devices.md": "test_devices_page.py",
    "docs/extend.md": "test_extend_page.py",
    "docs/periphery.md": "test_periphery_page.py",
    "docs/tasks.md": "benchmarks/tasks/test_own_task.py",
    "docs/training.md": "test_training_page.py",
    "docs/tutorial.md": "test_tutorial_page.py",
}

# Blocks that cannot run here: (page, first line) -> why. The engines' tests hold what they show.
CANNOT = {
    (
        "docs/adapters.md",
        "from peft import PeftConfig, PeftModel",
    ): "needs a second model; tests/integrations/test_peft.py does it",
    (
        "docs/lightning.md",
        "from aimc_bridge import convert, coverage, drift, program",
    ): "needs aihwkit-lightning, which is not installed with every torch",
    (
        "docs/lightning.md",
        "from aimc_bridge import crosscheck",
    ): "needs aihwkit-lightning, which is not installed with every torch",
}

# Programs that are not this project's: their options are not checked.
OTHERS = {
    *("pip", "python3", "git", "mkdocs", "accelerate", ".", "pre-commit", "cd", "ruff", "mypy"),
    "sed",
}


class Block(NamedTuple):
    """A fenced block: its language, its text, and the language and text of the next one."""

    page: str
    kind: str
    text: str
    output: str | None


def blocks_of(page: Path) -> list[Block]:
    """Return the fenced blocks of a page, whatever they hold."""
    text = page.read_text(encoding="utf-8")
    found = list(re.finditer(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```$", text, re.DOTALL | re.MULTILINE))
    name = page.relative_to(ROOT).as_posix()
    blocks = []
    for this, following in zip(found, [*found, None][1:], strict=True):
        output = None
        if following is not None and following[2] == "text":
            between = text[this.end() : following.start()]
            output = following[3] if not between.strip() else None
        blocks.append(Block(name, this[2], this[3], output))
    return blocks


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
PYTHON = list(
    dict.fromkeys(b.page for b in BLOCKS if b.kind == "python" and b.page not in ELSEWHERE)
)


def first_line(block: Block) -> str:
    """Return the line that names a block in `CANNOT`."""
    return block.text.splitlines()[0]


def same_output(shown: str, printed: str) -> bool:
    """Return whether two outputs are equal, but for numbers after a point (within 0.05)."""
    number = r"(?<![\w.])-?\d+\.\d+"
    if re.split(number, shown.strip()) != re.split(number, printed.strip()):
        return False
    pairs = zip(re.findall(number, shown), re.findall(number, printed), strict=True)
    return all(abs(float(one) - float(other)) <= 0.05 for one, other in pairs)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("page", PYTHON)
def test_python_of_a_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names: dict[str, Any] = {"__name__": "page"}
    exec(GIVEN.get(page, ""), names)
    for block in (b for b in BLOCKS if b.page == page and b.kind == "python"):
        if (page, first_line(block)) in CANNOT:
            continue
        text = block.text
        for long, short in SMALLER.get(page, ()):
            text = text.replace(long, short)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(text, page, "exec"), names)
        if block.output is not None:
            assert same_output(block.output, printed.getvalue()), printed.getvalue()


def commands_of(block: Block) -> list[list[str]]:
    """Return the commands of a shell block: one list of words each, variables put in."""
    variables = {"SCRATCH": "scratch", "SLURM_ARRAY_TASK_ID": "3"}  # a cluster sets them
    commands = []
    for line in block.text.replace("\\\n", " ").splitlines():
        line = re.sub(r"(^|\s)#.*", "", line).strip()
        if given := re.fullmatch(r"(\w+)=\"(.*)\"", line):
            variables[given[1]] = given[2]
            continue
        line = re.sub(r"\$(\w+)", lambda found: variables[found[1]], line)
        commands += [shlex.split(part) for part in line.split("&&") if part.strip()]
    return commands


def own(words: list[str]) -> tuple[str, list[str]] | None:
    """Return the module and the words of a command of this project; None for another program."""
    if words[0] == "srun":
        words = words[1:]
    program = Path(words[0]).name if words[0] != "." else "."
    if program == "aimc-bridge":
        return ("benchmarks", []) if len(words) == 1 else (command_module(words[1]), words[2:])
    if program == "python" and words[1] == "-m":
        if words[2] == "aimc_bridge":
            return "aimc_bridge", words[3:]
        if words[2].startswith("benchmarks"):
            return words[2], words[3:]
        assert words[2] in {"pytest", "pip", "mkdocs"}, words
        return None
    if program == "python" and words[1].endswith(".py"):
        assert (ROOT / words[1]).is_file(), words
        return None
    assert program in OTHERS, words
    return None


def command_module(name: str) -> str:
    """Return the module of `aimc-bridge NAME`."""
    assert name in COMMANDS, name
    return COMMANDS[name][0].removesuffix(".__main__")


SHELL = [b for b in BLOCKS if b.kind in {"sh", "bash", "console", "shell"}]


@pytest.mark.parametrize("block", SHELL, ids=lambda b: f"{b.page}: {first_line(b)[:40]}")
def test_commands_parse(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    presets.save(presets.rasch2023, "my_chip.toml")  # the file that a page has just written
    for words in commands_of(block):
        if (mine := own(words)) is None:
            continue
        module, rest = mine
        # this machine may have no GPU; the parser says so
        rest = ["cpu" if word == "cuda" else word for word in rest]
        if rest in (["-h"], ["--help"], ["--version"]):
            continue
        app = app_of(module)
        # A word that an option does not take, a missing value or a wrong type is an error.
        app.parse_args(rest, exit_on_error=False, print_error=False)


def test_every_block_is_of_a_known_kind() -> None:
    kinds = {"python", "sh", "bash", "console", "shell", "text", "toml", "yaml", "bibtex", ""}
    assert {block.kind for block in BLOCKS} <= kinds
    unnamed = {block.page for block in BLOCKS if not block.kind}
    # a picture that test_contributing_page.py checks, and what a command printed
    assert unnamed <= {"CONTRIBUTING.md", "docs/reliability.md"}


def test_the_tables_name_what_is_there() -> None:
    pages = {block.page for block in BLOCKS}
    assert set(GIVEN) | set(SMALLER) | set(ELSEWHERE) <= pages
    for page, test in ELSEWHERE.items():
        assert Path(page).name in (ROOT / "tests" / test).read_text(encoding="utf-8")
    there = {(block.page, first_line(block)) for block in BLOCKS if block.kind == "python"}
    assert set(CANNOT) <= there
    for page, changes in SMALLER.items():
        text = "".join(block.text for block in BLOCKS if block.page == page)
        assert all(long in text for long, _ in changes)


@pytest.mark.parametrize(
    ("words", "error"),
    [("--no-such-option", "no-such-option"), ("--chips many", "chips"), ("--chips", "chips")],
)
def test_a_wrong_command_would_be_noticed(
    words: str, error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = Block("page.md", "sh", f"python -m benchmarks.run wrn {words}\n", None)
    with pytest.raises(Exception, match=error):
        test_commands_parse(block, tmp_path, monkeypatch)


def test_a_wrong_output_would_be_noticed() -> None:
    assert same_output("digital 0.97\n", "digital 0.95\n")
    assert not same_output("digital 0.97\n", "digital 0.87\n")
    assert not same_output("digital 0.97\n", "analog 0.97\n")
    assert not same_output("digital 0.97\n", "digital 0.97 0.98\n")
