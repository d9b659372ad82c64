"""Reading data: places, batches, texts and the real files; damage is named, the order repeats."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from aimc_bridge.errors import DataError
from aimc_bridge.rng import stream
from benchmarks.tasks import data, glue, images, text


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv(data.CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.delenv(data.DATA_VARIABLE, raising=False)


def written(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


# --- places of data -------------------------------------------------------------------------------


def test_the_data_folder_is_the_one_given_then_the_variables(tmp_path, monkeypatch) -> None:
    assert data.data_dir(None) is None
    monkeypatch.setenv(data.DATA_VARIABLE, str(tmp_path))
    assert data.data_dir(None) == tmp_path
    with pytest.raises(DataError, match=r"no data folder .*nowhere \(from --data-dir\)"):
        data.data_dir(tmp_path / "nowhere")
    monkeypatch.setenv(data.DATA_VARIABLE, str(tmp_path / "gone"))
    with pytest.raises(DataError, match=r"gone \(from AIMC_BRIDGE_DATA\)"):
        data.data_dir(None)


def test_what_is_missing_is_named_with_the_place(tmp_path) -> None:
    written(tmp_path / "SST-2" / "train.tsv", "sentence\tlabel\na\t1\n")
    with pytest.raises(DataError) as caught:
        glue.sst2(tmp_path)
    message = str(caught.value)
    assert str(tmp_path) in message
    assert "lacks SST-2/dev.tsv of 2 files, or else all of train.tsv, dev.tsv; " in message
    assert "--data-dir" in message


def test_cache_is_made_once_and_again_when_a_file_changes_or_half_is_there(tmp_path) -> None:
    source = written(tmp_path / "source", "1")
    calls = []

    def make() -> dict[str, torch.Tensor]:
        calls.append(1)
        return {"x": torch.tensor([float(len(calls))])}

    assert data.cached("thing", [source], make)["x"].item() == 1.0
    assert data.cached("thing", [source], make)["x"].item() == 1.0
    (file,) = data.cache_dir().glob("thing-*")
    file.write_bytes(file.read_bytes()[:20])
    assert data.cached("thing", [source], make)["x"].item() == 2.0
    written(source, "22")
    assert data.cached("thing", [source], make)["x"].item() == 3.0


def test_a_cache_folder_that_cannot_be_made_is_named(tmp_path, monkeypatch) -> None:
    written(tmp_path / "file", "")
    monkeypatch.setenv(data.CACHE_VARIABLE, str(tmp_path / "file" / "cache"))
    with pytest.raises(DataError, match=data.CACHE_VARIABLE):
        data.cache_dir()


@pytest.mark.parametrize(
    ("message", "start", "inside"),
    [
        ("no such file", "no such file", ""),
        ("\n  failed:\n\n\tthe reason\n", "failed: the reason", ""),
        ("", "ValueError('')", ""),
        (f"first:\n{'a ' * 1000}\nthe reason", "first: a a a", "a a ... a a"),
        (f"{'x' * 1000}\nthe reason", "xxx", "x ... x"),
    ],
    ids=["one line", "several", "none", "many words", "a long word"],
)
def test_the_reason_of_an_error_is_all_its_lines_on_one(message, start, inside) -> None:
    said = data.reason(ValueError(message))
    if inside:
        assert said.startswith(start) and inside in said and said.endswith(" the reason")
        assert len(said) <= 405
    else:
        assert said == start


# --- batches --------------------------------------------------------------------------------------


def loader(n: int, batch_size: int, seed: int = 0) -> data.Loader:
    def make(chosen: torch.Tensor, generator: torch.Generator, epoch: int) -> tuple[object, ...]:
        return chosen.tolist(), float(torch.rand((), generator=generator)), epoch

    return data.Loader(
        lambda epoch, generator: data.shuffled(n, batch_size, generator),
        make,
        n // batch_size,
        seed,
    )


def test_an_epoch_is_whole_batches_each_index_once_in_another_order_each_epoch() -> None:
    first, second = list(loader(10, 3)), None
    both = loader(10, 3)
    assert list(both) == first  # The seed is the same.
    second = list(both)
    seen = [index for batch, _, _ in first for index in batch]
    assert len(seen) == 9 == len(set(seen))
    assert [b for b, _, _ in first] != [b for b, _, _ in second]
    assert [epoch for _, _, epoch in second] == [1, 1, 1]
    assert list(loader(10, 3, seed=1)) != first


def test_an_epoch_goes_on_at_any_position_as_if_never_interrupted() -> None:
    whole = loader(20, 2)
    assert list(whole.passing(3, 4)) == list(whole.passing(3))[4:]


def test_less_data_than_a_batch_is_an_error() -> None:
    with pytest.raises(DataError, match="smaller than one batch"):
        loader(3, 4)


# --- texts ----------------------------------------------------------------------------------------


def test_tsv_as_glue_writes_it(tmp_path) -> None:
    path = written(tmp_path / "train.tsv", 'sentence\tlabel\nit \'s " fine " \t1\nno .\t0\n')
    assert glue.read_tsv(path) == (['it \'s " fine "', "no ."], [1, 0])


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("", "line 1: expected the header"),
        ("text\tlabel\na\t1\n", "line 1: expected the header"),
        ("sentence\tlabel\n", "holds no sentences"),
        ("sentence\tlabel\na\t1\nb", "line 3: cut short"),
        ("sentence\tlabel\na\t1\nb\n", "line 3: expected sentence<TAB>0 or 1"),
        ("sentence\tlabel\na\t2\n", "line 2: expected sentence<TAB>0 or 1"),
        (b"sentence\tlabel\na\xff\t1\n", "not UTF-8 at byte 16"),
    ],
)
def test_a_damaged_tsv_says_file_and_line(tmp_path, content, complaint) -> None:
    path = written(tmp_path / "train.tsv", content)
    with pytest.raises(DataError, match=complaint) as caught:
        glue.read_tsv(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


PAIR_HEADER = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"


def test_quotes_of_pairs_are_plain_characters(tmp_path) -> None:
    rows = '1\t1\t2\t"He said\tHe " said\n0\t3\t4\ta\tb\n'
    path = written(tmp_path / "dev.tsv", PAIR_HEADER + rows)
    assert glue.read_pairs(path) == (['"He said', "a"], ['He " said', "b"], [1, 0])


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("", "line 1: expected the header Quality"),
        ("index\t#1 ID\n", "line 1: expected the header Quality"),
        (PAIR_HEADER, "holds no pairs"),
        (PAIR_HEADER + "1\t1\t2\ta\tb", "line 2: cut short"),
        (PAIR_HEADER + "1\t1\t2\ta\n", "line 2: expected 0 or 1, two numbers and two sentences"),
        (PAIR_HEADER + "1\t1\t2\ta\tb\n3\t1\t2\ta\tb\n", "line 3: expected 0 or 1"),
        (PAIR_HEADER + "1\tabc\t2\ta\tb\n", "line 2: expected 0 or 1, two numbers"),
        (PAIR_HEADER + "1\t1\t2.5\ta\tb\n", "line 2: expected 0 or 1, two numbers"),
        (PAIR_HEADER + "1\t1\t\ta\tb\n", "line 2: expected 0 or 1, two numbers"),
    ],
)
def test_a_damaged_file_of_pairs_says_file_and_line(tmp_path, content, complaint) -> None:
    path = written(tmp_path / "train.tsv", content)
    with pytest.raises(DataError, match=complaint) as caught:
        glue.read_pairs(path)
    assert str(path) in str(caught.value)


def test_a_file_with_other_rows_than_the_published_one_is_named(tmp_path) -> None:
    for name in ("train", "dev"):
        written(tmp_path / "MRPC" / f"{name}.tsv", PAIR_HEADER + "1\t1\t2\ta\tb\n")
        written(tmp_path / "SST-2" / f"{name}.tsv", "sentence\tlabel\na\t1\n")
    expected = r"train.tsv holds 1 rows; expected 3,668, those of the published MRPC; copy"
    with pytest.raises(DataError, match=expected):
        glue.mrpc(tmp_path)
    with pytest.raises(DataError, match=r"SST-2/train.tsv holds 1 rows; expected 67,349"):
        glue.sst2(tmp_path)
    with pytest.raises(DataError, match="MRPC cannot be downloaded; point --data-dir .*MRPC/train"):
        glue.mrpc(None)


def test_files_that_are_missing_are_named_of_the_form_that_is_nearest_to_whole(tmp_path) -> None:
    """Of the thirteen files of CIFAR-10's two forms, those that the user has to add are named."""
    batches = [f"cifar-10-batches-py/data_batch_{number}" for number in range(1, 6)]
    pickles, binary = ("cifar-10-batches-py/data_batch_1", "cifar-10-batches-bin/data_batch_1.bin")
    for name in (batches[0], batches[1], "cifar-10-batches-py/test_batch", binary):
        written(tmp_path / name, "")
    expected = (
        f"CIFAR-10 not found: {tmp_path} lacks {', '.join(batches[2:])} and 1 more of 7 files, or "
        f"else all of {binary} to test_batch.bin (6 files); point --data-dir or "
    )
    with pytest.raises(DataError) as caught:
        images.cifar(10, tmp_path)
    assert str(caught.value).startswith(expected)
    for number in range(2, 6):
        written(tmp_path / f"cifar-10-batches-bin/data_batch_{number}.bin", "")
    with pytest.raises(DataError) as caught:
        images.cifar(10, tmp_path)
    assert str(caught.value).startswith(
        f"CIFAR-10 not found: {tmp_path} lacks cifar-10-batches-bin/test_batch.bin of 6 files, or "
        f"else all of {pickles} to batches.meta (7 files); point"
    )
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        DataError, match=r"for cifar-10\S+ to batches\.meta \(7 files\) or cifar-10"
    ):
        images.cifar(10, tmp_path / "empty")


def published(folder: Path, monkeypatch) -> None:
    """Write small SST-2 and MRPC files; their digests replace those of the published ones."""
    counts = dict.fromkeys(("train", "dev", "test"), 4)
    for name in ("SST-2", "MRPC"):
        monkeypatch.setitem(glue.ROWS, name, counts)
        monkeypatch.setitem(glue.DIGESTS, name, {})
    for split in counts:
        rows = "".join(f"a {split} -lrb- no. {i} -rrb-\t{i % 2}\n" for i in range(4))
        written(folder / "SST-2" / f"{split}.tsv", "sentence\tlabel\n" + rows)
        rows = "".join(f"{i % 2}\t{i}\t9\t'a {split} {i}\tthe {i}th\n" for i in range(4))
        written(folder / "MRPC" / f"{split}.tsv", PAIR_HEADER + rows)
    for name, read in (("SST-2", glue.sst2), ("MRPC", glue.mrpc)):
        rows = {split: glue.digests(columns) for split, columns in read(folder).items()}
        monkeypatch.setitem(glue.DIGESTS, name, rows)


@pytest.mark.parametrize("split", ["train", "dev", "test"])
@pytest.mark.parametrize(("name", "read"), [("SST-2", glue.sst2), ("MRPC", glue.mrpc)])
def test_one_changed_letter_or_label_of_glue_is_found(
    tmp_path, monkeypatch, name, read, split
) -> None:
    published(tmp_path, monkeypatch)
    path = tmp_path / name / f"{split}.tsv"
    whole = path.read_text()
    head, *rows = whole.splitlines(keepends=True)
    other_label = rows[1].replace("\t1\n", "\t0\n").replace("1\t1\t", "0\t1\t")
    for changed in (other_label, rows[1].replace("a ", "b "), rows[0]):
        assert changed != rows[1]
        written(path, "".join([head, rows[0], changed, *rows[2:]]))
        with pytest.raises(DataError, match=f"{split}.tsv is damaged .* published {name}; copy"):
            read(tmp_path)
    written(path, "".join([head, *reversed(rows)]))
    with pytest.warns(UserWarning, match=rf"{split}.tsv differs from the published {name}"):
        read(tmp_path)
    written(path, whole.replace("-lrb-", "(").replace("-rrb-", ")").replace("'a", '"a'))
    with pytest.warns(UserWarning, match=rf"{split}.tsv differs from the published {name}"):
        read(tmp_path)


@pytest.mark.parametrize("split", ["train", "dev", "test"])
@pytest.mark.parametrize(("name", "read"), [("SST-2", glue.sst2), ("MRPC", glue.mrpc)])
def test_files_saved_on_windows_are_read(tmp_path, monkeypatch, name, read, split) -> None:
    published(tmp_path, monkeypatch)
    expected = read(tmp_path)
    path = tmp_path / name / f"{split}.tsv"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert read(tmp_path) == expected and list(expected) == ["train", "dev", "test"]


@pytest.mark.parametrize(("name", "read"), [("SST-2", glue.sst2), ("MRPC", glue.mrpc)])
def test_a_test_file_that_is_a_link_to_nothing_does_not_shrink_the_test_data(
    tmp_path, monkeypatch, name, read
) -> None:
    published(tmp_path, monkeypatch)
    path = tmp_path / name / "test.tsv"
    path.unlink()
    assert list(read(tmp_path)) == ["train", "dev"]
    path.symlink_to(tmp_path / "nothing")
    with pytest.raises(DataError, match="test.tsv is a link to nothing"):
        read(tmp_path)


def test_a_test_file_of_another_form_is_refused(tmp_path) -> None:
    train = written(tmp_path / "train.tsv", "")
    columns = ["sentence", "label"]
    assert glue.labelled_test(train, columns) is None
    path = written(tmp_path / "test.tsv", "label\tsentence\n1\ta\n")
    with pytest.raises(DataError, match=r"test.tsv line 1: expected the header sentence<TAB>label"):
        glue.labelled_test(train, columns)
    written(path, "index\tsentence\n0\ta\n")
    assert glue.labelled_test(train, columns) is None


@pytest.mark.parametrize("read", [glue.sst2, text.wikitext2])
def test_no_network_and_no_folder_says_what_to_do(read, monkeypatch) -> None:
    import datasets

    def fail(*_, **__) -> None:
        raise ConnectionError("Couldn't reach the hub\nmore")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(DataError, match=r"reach the hub more\); point --data-dir") as caught:
        read(None)
    assert "\n" not in str(caught.value)


# --- the real files, if they are there ------------------------------------------------------------


def test_real_sst2(real_data) -> None:
    sentences = glue.sst2(real_data)
    counts = {split: len(labels) for split, (_, labels) in sentences.items()}
    assert counts | {"test": 1_821} == glue.ROWS["SST-2"]
    assert sum(sentences["dev"][1]) == 444


def test_real_mrpc(real_data) -> None:
    if not glue.MRPC.whole(real_data):
        pytest.skip("no MRPC")
    pairs = glue.mrpc(real_data)
    same = {split: sum(labels) for split, (_, _, labels) in pairs.items()}
    assert same | {"test": 1_147} == {"train": 2_474, "dev": 279, "test": 1_147}
    first = pairs["train"][0][0]
    assert first.startswith("Amrozi accused his brother") and '"' in first


def test_real_cifar100_is_not_here_and_that_is_said(real_data) -> None:
    if images.CIFAR100.whole(real_data):
        pytest.skip("CIFAR-100 is here")
    with pytest.raises(
        DataError,
        match="CIFAR-100 not found: .* cifar-100-binary/train.bin, cifar-100-binary/test.bin; ",
    ):
        images.cifar(100, real_data)


def test_streams_of_the_splits_are_named() -> None:
    """The digits' split is a function of its name alone, whatever ran before."""
    torch.manual_seed(os.getpid())
    order = torch.randperm(1797, generator=stream(0, "digits", "test"))
    from sklearn.datasets import load_digits

    assert torch.equal(
        images.digits()["test_labels"], torch.from_numpy(load_digits().target)[order[:400]].long()
    )
