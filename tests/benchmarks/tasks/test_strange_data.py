"""Data of strangers: nothing runs, waits, or unpacks without a bound; errors name the file."""

from __future__ import annotations

import ast
import hashlib
import io
import os
import pickle
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from aimc_bridge.errors import AimcError, DataError
from benchmarks.tasks import data, encoders, glue, images, text

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(data.CACHE_VARIABLE, str(tmp_path / "cache"))


# --- files that are none --------------------------------------------------------------------------


def pipe(path: Path) -> None:
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.mkdir()


def dangling(path: Path) -> None:
    path.symlink_to(path.parent / "nothing")


def loop(path: Path) -> None:
    path.symlink_to(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def empty(path: Path) -> None:
    path.touch()


def huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**40)  # a sparse file: a terabyte that takes no room


STRANGE = [pipe, folder, dangling, loop, device, empty, huge]


def insects(root: Path) -> Path:
    """Return a folder of images: two classes, one 4 x 4 image each, in train and test."""
    for split in ("train", "test"):
        for name in ("ant", "bee"):
            (root / split / name).mkdir(parents=True)
            Image.new("RGB", (4, 4)).save(root / split / name / "1.png")
    return root


@pytest.mark.parametrize("make", STRANGE)
def test_what_is_no_image_file_is_named(tmp_path: Path, make: Callable[[Path], None]) -> None:
    root = insects(tmp_path / "insects")
    make(root / "test" / "bee" / "2.png")
    with pytest.raises(DataError, match=r"test/bee/2\.png is (no|not a whole) image"):
        images.image_folder(root, 4)


@pytest.mark.parametrize("make", [*STRANGE[:2], *STRANGE[4:]])
def test_what_is_no_text_file_is_named(
    tmp_path: Path, make: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("train.tsv", "dev.tsv"):
        (tmp_path / name).write_text("sentence\tlabel\na good film\t1\n")
    monkeypatch.setitem(glue.ROWS, "SST-2", {"train": 1, "dev": 1, "test": 1})
    monkeypatch.setitem(glue.DIGESTS, "SST-2", {})
    assert glue.sst2(tmp_path)["dev"] == (["a good film"], [1])
    (tmp_path / "dev.tsv").unlink()
    make(tmp_path / "dev.tsv")
    with pytest.raises(DataError, match=r"dev\.tsv"):
        glue.sst2(tmp_path)
    for name in ("wiki.train.tokens", "wiki.valid.tokens", "wiki.test.tokens"):
        (tmp_path / name).write_text(" a \n")
    digest = hashlib.sha1(b" a \n").hexdigest()
    monkeypatch.setitem(text.DIGESTS, "WikiText-2", dict.fromkeys(text.SPLITS, digest))
    assert text.wikitext2(tmp_path)["test"] == ["a", "<eos>"]
    (tmp_path / "wiki.test.tokens").unlink()
    make(tmp_path / "wiki.test.tokens")
    with pytest.raises(DataError, match=r"wiki\.test\.tokens"):
        text.wikitext2(tmp_path)


@pytest.mark.parametrize("make", STRANGE[:5])
def test_what_is_no_file_of_cifar_is_named(tmp_path: Path, make: Callable[[Path], None]) -> None:
    base = tmp_path / "cifar-100-binary"
    base.mkdir()
    for name in ("train.bin", "test.bin"):
        make(base / name)
    with pytest.raises(DataError, match=r"train\.bin"):
        images.cifar(100, tmp_path)


@pytest.mark.parametrize("make", [pipe, dangling, loop, device, huge])
def test_what_is_no_file_of_an_encoder_is_named(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    make(tmp_path / "config.json")
    with pytest.raises(DataError, match=r"config\.json of the checkpoint"):
        encoders.Sst2(str(tmp_path), None, None)


# --- images ---------------------------------------------------------------------------------------


def png(width: int, height: int, rows: int) -> bytes:
    """Return a PNG of a size that its first chunk claims, with `rows` rows of zeros in it."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + crc

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(bytes((1 + 3 * width) * rows), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [8_000, 20_000, 2**30])
def test_a_small_file_does_not_unpack_to_a_huge_image(tmp_path: Path, side: int) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png(side, side, 20 if side < 2**20 else 0))
    assert path.stat().st_size < 10_000
    with pytest.raises(DataError, match=r"bomb\.png"):
        images.pixels(path, 4)


def test_a_text_in_an_image_is_not_unpacked_without_a_bound(tmp_path: Path) -> None:
    plain = png(4, 4, 4)
    body = b"a\0\0" + zlib.compress(bytes(2**27), 9)  # 128 MiB of zeros as a comment
    kind = b"zTXt"
    crc = struct.pack(">I", zlib.crc32(kind + body))
    at = plain.index(b"IDAT") - 4
    path = tmp_path / "comment.png"
    path.write_bytes(plain[:at] + struct.pack(">I", len(body)) + kind + body + crc + plain[at:])
    with pytest.raises(DataError, match=r"comment\.png"):
        images.pixels(path)


def test_all_images_together_have_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = insects(tmp_path / "insects")
    monkeypatch.setattr(images, "MOST_IMAGES", 4 * 4 * 3 * 4 - 1)
    with pytest.raises(DataError, match="insects holds images of more than"):
        images.image_folder(root, 4)


@pytest.mark.parametrize("kind", ["EPS", "GIF", "TIFF", "PDF"])
def test_other_formats_under_the_name_of_an_image_are_not_decoded(
    tmp_path: Path, kind: str
) -> None:
    """Pillow starts Ghostscript for an EPS file, whatever the file is called."""
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, kind)
    (tmp_path / "a.png").write_bytes(buffer.getvalue())
    with pytest.raises(DataError, match=r"a\.png is not a whole image"):
        images.pixels(tmp_path / "a.png")


def test_images_of_two_sizes_are_both_named(tmp_path: Path) -> None:
    root = insects(tmp_path / "insects")
    Image.new("RGB", (6, 5)).save(root / "train" / "bee" / "2.png")
    with pytest.raises(DataError, match=r"4 x 4 and 6 x 5 pixels: .*ant/1.png and .*bee/2.png"):
        images.image_folder(root)


def test_a_name_that_is_not_utf8_is_named_in_ascii(tmp_path: Path) -> None:
    root = insects(tmp_path / "insects")
    Image.new("RGB", (4, 4)).save(root / "train" / "bee" / "2.png")
    named = root / "train" / "bee" / os.fsdecode(b"\xff.png")
    (root / "train" / "bee" / "2.png").rename(named)
    with pytest.raises(DataError) as caught:
        images.image_folder(root, 4)
    assert r"\udcff.png" in str(caught.value).encode("ascii").decode()


# --- texts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"sentence\tlabel\na good\0film\t1\n", "line 2: a zero byte"),
        (b"sentence\tlabel\n" + b"a " * 50_000_000 + b"\t1\n", "line 2: 100,000,002 letters"),
        (b"\xff\xfe" + "sentence\tlabel\n".encode("utf-16-le"), "not UTF-8 at byte 0"),
        (b"", "line 1: expected the header"),
        (b"sentence\tlabel\na good film\tnan\n", "line 2: expected sentence<TAB>0 or 1"),
        (b"sentence\tlabel\na good film\t2\n", "line 2: expected sentence<TAB>0 or 1"),
    ],
    ids=["zero byte", "100 MB", "UTF-16", "empty", "NaN", "label 2"],
)
def test_sentences_that_are_none(tmp_path: Path, content: bytes, complaint: str) -> None:
    path = tmp_path / "train.tsv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"train.tsv.*{complaint}") as caught:
        glue.read_tsv(path)
    assert len(str(caught.value)) < 400 and "\0" not in str(caught.value)


@pytest.mark.parametrize(
    "label", ["1", -1, 2, 0.5, float("nan"), None, torch.tensor(1), np.array(1), [1]], ids=repr
)
def test_labels_of_a_download_are_looked_at(label: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    split = {"sentence": ["good", "bad"], "label": [1, label]}
    hub = {"train": split, "validation": split}
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: hub)
    with pytest.raises(DataError, match="hub's SST-2, train, row 2: label .*expected 0 or 1"):
        glue.sst2(None)


# --- code -----------------------------------------------------------------------------------------


class Runs:
    """A pickle of this makes a folder when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.path,)


def test_a_pickle_that_is_not_the_published_one_is_not_loaded(tmp_path: Path) -> None:
    base = tmp_path / "cifar-10-batches-py"
    base.mkdir()
    blob = pickle.dumps(Runs(tmp_path / "ran"))
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta"):
        (base / name).write_bytes(blob)
    with pytest.raises(DataError, match="has not its official checksum"):
        images.cifar(10, tmp_path)
    assert not (tmp_path / "ran").exists()
    pickle.loads(blob)
    assert (tmp_path / "ran").exists()  # the pickle would have done it


def test_one_pickle_among_published_ones_is_not_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also the small file with the names of the classes is compared before it is loaded."""
    from torchvision import datasets

    base = tmp_path / "cifar-10-batches-py"
    base.mkdir()
    rows = {"data": np.zeros((1, 3072), np.uint8), "labels": [0]}
    good = pickle.dumps(rows)
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        (base / name).write_bytes(good)
    md5 = hashlib.md5(good).hexdigest()
    for part in ("train_list", "test_list"):
        listed = [[name, md5] for name, _ in getattr(datasets.CIFAR10, part)]
        monkeypatch.setattr(datasets.CIFAR10, part, listed)
    (base / "batches.meta").write_bytes(pickle.dumps(Runs(tmp_path / "ran")))
    with pytest.raises(DataError, match="has not its official checksum"):
        images.cifar(10, tmp_path)
    assert not (tmp_path / "ran").exists()


def calls() -> Iterator[tuple[Path, ast.Call, str]]:
    """Yield every call in the project's code that loads something of a hub, with its name."""
    for place in ("aimc_bridge", "presets", "benchmarks", "examples"):
        for path in sorted((ROOT / place).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                    yield path, node, node.func.attr


def test_every_call_that_loads_from_a_hub_trusts_no_code() -> None:
    """`get_config_dict` only reads JSON. Weights come from safetensors, which hold no code."""
    seen = 0
    for path, call, name in calls():
        if name not in ("from_pretrained", "load_dataset", "pipeline", "hub"):
            continue
        seen += 1
        keywords = {word.arg: ast.unparse(word.value) for word in call.keywords}
        where = f"{path}:{call.lineno}"
        assert keywords.get("trust_remote_code") == "False", where
        if ast.unparse(call.func).startswith("AutoModel"):
            assert keywords.get("use_safetensors") == "True", where
    assert seen >= 7


def test_the_program_says_it_in_one_line_and_does_not_wait(tmp_path: Path) -> None:
    root = insects(tmp_path / "insects")
    os.mkfifo(root / "train" / "ant" / "2.png")
    words = ["wrn", "--profile", "real", "-o", f"dataset={root}", "--out", str(tmp_path / "run")]
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.run", *words],
        capture_output=True,
        text=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
    )
    assert run.returncode == 2, run.stderr
    assert run.stderr.count("\n") == 1 and "2.png is no image (a pipe, not a file)" in run.stderr
    assert not (tmp_path / "run").exists()


def test_every_error_of_these_readers_is_ours() -> None:
    assert issubclass(DataError, AimcError)
