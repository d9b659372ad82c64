"""Texts: the published words are read, other ones are named; Python's own help topics."""

from __future__ import annotations

import hashlib
import warnings
from collections import Counter
from pathlib import Path

import pytest

from aimc_bridge.errors import DataError, UsageError
from benchmarks import tasks
from benchmarks.tasks import data, glue, text
from tests.benchmarks.tasks.test_data import written


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv(data.CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.delenv(data.DATA_VARIABLE, raising=False)


def token_files(folder: Path, monkeypatch, data_set: data.DataSet) -> Path:
    """Write a WikiText-2 or Penn Treebank of few words; its digests replace the published ones."""
    digests = {}
    for split, part, name in zip(
        text.SPLITS, ("train", "valid", "test"), data_set.choices[0], strict=True
    ):
        content = f" \n = {part} = \n a <unk> . \n" * 40
        written(folder / name, content)
        digests[split] = hashlib.sha1(content.encode()).hexdigest()
    monkeypatch.setitem(text.DIGESTS, data_set.name, digests)
    return folder


TOKEN_FILES = pytest.mark.parametrize(
    ("data_set", "read"),
    [(text.WIKITEXT2, text.wikitext2), (text.PTB, text.penn_treebank)],
    ids=["WikiText-2", "Penn Treebank"],
)


def test_token_files_have_an_end_of_sentence_a_line(tmp_path, monkeypatch) -> None:
    words = text.wikitext2(token_files(tmp_path, monkeypatch, text.WIKITEXT2))
    end = "<eos>"
    assert words["validation"] == [end, "=", "valid", "=", end, "a", "<unk>", ".", end] * 40
    assert list(words) == ["train", "validation", "test"]


@TOKEN_FILES
@pytest.mark.parametrize("number", [0, 1, 2])
def test_another_text_under_the_name_of_a_token_file_is_refused(
    tmp_path, monkeypatch, data_set, read, number
) -> None:
    """Another split, a cut or longer text, one other word, and lines in another order."""
    token_files(tmp_path, monkeypatch, data_set)
    paths = [tmp_path / name for name in data_set.choices[0]]
    path, whole = paths[number], paths[number].read_text()
    first, second, *rest = whole.splitlines(keepends=True)
    for content in (
        paths[number - 1].read_text(),
        "".join([first, second, *rest[:-1]]),
        whole + " \n",
        whole.replace("<unk>", "word", 1),
        "".join([second, first, *rest]),
    ):
        written(path, content)
        with pytest.raises(DataError, match=f"{path.name} is .* the SHA1 of its words with one"):
            read(tmp_path)
    written(path, whole)
    assert len(read(tmp_path)["train"]) == 9 * 40


@TOKEN_FILES
def test_token_files_saved_on_windows_or_without_outer_blanks_are_read(
    tmp_path, monkeypatch, data_set, read
) -> None:
    expected = read(token_files(tmp_path, monkeypatch, data_set))
    for name in data_set.choices[0]:
        path = tmp_path / name
        whole = path.read_bytes()
        path.write_bytes(b"\xef\xbb\xbf" + whole.replace(b"\n", b"\r\n"))
        assert read(tmp_path) == expected
        path.write_bytes(b"".join(line.strip() + b"\n" for line in whole.splitlines()))
        assert read(tmp_path) == expected


def test_a_known_copy_of_wikitext2_in_another_order_is_read_with_a_warning(
    tmp_path, monkeypatch
) -> None:
    token_files(tmp_path, monkeypatch, text.WIKITEXT2)
    path = tmp_path / "wikitext-2" / "wiki.train.tokens"
    lines = path.read_text().split("\n")
    other = "\n".join([*lines[1:3], lines[0], *lines[3:]])
    known = hashlib.sha1(other.encode()).hexdigest()
    monkeypatch.setitem(text.COPIES, "WikiText-2", {"train": known})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        text.wikitext2(tmp_path)
    written(path, other.replace("\n", "\r\n"))
    with pytest.warns(UserWarning, match="train.tokens has the articles of .* in another order"):
        assert len(text.wikitext2(tmp_path)["train"]) == 9 * 40
    written(path, "\n".join([*reversed(lines[:-1]), ""]))
    with pytest.raises(DataError, match="train.tokens is damaged or another file"):
        text.wikitext2(tmp_path)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [("", "holds no words"), (" \n \n", "holds no words"), ("a b\nc", "cut short")],
)
def test_a_damaged_token_file_is_named(tmp_path, content, complaint) -> None:
    path = written(tmp_path / "wiki.train.tokens", content)
    with pytest.raises(DataError, match=complaint) as caught:
        text.read_tokens(path)
    assert str(path) in str(caught.value)


def test_a_text_that_cannot_be_read_is_named(tmp_path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        text.read_text(tmp_path)  # This is a folder.


def test_texts_from_the_hub_are_those_of_the_files(tmp_path, monkeypatch) -> None:
    """The hub drops the line end of empty lines and keeps blanks around sentences."""
    import datasets

    tokens = " \n = A = \n \n b c \n"
    rows = ["", " = A = \n", "", " b c \n"]
    digest = hashlib.sha1(tokens.encode()).hexdigest()
    monkeypatch.setitem(text.DIGESTS, "WikiText-2", dict.fromkeys(text.SPLITS, digest))
    hub = {
        "Salesforce/wikitext": dict.fromkeys(("train", "validation", "test"), {"text": rows}),
        "nyu-mll/glue": {
            "train": {"sentence": ["good "], "label": [1]},
            "validation": {"sentence": ["bad "], "label": [0]},
        },
    }
    monkeypatch.setattr(datasets, "load_dataset", lambda name, *_, **__: hub[name])
    path = written(tmp_path / "wiki.train.tokens", tokens)
    assert text.wikitext2(None)["train"] == text.read_tokens(path)
    assert glue.sst2(None) == {"train": (["good"], [1]), "dev": (["bad"], [0])}
    rows[3] = " b d \n"
    with pytest.raises(DataError, match="the hub's WikiText-2, train, is damaged or another file"):
        text.wikitext2(None)


def test_penn_treebank(tmp_path, monkeypatch) -> None:
    token_files(tmp_path, monkeypatch, text.PTB)
    written(tmp_path / "ptb" / "ptb.test.txt", " a b \n c")
    with pytest.raises(DataError, match="ptb.test.txt is cut short"):
        text.penn_treebank(tmp_path)
    with pytest.raises(
        DataError, match="Penn Treebank cannot be downloaded; point --data-dir .*ptb/"
    ):
        text.penn_treebank(None)


def test_a_language_model_on_penn_treebank(tmp_path, monkeypatch) -> None:
    folder = token_files(tmp_path, monkeypatch, text.PTB)
    task = tasks.get("lstm", "paper", folder, dataset="ptb", size="tiny")
    assert (task.dataset, task.options) == ("Penn Treebank", {"dataset": "ptb", "size": "tiny"})
    assert task.n_classes == 6  # The classes are <eos> = train a <unk> and the full stop.
    assert task.evaluate(task.build(0))["perplexity"] > 1
    with pytest.raises(UsageError, match="option dataset='wiki'; allowed: wikitext2, ptb"):
        tasks.get("lstm", "real", tmp_path, dataset="wiki")
    with pytest.raises(UsageError, match="option dataset='ptb'; allowed: none with the embedded"):
        tasks.get("lstm", dataset="ptb")


def test_help_text_has_three_splits_without_a_common_paragraph() -> None:
    splits = text.help_text()
    parts = {name: set(" ".join(words).split(" <eos>")) for name, words in splits.items()}
    total = sum(map(len, splits.values()))
    assert total > 50_000
    for name, share in (("train", 0.8), ("validation", 0.1), ("test", 0.1)):
        assert len(splits[name]) / total == pytest.approx(share, abs=0.05)
    # Paragraphs that differ only in case or blanks may come twice, long ones hardly ever.
    shared = {p for p in parts["train"] & parts["test"] if len(p.split()) > 12}
    assert len(shared) < 0.01 * len(parts["test"])


def test_help_sentences_come_once_and_from_every_chapter() -> None:
    sentences, labels = text.help_sentences()
    assert len(set(map(tuple, sentences))) == len(sentences) > 1500
    counts = Counter(labels)
    assert sorted(counts) == list(range(len(text.CHAPTERS)))
    # Guessing the most frequent word is far from right.
    assert max(counts.values()) < 0.5 * len(labels)


def test_a_python_without_help_topics_says_so(monkeypatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(DataError, match="pydoc_data.topics"):
        text.help_topics()


@pytest.mark.filterwarnings("ignore:.*articles of WikiText-2 in another order")
def test_real_wikitext2(real_data) -> None:
    texts = text.wikitext2(real_data)
    assert {split: len(words) for split, words in texts.items()} == {
        "train": 2_088_628,
        "validation": 217_646,
        "test": 245_569,
    }
    assert len(set(texts["train"])) == 33_278
    assert set(texts["test"]) <= set(texts["train"])


def test_real_penn_treebank(real_data) -> None:
    if not text.PTB.whole(real_data):
        pytest.skip("no Penn Treebank")
    texts = text.penn_treebank(real_data)
    counts = {split: len(words) for split, words in texts.items()}
    assert counts == {"train": 929_589, "validation": 73_760, "test": 82_430}
    assert len(set(texts["train"])) == 10_000
    assert set(texts["test"]) | set(texts["validation"]) <= set(texts["train"])
