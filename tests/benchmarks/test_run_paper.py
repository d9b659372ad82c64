"""The papers' profile end to end, on a few generated files in the real formats."""

from __future__ import annotations

import hashlib
import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from benchmarks import run, tasks
from benchmarks.studies.phases import PHASES
from benchmarks.tasks import data, glue, images, text
from tests.benchmarks.tasks.test_bert import small_encoder
from tests.benchmarks.test_run_options import rows_of

pytestmark = pytest.mark.usefixtures("no_data")


def cifar100_files(folder: Path, monkeypatch) -> None:
    """Write a CIFAR-100 of few images in the official form.

    Its checksums replace the official ones.
    """
    from torchvision import datasets

    base = folder / datasets.CIFAR100.base_folder
    base.mkdir(parents=True)
    numbers = np.random.default_rng(0)

    def put(name: str, content: dict) -> str:
        blob = pickle.dumps(content)
        (base / name).write_bytes(blob)
        return hashlib.md5(blob).hexdigest()

    for part, name, n in (("train_list", "train", 200), ("test_list", "test", 100)):
        labels = [index % 100 for index in range(n)]
        pixels = numbers.integers(0, 256, (n, 3072), dtype=np.uint8)
        md5 = put(name, {"data": pixels, "fine_labels": labels, "filenames": [""] * n})
        monkeypatch.setattr(datasets.CIFAR100, part, [[name, md5]])
    meta = datasets.CIFAR100.meta
    md5 = put(meta["filename"], {meta["key"]: [f"class {index}" for index in range(100)]})
    monkeypatch.setattr(datasets.CIFAR100, "meta", {**meta, "md5": md5})


def sst2_files(folder: Path) -> None:
    rows = "".join(f"a {'good' if i % 2 else 'bad'} film {i}\t{i % 2}\n" for i in range(80))
    (folder / "SST-2").mkdir(parents=True)
    for name in ("train.tsv", "dev.tsv"):
        (folder / "SST-2" / name).write_text("sentence\tlabel\n" + rows)


def wikitext_files(folder: Path, monkeypatch) -> None:
    """Write a WikiText-2 of few words, with digests of its own."""
    digests = {}
    for split, name, lines in zip(
        text.SPLITS, text.WIKITEXT2.choices[0], (600, 60, 60), strict=True
    ):
        content = "".join(f" w{i % 7} w{i % 5} w{i % 3} . \n" for i in range(lines))
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
        digests[split] = hashlib.sha1(content.encode()).hexdigest()
    monkeypatch.setitem(text.DIGESTS, "WikiText-2", digests)


def cifar10_files(folder: Path, monkeypatch) -> None:
    """Write a CIFAR-10 of few images in its binary form, with checksums of its own."""
    numbers = np.random.default_rng(0)
    binary = {}
    for split, files in images.BINARY[10].items():
        binary[split] = ()
        for records in files:
            pixels = numbers.integers(0, 256, (50, 3072), dtype=np.uint8)
            labels = (np.arange(50, dtype=np.uint8) % 10)[:, None]
            blob = np.concatenate([labels, pixels], 1).tobytes()
            (folder / records.name).parent.mkdir(parents=True, exist_ok=True)
            (folder / records.name).write_bytes(blob)
            digest = hashlib.md5(blob).hexdigest()
            binary[split] += (images.Records(records.name, 50, digest),)
    monkeypatch.setitem(images.BINARY, 10, binary)


PAPER = {
    "resnet32": ("CIFAR-10", [], "resnet32", {"batch_size": 50, "ramp_batches": 20_000}),
    "wrn": ("CIFAR-100", ["-o", "width=1"], "wrn16", {"batch_size": 25, "epochs": 80}),
    "bert": ("SST-2", [], "bert_glue", {"batch_size": 5, "noise_scale": 3.0}),
    "lstm": ("WikiText-2", ["-o", "size=tiny"], "lstm", {"noise_scale": 5.0, "epochs": 60}),
}


@pytest.mark.parametrize("name", tasks.names("paper"))
def test_the_papers_profile_end_to_end_on_a_little_data(name, tmp_path, monkeypatch) -> None:
    """One command goes from real file formats to A*.

    It uses the paper's recipe and few of its batches.
    """
    monkeypatch.setenv(data.CACHE_VARIABLE, str(tmp_path / "cache"))
    folder = tmp_path / "data"
    dataset, options, recipe, fields = PAPER[name]
    if name == "wrn":
        cifar100_files(folder, monkeypatch)
    elif name == "resnet32":
        cifar10_files(folder, monkeypatch)
    elif name == "bert":
        sst2_files(folder)
        monkeypatch.setitem(glue.ROWS, "SST-2", {"train": 80, "dev": 80})
        monkeypatch.setitem(glue.DIGESTS, "SST-2", {})
        options = ["-o", f"encoder={small_encoder(tmp_path / 'encoder')}"]
    else:
        wikitext_files(folder, monkeypatch)
    out = tmp_path / "out"
    words = [
        *(name, "--profile", "paper", "--data-dir", str(folder), *options),
        *("--engine", "native", "--chips", "1", "--subset", "40", "--times", "1s", "1y"),
        *("--digital-epochs", "1", "--hwa-batches", "2", "--phases", *PHASES),
    ]
    # An untrained model is no better than a guess: A* is undefined, and the page says so.
    assert run.main([*words, "--threads", "1", "--out", str(out)]) == 0
    rows = rows_of(out)
    assert set(rows.phase) == {"digital", *PHASES}
    assert rows.dataset.str.startswith(dataset).all()
    assert rows.value.notna().all()
    facts = json.loads((out / "run.json").read_text())["studies"][name]
    assert facts["recipe"]["name"] == f"rasch2023/{recipe}"
    assert {key: facts["recipe"][key] for key in fields} == fields
    assert facts["digital"]["epochs"] == 1.0
