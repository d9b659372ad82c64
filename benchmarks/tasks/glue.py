"""Sentences of GLUE: SST-2, and the pairs of MRPC.

GLUE's server gives out `test.tsv` without labels. Of both data sets the labels are known, and files
that have them are read: what GLUE calls dev and test is then one set of test data. Validation data
are held out from train.
"""

import hashlib
import re
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from aimc_bridge.errors import DataError, shown
from benchmarks.tasks.data import DATA_VARIABLE, DataSet, cache_dir, cannot_download
from benchmarks.tasks.text import read_text

SST2 = DataSet("SST-2", (("SST-2/train.tsv", "SST-2/dev.tsv"), ("train.tsv", "dev.tsv")))
MRPC = DataSet("MRPC", (("MRPC/train.tsv", "MRPC/dev.tsv"),))
ROWS = {
    "SST-2": {"train": 67_349, "dev": 872, "test": 1_821},
    "MRPC": {"train": 3_668, "dev": 408, "test": 1_725},
}
"""Rows of the published files."""
DIGESTS: dict[str, dict[str, tuple[str, str]]] = {
    "SST-2": {
        "train": (
            "0c11e4511475dc290addb99fce8fa48481798820ea16af469e2f84f7577a8c0c",
            "ce9828fe9b03633e76a95e09b2a1448ab91092f927536db36596430b1e580cec",
        ),
        "dev": (
            "83f58fba7714c6d44be316fba427e1e78336ff2e2885993c37531c0efb619f62",
            "7987f6e34981992714e2971bde78c304664379249f2199a70c11a4fedcbb827e",
        ),
        "test": (
            "a5cc5eeaabdc88eaaeeb159e1c5e7bc2b0ab81dc4d5184148fe53d7459c317d2",
            "9f8eec0810b6554f44ff8a2bcfd2dd68c3708fe23ed9dcc1bfe7d5f011ba5527",
        ),
    },
    "MRPC": {
        "train": (
            "07cc868902e4e84ec212c8671a29b57291034145056b2cefcc69a63e392e56ae",
            "2287ec3ef0d8ad2d12926b040727b0a8f112d9ef7d456febf628a98f49ec9dc6",
        ),
        "dev": (
            "40f253fb6c9181dfcc6005cf83334c4d538dcb52fff02452578593ec04bf9b8d",
            "73b27c67292914e626e96a09952ca90eaead33fbe3af02e11280f5cab595e52a",
        ),
        "test": (
            "5955ff398fd6e27cdddbfc22ff49b9a3bef034f1f1fa47db9cd57a155763e4d2",
            "09dca1b5c2b1100164116d975e23104dde7852ae2215cffa788c71023a007209",
        ),
    },
}
"""SHA-256 of the published rows as they are, and of their letters; see `check_content`."""
NUMBER = re.compile("[0-9]+")
PAIR_COLUMNS = ["Quality", "#1 ID", "#2 ID", "#1 String", "#2 String"]

MOST_LETTERS = 10_000
"""The longest line that is read; the published files have at most a few hundred letters in one."""

Sentences = tuple[list[str], list[int]]
Pairs = tuple[list[str], list[str], list[int]]
"""First sentences, second sentences, and whether they mean the same (0 or 1)."""


def whole_lines(path: Path) -> list[str]:
    """Return the lines of a file; the first is the header.

    A byte order mark and the line ends of Windows are no part of them.

    Args:
        path: The file.

    Raises:
        DataError: If the file cannot be read, a line is longer than any sentence, or the last one
            has no end.
    """
    lines = read_text(path).removeprefix("\ufeff").replace("\r\n", "\n").split("\n")
    for number, line in enumerate(lines, start=1):
        if len(line) > MOST_LETTERS:
            raise DataError(
                f"{path} line {number}: {len(line):,} letters; allowed: up to {MOST_LETTERS:,}"
            )
    if lines[-1] and len(lines) > 1:
        raise DataError(f"{path} line {len(lines)}: cut short (no line end); copy the file again")
    return lines[:-1] or lines


def check_rows(data_set: DataSet, path: Path, rows: int) -> None:
    """Check that a file has as many rows as the published one.

    Args:
        data_set: SST2 or MRPC.
        path: The file: train.tsv, dev.tsv or test.tsv.
        rows: The rows that it has.

    Raises:
        DataError: If it has more or fewer.
    """
    published = ROWS[data_set.name][path.stem]
    if rows != published:
        raise DataError(
            f"{path} holds {rows:,} rows; expected {published:,}, those of the published "
            f"{data_set.name}; copy the file again"
        )


def check_content(data_set: DataSet, path: Path, *columns: Iterable[str | int]) -> None:
    """Check that the rows of a file are the published ones.

    Copies differ in quotation marks, brackets, letters with accents, and order: only a copy with
    other plain letters, digits or labels is refused.

    Args:
        data_set: SST2 or MRPC.
        path: The file: train.tsv, dev.tsv or test.tsv.
        *columns: The columns with what is read of it.

    Raises:
        DataError: If they are others.
    """
    if path.stem not in DIGESTS[data_set.name]:
        return
    exact, letters = DIGESTS[data_set.name][path.stem]
    found_exact, found_letters = digests(columns)
    if found_letters != letters:
        raise DataError(
            f"{path} is damaged or another file: its sentences or labels are not those of the "
            f"published {data_set.name}; copy the file again"
        )
    if found_exact != exact:
        warnings.warn(
            f"{path} differs from the published {data_set.name} in signs or in the order of its "
            "rows; results can differ a little",
            UserWarning,
            stacklevel=2,
        )


def digests(columns: Iterable[Iterable[str | int]]) -> tuple[str, str]:
    """Return the SHA-256 of rows as they are, and that of their letters in any order.

    Args:
        columns: The columns: sentences and labels.
    """
    rows = [
        "\t".join(" ".join(str(field).split()) for field in row)
        for row in zip(*columns, strict=True)
    ]
    plain = [re.sub("-[lr]rb-|[^a-z0-9\t]", "", row.lower()) for row in rows]
    exact, letters = (
        hashlib.sha256("\n".join(part).encode()).hexdigest() for part in (rows, sorted(plain))
    )
    return exact, letters


def labelled_test(train: Path, first_columns: list[str]) -> Path | None:
    """Return the test.tsv beside a train.tsv, if it is there and has labels.

    Args:
        train: The train.tsv.
        first_columns: The first columns of a file with labels.

    Raises:
        DataError: If the file has neither these columns nor those of GLUE's server, or is a link to
            nothing.
    """
    path = train.with_name("test.tsv")
    if path.is_symlink() and not path.exists():
        raise DataError(f"{path} is a link to nothing; mend it, or remove it to test on dev alone")
    if not path.exists():
        return None
    header = whole_lines(path)[0].split("\t")
    if header[: len(first_columns)] == first_columns:
        return path
    if header[0] == "index":  # GLUE's own file, without labels
        return None
    raise DataError(
        f"{path} line 1: expected the header {'<TAB>'.join(first_columns)}, or GLUE's own, which "
        f"begins with index and has no labels; got {header[:3]!r}"
    )


def read_tsv(path: Path) -> Sentences:
    """Read the sentences and the 0/1 labels of a GLUE SST-2 file.

    Args:
        path: The file.

    Raises:
        DataError: If the file is not of that form or is cut short; it names the file and the line.
    """
    header, *lines = whole_lines(path)
    if header.split("\t")[:2] != ["sentence", "label"]:
        raise DataError(
            f"{path} line 1: expected the header sentence<TAB>label, got {header[:60]!r}"
        )
    texts, labels = [], []
    for number, line in enumerate(lines, start=2):
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
    """Read SST-2 from GLUE TSV files, or download it from the hub.

    Args:
        folder: The data folder; None downloads.

    Returns:
        Sentences and labels by split: "train", "dev" (872 sentences), and "test" (1,821) if
        test.tsv is there and has labels.

    Raises:
        DataError: If the files are missing or damaged, or cannot be downloaded.
    """
    if folder is not None:
        paths = SST2.find(folder)
        test = labelled_test(paths[0], ["sentence", "label"])
        splits = {}
        for path in (*paths, *([test] if test is not None else [])):
            splits[path.stem] = read_tsv(path)
            check_rows(SST2, path, len(splits[path.stem][1]))
            check_content(SST2, path, *splits[path.stem])
        return splits
    try:
        import datasets

        cache = str(cache_dir() / "hub")
        loaded = datasets.load_dataset(
            "nyu-mll/glue", "sst2", cache_dir=cache, trust_remote_code=False
        )
    except Exception as error:  # noqa: BLE001 (every layer below has its own kind of "no network")
        raise cannot_download("SST-2", error) from None
    names = {"train": "train", "dev": "validation"}
    return {split: _downloaded(loaded, key) for split, key in names.items()}


def _downloaded(loaded: Any, key: str) -> Sentences:
    """Return the sentences and labels of a split of the hub's SST-2.

    Raises:
        DataError: If they are not texts of a sentence's length with labels 0 and 1.
    """
    try:
        texts, labels = list(loaded[key]["sentence"]), list(loaded[key]["label"])
    except (KeyError, TypeError) as error:
        raise DataError(f"the hub's SST-2, {key}: no sentences with labels ({error!r})") from None
    for number, (text, label) in enumerate(zip(texts, labels, strict=True), start=1):
        if not isinstance(text, str) or not 0 < len(text.strip()) <= MOST_LETTERS:
            raise DataError(f"the hub's SST-2, {key}, row {number}: no sentence: {shown(text)}")
        if type(label) is not int or label not in (0, 1):
            raise DataError(
                f"the hub's SST-2, {key}, row {number}: label {shown(label)}; expected 0 or 1"
            )
    return [text.strip() for text in texts], labels


def read_pairs(path: Path) -> Pairs:
    """Read a GLUE MRPC file; quotation marks are plain characters.

    Args:
        path: The file.

    Raises:
        DataError: If the file is not of that form or is cut short; it names the file and the line.
    """
    header, *lines = whole_lines(path)
    if header.split("\t") != PAIR_COLUMNS:
        raise DataError(
            f"{path} line 1: expected the header {'<TAB>'.join(PAIR_COLUMNS)}, got {header[:60]!r}"
        )
    first, second, labels = [], [], []
    for number, line in enumerate(lines, start=2):
        fields = [field.strip() for field in line.split("\t")]
        if (
            len(fields) != 5
            or fields[0] not in ("0", "1")
            or not all(NUMBER.fullmatch(field) for field in fields[1:3])
            or not (fields[3] and fields[4])
        ):
            raise DataError(
                f"{path} line {number}: expected 0 or 1, two numbers and two sentences, "
                f"got {line[:60]!r}"
            )
        labels.append(int(fields[0]))
        first.append(fields[3])
        second.append(fields[4])
    if not labels:
        raise DataError(f"{path} holds no pairs")
    return first, second, labels


def mrpc(folder: Path | None) -> dict[str, Pairs]:
    """Read MRPC from GLUE TSV files.

    Args:
        folder: The data folder; this data set is not downloaded.

    Returns:
        Pairs and labels by split: "train", "dev" (408 pairs), and "test" (1,725) if test.tsv is
        there and has labels.

    Raises:
        DataError: If the files are missing or damaged.
    """
    if folder is None:
        raise DataError(
            f"{MRPC.name} cannot be downloaded; point --data-dir or {DATA_VARIABLE} at the folder "
            f"that holds {MRPC.wanted}"
        )
    paths = MRPC.find(folder)
    test = labelled_test(paths[0], PAIR_COLUMNS[:1])
    splits = {}
    for path in (*paths, *([test] if test is not None else [])):
        splits[path.stem] = read_pairs(path)
        check_rows(MRPC, path, len(splits[path.stem][2]))
        check_content(MRPC, path, *splits[path.stem])
    return splits


def held_out(
    texts: list[str], most: int, generator: torch.Generator
) -> tuple[list[int], list[int]]:
    """Divide the rows of a data set into rows for training and rows for validation.

    Whole sentences are held out: a tenth of them, and not more than `most`. A row that is a part of
    a held-out sentence is not used for training either. SST-2's train split lists sentences
    together with the phrases that they are made of, so rows drawn by chance would be parts of what
    is trained on.

    Args:
        texts: The rows.
        most: The largest number of held-out rows.
        generator: The random numbers.

    Returns:
        The indices of the rows for training, and the indices of the rows for validation.
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
    """Return every run of words of a text, the whole text among them.

    Args:
        text: Words with blanks between them.
    """
    tokens = text.split()
    stops = range(1, len(tokens) + 1)
    return {" ".join(tokens[start:stop]) for stop in stops for start in range(stop)}


def held_out_pairs(
    pairs: Pairs, most: int, generator: torch.Generator
) -> tuple[list[int], list[int]]:
    """Divide pairs into pairs for training and pairs for validation.

    A tenth of the pairs is held out, and not more than `most`. Sentences stand in several pairs: a
    pair with a sentence of a held-out pair is not used for training either.

    Args:
        pairs: The pairs.
        most: The largest number of held-out pairs.
        generator: The random numbers.

    Returns:
        The indices of the pairs for training, and the indices of the pairs for validation.
    """
    first, second, labels = pairs
    order = torch.randperm(len(labels), generator=generator).tolist()
    held = order[: min(most, max(1, len(labels) // 10))]
    known = {sentence for i in held for sentence in (first[i], second[i])}
    train = [i for i in range(len(labels)) if not {first[i], second[i]} & known]
    return train, held
