"""Texts: SST-2, WikiText-2, and the English of Python's own help topics."""

import re
from collections.abc import Iterable
from pathlib import Path

import torch

from aimc_bridge.errors import DataError
from benchmarks.tasks.data import DATA_VARIABLE, DataSet, cache_dir, cannot_download, check_digest

SST2 = DataSet("SST-2", (("SST-2/train.tsv", "SST-2/dev.tsv"), ("train.tsv", "dev.tsv")))
_WIKI = tuple(f"wiki.{split}.tokens" for split in ("train", "valid", "test"))
WIKITEXT2 = DataSet("WikiText-2", (tuple(f"wikitext-2/{name}" for name in _WIKI), _WIKI))
_PTB_MD5 = {
    "ptb.train.txt": "f26c4b92c5fdc7b3f8c7cdcb991d8420",
    "ptb.valid.txt": "aa0affc06ff7c36e977d7cd49e3839bf",
    "ptb.test.txt": "8b80168b89c18661a38ef683c0dc3721",
}
PTB = DataSet("Penn Treebank", (tuple(f"ptb/{name}" for name in _PTB_MD5), tuple(_PTB_MD5)))


def read_text(path: Path) -> str:
    """A UTF-8 file as text; DataError where it is not one."""
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is damaged or cut short: not UTF-8 at byte {error.start}"
        ) from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})") from None


Sentences = tuple[list[str], list[int]]


def read_tsv(path: Path) -> Sentences:
    """Sentences and 0/1 labels of a GLUE SST-2 file.

    Raises:  DataError naming file and line where the file is not of that form or is cut short.
    """
    lines = read_text(path).split("\n")
    if lines[0].split("\t")[:2] != ["sentence", "label"]:
        raise DataError(
            f"{path} line 1: expected the header sentence<TAB>label, got {lines[0][:60]!r}"
        )
    if lines[-1]:
        raise DataError(f"{path} line {len(lines)}: cut short (no line end); copy the file again")
    texts, labels = [], []
    for number, line in enumerate(lines[1:-1], start=2):
        fields = line.split("\t")
        if len(fields) != 2 or fields[1] not in ("0", "1") or not fields[0].strip():
            raise DataError(
                f"{path} line {number}: expected sentence<TAB>0 or 1, got {line[:60]!r}"
            )
        texts.append(fields[0].strip())
        labels.append(int(fields[1]))
    if not texts:
        raise DataError(f"{path} holds no sentences")
    return texts, labels


def sst2(folder: Path | None) -> dict[str, Sentences]:
    """SST-2's "train" and "dev" (872 sentences), from GLUE TSV files or the hub."""
    if folder is not None:
        paths = SST2.find(folder)
        return {split: read_tsv(path) for split, path in zip(("train", "dev"), paths, strict=True)}
    try:
        import datasets

        loaded = datasets.load_dataset("nyu-mll/glue", "sst2", cache_dir=str(cache_dir() / "hub"))
    except Exception as error:  # noqa: BLE001 (every layer below has its own kind of "no network")
        raise cannot_download("SST-2", error) from None
    return {
        split: ([text.strip() for text in loaded[key]["sentence"]], list(loaded[key]["label"]))
        for split, key in (("train", "train"), ("dev", "validation"))
    }


def held_out(
    texts: list[str], most: int, generator: torch.Generator
) -> tuple[list[int], list[int]]:
    """(rows for training, rows for validation): whole sentences are held out, a tenth of them and
    `most` at most, and what stands in one of them is not trained on.

    SST-2's train lists sentences and the phrases they are made of: rows drawn by chance would be
    parts of what is trained on.
    """
    rows = [" ".join(text.split()) for text in texts]
    parts: set[str] = set()
    whole = []
    for index in sorted(range(len(rows)), key=lambda i: (-rows[i].count(" "), i)):
        if rows[index] not in parts:
            whole.append(index)
            parts |= phrases(rows[index])
    order = torch.randperm(len(whole), generator=generator).tolist()
    held = [whole[i] for i in order[: min(most, max(1, len(whole) // 10))]]
    held_phrases: set[str] = set().union(*(phrases(rows[i]) for i in held))
    return [i for i, row in enumerate(rows) if row not in held_phrases], held


def phrases(text: str) -> set[str]:
    """Every run of words of a text, the whole among them."""
    tokens = text.split()
    stops = range(1, len(tokens) + 1)
    return {" ".join(tokens[start:stop]) for stop in stops for start in range(stop)}


def wikitext2(folder: Path | None) -> dict[str, list[str]]:
    """WikiText-2's words by split ("train", "validation", "test"), `<eos>` after every line."""
    splits = ("train", "validation", "test")
    if folder is not None:
        paths = WIKITEXT2.find(folder)
        return {split: read_tokens(path) for split, path in zip(splits, paths, strict=True)}
    try:
        import datasets

        loaded = datasets.load_dataset(
            "Salesforce/wikitext", "wikitext-2-v1", cache_dir=str(cache_dir() / "hub")
        )
    except Exception as error:  # noqa: BLE001 (every layer below has its own kind of "no network")
        raise cannot_download("WikiText-2", error) from None
    return {split: words(lines(loaded[split]["text"])) for split in splits}


def penn_treebank(folder: Path | None) -> dict[str, list[str]]:
    """Read the words of Penn Treebank in its usual preprocessing, `<eos>` after every line.

    It has 10,000 words, `<unk>` and `N` for numbers among them.

    Args:
        folder: The data folder; this data set is not downloaded.

    Returns:
        The words by split: "train", "validation", "test".

    Raises:
        DataError: If a file is missing, damaged or another one than the published.
    """
    if folder is None:
        raise DataError(
            f"{PTB.name} cannot be downloaded; point --data-dir or {DATA_VARIABLE} at the folder "
            f"that holds {PTB.wanted}"
        )
    splits = {}
    for split, path in zip(("train", "validation", "test"), PTB.find(folder), strict=True):
        splits[split] = read_tokens(path)
        check_digest(path, path.read_bytes(), _PTB_MD5[path.name])
    return splits


def lines(rows: Iterable[str]) -> str:
    """The text of a token file from the hub's rows, whose empty lines have lost their line end."""
    return "".join(row if row.endswith("\n") else row + "\n" for row in rows)


def read_tokens(path: Path) -> list[str]:
    """The words of a token file, `<eos>` after every line; DataError where it is cut short."""
    text = read_text(path)
    if not text.strip():
        raise DataError(f"{path} holds no words")
    if not text.endswith("\n"):
        raise DataError(f"{path} is cut short (its last line has no end); copy the file again")
    return words(text)


def words(text: str) -> list[str]:
    """Words split at blanks, `<eos>` after every line."""
    return text.replace("\n", " <eos> ").split()


# --- Python's own help topics ---------------------------------------------------------------------

# chapters of Python's reference and the help topics that come from them; a topic that this Python's
# version does not have is left out
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
    """The English text of CPython's help system by topic (CPython 3.11: 79 topics, 465 kB)."""
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise DataError(
            "this Python has no pydoc_data.topics (some packagers leave it out); use CPython's own "
            "build, or --profile real with --data-dir"
        ) from None
    return dict(topics)


def paragraphs(text: str) -> list[str]:
    """The paragraphs of a topic on one line each, without headings."""
    blocks = re.split(r"\n\s*\n", text)
    heading = re.compile(r"[^\n]*\n\s*([*=\-^~])\1{2,}\s*")
    return [" ".join(block.split()) for block in blocks if not heading.fullmatch(block.strip())]


def tokens_of(text: str) -> list[str]:
    """Lower-case words, numbers and single signs."""
    return TOKEN.findall(text.lower())


def help_sentences() -> tuple[list[list[str]], list[int]]:
    """Sentences of the help topics as tokens, and which chapter of CHAPTERS each is from.

    No sentence comes twice, and none that stands in two chapters.
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
        # six tokens or more, mostly words: no code, no grammar rules, no table rows
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
    """The help topics as running text, `<eos>` after every paragraph, in three disjoint splits.

    Paragraphs come once, in their order; of every ten blocks of 20, one is for validation, one for
    test.
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
