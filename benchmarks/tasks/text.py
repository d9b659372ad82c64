"""Texts: WikiText-2, Penn Treebank, and Python's own help topics."""

import hashlib
import re
import warnings
from collections.abc import Iterable
from pathlib import Path

from aimc_bridge.errors import DataError, UsageError
from aimc_bridge.files import MOST_BYTES, read_bytes
from benchmarks.tasks.data import DATA_VARIABLE, DataSet, cache_dir, cannot_download, check_digest

SPLITS = ("train", "validation", "test")
_WIKI = tuple(f"wiki.{split}.tokens" for split in ("train", "valid", "test"))
WIKITEXT2 = DataSet("WikiText-2", (tuple(f"wikitext-2/{name}" for name in _WIKI), _WIKI))
_PTB = tuple(f"ptb.{split}.txt" for split in ("train", "valid", "test"))
PTB = DataSet("Penn Treebank", (tuple(f"ptb/{name}" for name in _PTB), _PTB))

DIGESTS = {
    "WikiText-2": {  # as in mxnet.gluon.contrib.data.text
        "train": "863f29c46ef9d167fff4940ec821195882fe29d1",
        "validation": "0418625c8b4da6e4b5c7a0b9e78d4ae8f7ee5422",
        "test": "c7b8ce0aa086fb34dab808c5c49224211eb2b172",
    },
    "Penn Treebank": {  # as in torchtext.datasets
        "train": "f26c4b92c5fdc7b3f8c7cdcb991d8420",
        "validation": "aa0affc06ff7c36e977d7cd49e3839bf",
        "test": "8b80168b89c18661a38ef683c0dc3721",
    },
}
"""Published SHA-1 (WikiText-2) or MD5 (Penn Treebank) of the token files, by data set and split."""
COPIES = {"WikiText-2": {"train": "44fc1ccaf5b5a2bac983307bc13b447673bd1921"}}
"""SHA-1 of files that differ from the published ones, but are accepted with a warning.

WikiText-2's has the articles of train in another order. Its numbers of bytes, lines, words and
different words are the published ones. Committed records of the LSTM were made with it.
"""

MOST_TEXT = 2**31
"""The largest file of a text: 2 GiB, four times WikiText-103."""


def read_text(path: Path, most: int = MOST_BYTES) -> str:
    """Read a UTF-8 file.

    Args:
        path: The file.
        most: The largest number of bytes allowed.

    Raises:
        DataError: If it cannot be read, is too large, is not UTF-8 or holds a zero byte.
    """
    try:
        text = read_bytes(path, most).decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is damaged or cut short: not UTF-8 at byte {error.start}"
        ) from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})") from None
    except UsageError as error:  # a name that is not UTF-8
        raise DataError(str(error)) from None
    if (at := text.find("\0")) >= 0:
        line = text.count("\n", 0, at) + 1
        raise DataError(f"{path} line {line}: a zero byte, so it is no text; copy the file again")
    return text


def wikitext2(folder: Path | None) -> dict[str, list[str]]:
    """Read the words of WikiText-2, with `<eos>` after every line.

    Args:
        folder: The data folder; None downloads.

    Returns:
        The words by split: "train", "validation", "test".

    Raises:
        DataError: If the files are missing, damaged or not the published ones, or cannot be
            downloaded.
    """
    if folder is not None:
        return read_splits(WIKITEXT2, folder)
    try:
        import datasets

        loaded = datasets.load_dataset(
            "Salesforce/wikitext",
            "wikitext-2-v1",
            cache_dir=str(cache_dir() / "hub"),
            trust_remote_code=False,
        )
    except Exception as error:  # noqa: BLE001 (every layer below has its own kind of "no network")
        raise cannot_download("WikiText-2", error) from None
    splits = {}
    for split in SPLITS:
        rows = list(loaded[split]["text"])
        if not all(isinstance(row, str) for row in rows):
            raise DataError("the hub's WikiText-2 holds rows that are no texts")
        splits[split] = words(lines(rows))
        check_words(WIKITEXT2, split, splits[split], f"the hub's WikiText-2, {split},")
    return splits


def penn_treebank(folder: Path | None) -> dict[str, list[str]]:
    """Read the words of Penn Treebank, with `<eos>` after every line.

    This is its usual preprocessing: 10,000 different words, with `<unk>` among them, and `N` for
    numbers.

    Args:
        folder: The data folder; this data set is not downloaded.

    Returns:
        The words by split: "train", "validation", "test".

    Raises:
        DataError: If a file is missing, damaged or not the published one.
    """
    if folder is None:
        raise DataError(
            f"{PTB.name} cannot be downloaded; point --data-dir or {DATA_VARIABLE} at the folder "
            f"that holds {PTB.wanted}"
        )
    return read_splits(PTB, folder)


def read_splits(data_set: DataSet, folder: Path) -> dict[str, list[str]]:
    """Read the token files of a data set, and check that they are the published ones.

    Args:
        data_set: WIKITEXT2 or PTB.
        folder: The data folder.

    Returns:
        The words by split: "train", "validation", "test".

    Raises:
        DataError: If a file is missing, damaged or not the published one.
    """
    splits = {}
    for split, path in zip(SPLITS, data_set.find(folder), strict=True):
        splits[split] = read_tokens(path)
        check_words(data_set, split, splits[split], path)
    return splits


def check_words(data_set: DataSet, split: str, tokens: list[str], place: Path | str) -> None:
    """Check that the words of a split are the published ones.

    Line ends, a byte order mark and the number of blanks between words do not matter.

    Args:
        data_set: WIKITEXT2 or PTB.
        split: "train", "validation" or "test".
        tokens: The words, with `<eos>` after every line.
        place: Where they come from, for the error.

    Raises:
        DataError: If they are others.
    """
    # the published files begin and end each line with a blank
    text = f" {' '.join(tokens)} ".replace("<eos> ", "\n ").removesuffix(" ")
    content = text.encode()
    copy = COPIES.get(data_set.name, {}).get(split)
    if hashlib.sha1(content, usedforsecurity=False).hexdigest() != copy:
        of = "its words with one blank between them"
        check_digest(place, content, DIGESTS[data_set.name][split], of)
        return
    warnings.warn(
        f"{place} has the articles of {data_set.name} in another order than the published file; "
        "results can differ a little",
        UserWarning,
        stacklevel=2,
    )


def lines(rows: Iterable[str]) -> str:
    """Join the rows that the hub has of a token file to its text.

    The hub's empty lines have lost their line end; it is added again.

    Args:
        rows: The rows.
    """
    return "".join(row if row.endswith("\n") else row + "\n" for row in rows)


def read_tokens(path: Path) -> list[str]:
    """Read the words of a token file, with `<eos>` after every line.

    A byte order mark and the line ends of Windows are no part of them.

    Args:
        path: The file.

    Raises:
        DataError: If the file holds no words, or is cut short.
    """
    text = read_text(path, MOST_TEXT).removeprefix("\ufeff")
    if not text.strip():
        raise DataError(f"{path} holds no words")
    if not text.endswith("\n"):
        raise DataError(f"{path} is cut short (its last line has no end); copy the file again")
    return words(text)


def words(text: str) -> list[str]:
    """Split a text at blanks, with `<eos>` after every line.

    Args:
        text: The text.
    """
    return text.replace("\n", " <eos> ").split()


# --- Python's own help topics ---------------------------------------------------------------------

# chapters of Python's reference, and the help topics that come from each; a topic that this version
# of Python does not have is left out
CHAPTERS = {
    "statements": (
        *("assert", "assignment", "async", "augassign", "break", "class", "compound", "continue"),
        *("del", "else", "for", "function", "global", "if", "import", "nonlocal", "pass", "raise"),
        *("return", "try", "while", "with"),
    ),
    "data model": (
        *("attribute-access", "bltin-code-objects", "callable-types", "context-managers"),
        *("customization", "numeric-types", "objects", "sequence-types", "specialattrs"),
        *("specialnames", "types", "typesfunctions", "typesmethods", "typesmodules"),
    ),
    "expressions": (
        *("atom-identifiers", "atom-literals", "attribute-references", "await", "binary"),
        *("bitwise", "booleans", "calls", "comparisons", "conversions", "dict", "exprlists"),
        *("in", "lambda", "lists", "operator-summary", "power", "shifting", "slicings"),
        *("subscriptions", "unary", "yield"),
    ),
    "library": (
        *("debugger", "formatstrings", "string-methods", "truth", "typesmapping", "typesseq"),
        "typesseq-mutable",
    ),
}
TOKEN = re.compile(r"[a-z]+|[0-9]+|[^\sa-z0-9]")


def help_topics() -> dict[str, str]:
    """Return the English text of CPython's help system by topic.

    CPython 3.11 has 79 topics, 465 kB.

    Raises:
        DataError: If this Python comes without them.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise DataError(
            "this Python has no pydoc_data.topics (some packagers leave it out); use CPython's own "
            "build, or --profile real with --data-dir"
        ) from None
    return dict(topics)


def paragraphs(text: str) -> list[str]:
    """Return the paragraphs of a topic, each on one line, without headings.

    Args:
        text: The topic.
    """
    blocks = re.split(r"\n\s*\n", text)
    heading = re.compile(r"[^\n]*\n\s*([*=\-^~])\1{2,}\s*")
    return [" ".join(block.split()) for block in blocks if not heading.fullmatch(block.strip())]


def tokens_of(text: str) -> list[str]:
    """Return the lower-case words, the numbers and the single signs of a text.

    Args:
        text: The text.
    """
    return TOKEN.findall(text.lower())


def help_sentences() -> tuple[list[list[str]], list[int]]:
    """Return the sentences of the help topics, and the chapter that each is from.

    No sentence comes twice, and sentences that stand in two chapters are left out.

    Returns:
        The tokens of each sentence, and the index of its chapter in CHAPTERS.
    """
    topics = help_topics()
    chapters_of: dict[str, set[int]] = {}
    for chapter, names in enumerate(CHAPTERS.values()):
        for name in names:
            for paragraph in paragraphs(topics.get(name, "")):
                for sentence in re.split(r'(?<=[.!?])\s+(?=[A-Z"(])', paragraph):
                    chapters_of.setdefault(sentence, set()).add(chapter)
    texts, labels, seen = [], [], set()
    for sentence, chapters in chapters_of.items():
        tokens = tokens_of(sentence)
        words_only = sum(token.isalpha() for token in tokens)
        key = tuple(tokens)
        # six tokens or more, mostly words: this leaves out code, grammar rules and table rows
        if (
            len(chapters) == 1
            and len(tokens) >= 6
            and words_only > 0.6 * len(tokens)
            and key not in seen
        ):
            seen.add(key)
            texts.append(tokens)
            labels.append(chapters.pop())
    return texts, labels


def help_text() -> dict[str, list[str]]:
    """Return the help topics as running text in three splits that share no paragraph.

    Every paragraph comes once, in its order, with `<eos>` after it. Of every ten blocks of 20
    paragraphs, one is for validation and one for test.

    Returns:
        The tokens by split: "train", "validation", "test".
    """
    once = dict.fromkeys(
        paragraph for _, text in sorted(help_topics().items()) for paragraph in paragraphs(text)
    )
    splits: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    for number, paragraph in enumerate(once):
        block = number // 20 % 10
        split = "validation" if block == 4 else "test" if block == 9 else "train"
        splits[split] += [*tokens_of(paragraph), "<eos>"]
    return splits
