"""A task from outside the project: the worked example of docs/tasks.md, and its errors."""

from __future__ import annotations

import json
import pickle
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch

from aimc_bridge.errors import UsageError
from benchmarks import ablation, digital, ladder, run, tasks
from benchmarks.studies.settings import task_names
from benchmarks.tasks import DigitalRecipe, Plan, Task, registry
from tests.test_imports import ROOT

pytestmark = pytest.mark.usefixtures("no_data", "own_registry")

EXAMPLE = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "tasks.md").read_text(), re.DOTALL)
PLANS = {"embedded": Plan()}


@pytest.fixture
def own_registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Remove what a test registers or imports after the test."""
    built_in = tasks.names()[:3]  # others may have been registered by tests before this one
    monkeypatch.setattr(registry, "_TASKS", {name: registry._TASKS[name] for name in built_in})
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    sys.modules.pop("spirals", None)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the worked example in a file of its own."""
    path = tmp_path_factory.mktemp("mine") / "spirals.py"
    path.write_text(EXAMPLE[0])
    return path


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Act as a new process, which knows the built-in tasks only."""
    monkeypatch.setattr(registry, "_TASKS", {n: registry._TASKS[n] for n in tasks.names()[:3]})
    del sys.modules["spirals"]


def test_the_example_is_short() -> None:
    (example,) = EXAMPLE
    assert len(example.splitlines()) < 60


def test_the_commands_run_it(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs as digital model, as direct and hardware-aware chips, and in a ladder.

    More times can be added, and nothing else is edited.
    """
    out = tmp_path / "run"
    words = [f"{file}:Spirals", "--engine", "native", "--chips", "2", "--out", str(out)]
    assert run.main([*words, "--times", "1s"]) == 0
    forget(monkeypatch)
    assert run.main([*words, "--times", "1y", "--resume"]) == 0
    rows = pd.read_csv(out / "results.csv")
    assert set(rows.model) == {"MLP 2-64-64-2"} and set(rows.dataset) == {"two spirals"}
    accuracy = rows[rows.metric == "accuracy"].groupby("phase").value
    assert accuracy.min()["digital"] > 0.99  # The task can be learned.
    assert 0.9 < accuracy.mean()["direct"] < accuracy.mean()["digital"]
    assert accuracy.min()["hwa"] > 0.95
    about = json.loads((out / "run.json").read_text())
    assert about["arguments"]["tasks"] == ["spirals"]
    assert about["studies"]["spirals"]["recipe"]["batch_size"] == 50
    assert (out / "figures" / "spirals.png").exists()

    forget(monkeypatch)
    words = [f"{file}:Spirals", "--checkpoint", f"spirals={out / 'work' / 'spirals' / 'digital'}"]
    words += ["--times", "1y", "--chips", "2", "--repeats", "2", "--subset", "20"]
    assert ladder.main([*words, "--out", str(tmp_path / "ladder")]) == 0
    steps = json.loads((tmp_path / "ladder" / "run.json").read_text())["studies"]["spirals"]
    assert steps["probe"] == {"samples": 16, "inputs": 128}
    assert steps["samples"] == 20

    words = [f"{file}:Spirals", "--epochs", "0.1", "--out", str(tmp_path / "digital")]
    assert digital.main(words) == 0
    assert json.loads((tmp_path / "digital" / "info.json").read_text())["task"] == "spirals"


def test_a_module_is_named_by_its_dotted_path(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(file.parent))
    assert ablation.main(["spirals:Spirals", "--list"]) == 0
    assert "no noise" in capsys.readouterr().out.splitlines()
    assert tasks.find("spirals") is tasks.find("spirals:Spirals") is tasks.find(f"{file}:Spirals")


def test_once_found_its_name_is_enough(file: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown task 'spirals'; one of wrn, bert, lstm, or"):
        tasks.find("spirals")
    word = f"{file}:Spirals"
    assert task_names([word, "wrn", "spirals"], "embedded") == ("spirals", "wrn")
    assert tasks.names() == ("wrn", "bert", "lstm", "spirals")
    assert tasks.names("real") == ("wrn", "bert", "lstm")
    assert task_names([], "embedded") == tasks.names()
    task = tasks.get("spirals", width=8)
    assert (task.model_name, task.options) == ("MLP 2-8-8-2", {"width": 8})
    assert task.command(tmp_path) == (
        f"python -m benchmarks.digital {word} --profile embedded -o width=8 --out {tmp_path}"
    )
    with pytest.raises(UsageError, match="task 'spirals' has no profile 'paper'; it has embedded"):
        tasks.get("spirals", "paper")
    with pytest.raises(UsageError, match="unknown option 'depth' for task 'spirals'; one of width"):
        tasks.get("spirals", depth=3)


def test_worker_processes_can_import_it(file: Path) -> None:
    """Joblib's workers get the class by its module's name.

    They also get the parent's `sys.path`.
    """
    task = tasks.find(f"{file}:Spirals")
    assert pickle.loads(pickle.dumps(task)) is task
    assert sys.path[-1] == str(file.parent)


def test_a_class_is_registered_in_code() -> None:
    @tasks.register
    class Coin(Task):
        """A task to guess a coin from nothing."""

        name, model_name, dataset, recipe, plans = "coin", "one line", "coins", "wrn16", PLANS
        n_classes = 2
        digital = DigitalRecipe(epochs=1, batch_size=2, learning_rate=0.1)
        inputs, labels = torch.eye(4), torch.tensor([0, 1, 1, 0])

        def build(self, seed, *, dropout=None):
            return torch.nn.Linear(4, 2)

        def train_loader(self, batch_size, seed):
            return [(self.inputs, self.labels)]

        def calibration_batches(self, n, batch_size=32):
            return [self.inputs]

        def count(self, split):
            return 4

        def batches(self, split, subset=None):
            yield self.inputs[:subset], self.labels[:subset]

    assert tasks.register(Coin) is Coin  # A notebook's cell may run twice.
    task = tasks.get("coin")
    assert isinstance(task, Coin) and task.profile == "embedded"
    assert task.command(Path("x")).startswith("python -m benchmarks.digital coin ")
    model = task.build(0)
    model.load_state_dict(
        {"weight": torch.tensor([[1.0, 0, 0, 0], [0, 1, 1, 1]]), "bias": torch.zeros(2)}
    )
    assert task.evaluate(model)["accuracy"] == 0.75
    assert task.skeleton().weight.shape == (2, 4)
    with pytest.raises(UsageError, match="unknown option 'x' for task 'coin'; it has no options"):
        tasks.get("coin", x=1)


def test_a_task_is_given_the_data_folder_that_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The variable names it where no option does; the command for others repeats the option."""
    folders = []

    class Filed(Nothing):
        name, model_name, dataset, n_classes = "filed", "none", "files", 2
        digital = DigitalRecipe(epochs=1, batch_size=2, learning_rate=0.1)
        build = train_loader = calibration_batches = count = batches = None  # type: ignore[assignment]

        def __init__(self, profile, folder):
            folders.append(folder)

    tasks.register(Filed)
    monkeypatch.delenv("AIMC_BRIDGE_DATA", raising=False)
    tasks.get("filed")
    monkeypatch.setenv("AIMC_BRIDGE_DATA", str(tmp_path))
    assert "--data-dir" not in tasks.get("filed").command(Path("x"))
    assert f"--data-dir {tmp_path / 'mine'}" in tasks.get(
        "filed", data_dir=tmp_path / "mine"
    ).command(Path("x"))
    assert folders == [None, tmp_path, tmp_path / "mine"]


class Nothing(Task):
    """A task with a name, a recipe and a plan, and no method."""

    name, recipe, plans = "nothing", "wrn16", PLANS


@pytest.mark.parametrize(
    ("attributes", "complaint"),
    [
        ({"name": ""}, "name=''; allowed: letters, digits, '-' and '_'"),
        ({"name": "my task"}, "name='my task'; allowed: letters"),
        ({"recipe": ""}, "Mine has no recipe; name one of the preset's"),
        ({"plans": {}}, "Mine has no plans; give it one"),
        ({"metric": "f1"}, "metric='f1'; one of accuracy, perplexity"),
        (
            {"name": "wrn"},
            "'wrn' is that of benchmarks.tasks.wrn:WideResNetTask; give yours",
        ),
    ],
)
def test_a_class_that_is_no_task_is_refused(attributes, complaint) -> None:
    before = tasks.names()
    with pytest.raises(UsageError, match=complaint):
        tasks.register(type("Mine", (Nothing,), attributes))
    assert tasks.names() == before
    with pytest.raises(UsageError, match="is no task: a task is a subclass of benchmarks.tasks.T"):
        tasks.register(dict)


def test_a_task_says_what_it_lacks() -> None:
    tasks.register(Nothing)
    with pytest.raises(UsageError, match="its class Nothing lacks batches, build, calibration_b"):
        tasks.get("nothing")

    class Nameless(Nothing):
        name = "nameless"
        build = train_loader = calibration_batches = count = batches = None  # type: ignore[assignment]

    tasks.register(Nameless)
    with pytest.raises(UsageError, match="does not set model_name, dataset, n_classes, digital"):
        tasks.get("nameless")


@pytest.mark.parametrize(
    ("word", "complaint"),
    [
        ("nowhere.py:Spirals", "task 'nowhere.py:Spirals': no file nowhere.py"),
        (
            "no.module:Spirals",
            r"no.module cannot be imported \(ModuleNotFoundError: No module named",
        ),
        (
            ":Spirals",
            "unknown task ':Spirals'; one of wrn, bert, lstm, or one of your own",
        ),
        ("{folder}/broken.py:Spirals", r"broken.py cannot be imported \(ZeroDivisionError: "),
        ("{folder}/spirals.py:Spiral", "spirals.py has no task 'Spiral'; its tasks: Spirals"),
        ("{folder}/spirals.py:spirals", "has no task 'spirals'; its tasks: Spirals"),
        ("{folder}/json.py:Spirals", "'json' is the module .*; give the file another name"),
        ("json:Spirals", "task 'json:Spirals': json has no task 'Spirals'; it has none"),
    ],
)
def test_a_word_that_names_no_task_says_why(
    word: str, complaint: str, file: Path, tmp_path: Path
) -> None:
    shutil.copy(file, tmp_path)
    (tmp_path / "broken.py").write_text("1 / 0\n")
    (tmp_path / "json.py").write_text("")
    with pytest.raises(UsageError, match=complaint) as caught:
        tasks.find(word.format(folder=tmp_path))
    assert "\n" not in str(caught.value)


def test_a_task_of_the_project_is_found_by_its_file(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no list of tasks.

    One more file in the folder is one more task.
    """
    for name in ("wrn", "bert", "lstm"):
        assert tasks.find(name).__module__ == f"benchmarks.tasks.{name}"
        assert (ROOT / "benchmarks" / "tasks" / f"{name}.py").exists()
    monkeypatch.setattr(tasks, "__path__", [*tasks.__path__, str(file.parent)])
    registry._load_built_in.cache_clear()
    try:
        assert tasks.names() == ("wrn", "bert", "lstm", "spirals")
        assert tasks.find("spirals").__module__ == "benchmarks.tasks.spirals"
        assert (
            tasks.get("spirals")
            .command(Path("x"))
            .startswith("python -m benchmarks.digital spirals ")
        )
    finally:
        del sys.modules["benchmarks.tasks.spirals"], tasks.spirals  # type: ignore[attr-defined]
