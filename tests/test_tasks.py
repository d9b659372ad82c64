"""The three tasks: metrics against sums done by hand, splits, model definitions, options."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor, nn

from aimc_bridge import calibrate, convert, coverage, rng
from aimc_bridge.errors import CheckpointError, DataError, UsageError
from benchmarks import tasks
from benchmarks.tasks import bert, lstm, wrn
from benchmarks.text import held_out, phrases
from presets import rasch2023
from tests.test_task_lstm import language


@pytest.fixture(scope="module")
def all_tasks() -> dict[str, tasks.Task]:
    return {name: tasks.get(name) for name in tasks.NAMES}


# --- all three ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", tasks.NAMES)
def test_an_untrained_model_guesses(all_tasks, name) -> None:
    task = all_tasks[name]
    assert task.chance_error == pytest.approx(1 - 1 / task.n_classes)
    scores = task.evaluate(task.build(0), subset=200)
    assert scores["error"] > 0.5
    assert 0.5 * math.log(task.n_classes) < scores["loss"] < 1.6 * math.log(task.n_classes)


@pytest.mark.parametrize("name", tasks.NAMES)
def test_a_model_is_a_function_of_its_seed_alone(all_tasks, name) -> None:
    task = all_tasks[name]
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    one = task.build(3)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    other = task.build(3)
    for key, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[key])
    differ = [
        not torch.equal(value, task.build(4).state_dict()[key])
        for key, value in one.state_dict().items()
    ]
    assert any(differ)


@pytest.mark.parametrize("name", tasks.NAMES)
def test_evaluation_is_repeatable_without_dropout_and_gives_the_mode_back(all_tasks, name) -> None:
    task = all_tasks[name]
    model = task.build(0).train()
    first = task.evaluate(model, subset=100)
    assert model.training
    assert task.evaluate(model, subset=100) == first
    undisturbed = task.build(0, dropout=0.0)
    undisturbed.load_state_dict(model.state_dict())
    assert task.evaluate(undisturbed, subset=100)["loss"] == pytest.approx(first["loss"], rel=1e-6)


@pytest.mark.parametrize("name", tasks.NAMES)
def test_a_subset_has_so_many_samples(all_tasks, name) -> None:
    task = all_tasks[name]
    count = sum(task.targets(batch).numel() for batch in task.batches("test", 150))
    if name == "lstm":  # the first word of a stream is not scored
        assert 150 - 2 * lstm.STREAMS < count <= 150
    else:
        assert count == 150
    everything = sum(task.targets(batch).numel() for batch in task.batches("test"))
    assert task.count("test") - 2 * lstm.STREAMS < everything <= task.count("test")


def flat(batch) -> list[Tensor]:
    values = batch.values() if isinstance(batch, dict) else batch
    return [v for v in values if isinstance(v, Tensor)]


@pytest.mark.parametrize("name", tasks.NAMES)
def test_training_batches_repeat_by_seed_and_epoch(all_tasks, name) -> None:
    task = all_tasks[name]
    one, other = task.train_loader(8, 5), task.train_loader(8, 5)
    first = flat(next(one.passing(1)))
    assert all(torch.equal(a, b) for a, b in zip(first, flat(next(other.passing(1))), strict=True))
    later = flat(next(other.passing(2)))
    assert any(
        a.shape != b.shape or not torch.equal(a, b) for a, b in zip(first, later, strict=True)
    )


@pytest.mark.parametrize("name", tasks.NAMES)
def test_a_trained_model_is_read_back_and_others_are_refused(all_tasks, name, tmp_path) -> None:
    from safetensors.torch import load_file, save_file, save_model

    task = all_tasks[name]
    model, file = task.build(1), tmp_path / "model.safetensors"
    save_model(model, str(file))
    for key, value in task.load(tmp_path).state_dict().items():
        assert torch.equal(value, model.state_dict()[key])
    assert not task.load(file).training

    stored = load_file(file)
    key = next(key for key, value in stored.items() if value.ndim > 1)
    for bad in (math.nan, math.inf):
        broken = {k: v.clone() for k, v in stored.items()}
        broken[key].view(-1)[-1] = bad
        save_file(broken, file)
        with pytest.raises(CheckpointError, match=f"{key} holds NaN or infinite values"):
            task.load(tmp_path)
    save_file({k: v for k, v in stored.items() if k != key}, file)
    with pytest.raises(CheckpointError, match="holds another model than"):
        task.load(tmp_path)
    save_file({**stored, key: torch.zeros(3, 3)}, file)
    with pytest.raises(CheckpointError, match="holds another model than"):
        task.load(tmp_path)
    file.write_bytes(b"")
    with pytest.raises(CheckpointError, match="damaged or cut short"):
        task.load(tmp_path)
    file.unlink()
    with pytest.raises(CheckpointError, match=f"benchmarks.digital {name} --profile embedded"):
        task.load(tmp_path)


@pytest.mark.parametrize(
    ("name", "options", "complaint"),
    [
        ("nlp", {}, "unknown task 'nlp'; one of wrn, bert, lstm"),
        ("wrn", {"widht": 2}, "unknown option 'widht'.*dataset, depth, width, size"),
        ("wrn", {"width": "two"}, "width='two'.*allowed: a whole number"),
        ("wrn", {"width": True}, "width=True.*allowed: a whole number"),
        ("wrn", {"width": 0}, "no WRN-10-0"),
        ("wrn", {"depth": 12}, "no WRN-12-1: depth must be 10, 16, 22"),
        ("wrn", {"cutout": -1}, r"cutout=-1; allowed: 0 \(none\) or more"),
        ("wrn", {"dataset": "mnist"}, "unknown data set 'mnist'"),
        ("wrn", {"dataset": "cifar10-jpeg"}, "cannot be downloaded"),
        ("bert", {"encoder": "x"}, "encoder needs real"),
        ("bert", {"dropout": 1.0}, "allowed: 0 <= dropout < 1"),
        ("lstm", {"size": "huge"}, "unknown size 'huge'; one of tiny, small, paper"),
        ("lstm", {"tied": 1}, "allowed: a true or false"),
        ("lstm", {"samples": -1}, "samples=-1"),
        ("lstm", {"dropout": -0.1}, "dropout=-0.1; allowed: 0 <= dropout < 1"),
    ],
)
def test_a_wrong_option_says_what_is_allowed(name, options, complaint, monkeypatch) -> None:
    monkeypatch.delenv("AIMC_BRIDGE_DATA", raising=False)
    with pytest.raises((UsageError, DataError), match=complaint) as caught:
        tasks.get(name, **options)
    assert "\n" not in str(caught.value)


def test_an_unknown_profile_or_split() -> None:
    with pytest.raises(UsageError, match="unknown profile 'big'; one of embedded, real, paper"):
        tasks.get("wrn", "big")
    task = language()
    with pytest.raises(UsageError, match="unknown split 'train'"):
        task.evaluate(task.build(0), split="train")
    with pytest.raises(UsageError, match="subset=0"):
        task.evaluate(task.build(0), subset=0)


def test_options_are_words_of_key_and_value() -> None:
    found = tasks.parse_options(["size=paper", "tied=true", "samples=0", "dropout=0.1", "x=a=b"])
    assert found == {"size": "paper", "tied": True, "samples": 0, "dropout": 0.1, "x": "a=b"}
    for word in ("size", "=paper"):
        with pytest.raises(UsageError, match="is not KEY=VALUE"):
            tasks.parse_options([word])


@pytest.mark.parametrize("name", tasks.NAMES)
def test_parts_of_a_batch_are_all_of_it(all_tasks, name) -> None:
    """Each sample in one replica's part; a stream of words stays with one replica."""
    task = all_tasks[name]
    batch = next(task.train_loader(6, 0).passing(0))
    targets = task.targets(batch).view(-1, 6) if name == "lstm" else task.targets(batch)[None]
    for count in (2, 3):
        parts = [task.targets(task.part(batch, index, count)) for index in range(count)]
        for index, part in enumerate(parts):
            assert torch.equal(part.view(-1, 6 // count), targets[:, index::count])
    model = task.build(0, dropout=0.0).eval()
    with torch.no_grad():
        whole = task.loss(model, batch)
        halves = [task.loss(model, task.part(batch, index, 2)) for index in range(2)]
    assert float(sum(halves) / 2) == pytest.approx(float(whole), rel=1e-5)


class Absent:
    """A test split that nobody may look at."""

    def __getattr__(self, name: str) -> None:
        raise AssertionError("the test split was read")

    __len__ = __getitem__ = __iter__ = lambda self, *_: self.gone  # type: ignore[assignment]


@pytest.mark.parametrize("name", tasks.NAMES)
def test_nothing_is_chosen_by_the_test_split(name, tmp_path) -> None:
    """Digital and hardware-aware training, validation and calibration run without it."""
    from benchmarks import trained
    from benchmarks.profiles import PLANS, recipe_for

    task = tasks.get(name)
    splits = task.streams if name == "lstm" else task.splits
    splits["test"] = Absent()
    with pytest.raises(AssertionError, match="the test split was read"):
        task.evaluate(task.build(0), 40)
    task.digital_loss(task.build(0), next(task.digital_loader(8, 0).passing(0)))
    digital = task.build(0)
    analog = convert(digital, rasch2023, exclude=list(task.exclude))
    calibrate(analog, task.calibration_batches(1, batch_size=8), "percentile")
    plan = dataclasses.replace(PLANS["embedded", name], hwa_batches=2, validation_subset=80)
    how = trained.How(0, torch.device("cpu"))
    recipe = recipe_for(rasch2023, task.recipe, plan, {"batch_size": 8})
    history = trained.hardware_aware(task, plan, recipe, how, digital, analog, tmp_path / "hwa")
    assert history.validation_loss.notna().sum() == 1
    trained.unaware(task, plan, recipe, how, digital, tmp_path / "control")


# --- wrn ------------------------------------------------------------------------------------------


def test_wrn_16_4_is_the_papers_network() -> None:
    """Its parameters counted by hand, from Zagoruyko and Komodakis' table."""
    convolutions = 9 * 3 * 16
    norms = 0
    c_in = 16
    for c_out in (64, 128, 256):
        convolutions += 9 * c_in * c_out + 3 * 9 * c_out * c_out + c_in * c_out  # and the shortcut
        norms += 2 * (c_in + 3 * c_out)
        c_in = c_out
    norms += 2 * 256
    model = wrn.WideResNet(16, 4, 10)
    total = sum(p.numel() for p in model.parameters())
    assert total == convolutions + norms + 256 * 10 + 10 == 2_748_890
    assert len([m for m in model.modules() if isinstance(m, nn.Conv2d)]) == 1 + 12 + 3
    images = torch.zeros(2, 3, 32, 32)
    assert model(images).shape == (2, 10)
    sizes = []
    model.norm.register_forward_hook(lambda _, inputs, __: sizes.append(inputs[0].shape))
    model(images)
    assert sizes == [(2, 256, 8, 8)]


def positions(n: int, size: int) -> Tensor:
    """Images whose pixels are their own place: 1 + row * size + column."""
    return (1 + torch.arange(size * size).reshape(1, 1, size, size)).repeat(n, 1, 1, 1).byte()


def test_shifts_are_uniform_and_reflect_the_edges() -> None:
    n, size, shift = 4000, 9, 2
    image = positions(1, size)
    padded = nn.functional.pad(image.float(), (shift,) * 4, mode="reflect")[0, 0]
    drawn = wrn.augmented(
        image.expand(n, 1, size, size), torch.Generator().manual_seed(0), shift, False, 0
    )
    crops = {
        (i, j): padded[i : i + size, j : j + size]
        for i in range(2 * shift + 1)
        for j in range(2 * shift + 1)
    }
    counts = dict.fromkeys(crops, 0)
    for one in drawn[:, 0]:
        matching = [place for place, crop in crops.items() if torch.equal(one, crop)]
        assert len(matching) == 1
        counts[matching[0]] += 1
    # 25 places, 160 each, sd 12.4: 5.9 sd is a false alarm of 1e-7 for the worst of 25
    assert max(abs(count - 160) for count in counts.values()) < 5.9 * 12.4


def test_half_of_the_images_are_mirrored() -> None:
    n = 4000
    image = positions(1, 5)
    drawn = wrn.augmented(image.expand(n, 1, 5, 5), torch.Generator().manual_seed(0), 0, True, 0)
    mirrored = sum(torch.equal(one, image[0].float().flip(2)) for one in drawn)
    kept = sum(torch.equal(one, image[0].float()) for one in drawn)
    assert mirrored + kept == n
    assert abs(mirrored - n / 2) < 4.9 * math.sqrt(n / 4)  # false alarm 1e-6


def test_cutout_is_one_square_of_the_images_mean() -> None:
    n, size, side = 500, 12, 4
    image = positions(1, size)
    drawn = wrn.augmented(
        image.expand(n, 1, size, size), torch.Generator().manual_seed(0), 0, False, side
    )
    changed = (drawn != image.float())[:, 0]
    mean = image.float().mean()
    areas = []
    for one, where in zip(drawn[:, 0], changed, strict=True):
        rows, columns = where.any(1).nonzero().flatten(), where.any(0).nonzero().flatten()
        box = where[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert box.all()  # one full rectangle
        assert bool((one[where] == mean).all())
        areas.append(len(rows) * len(columns))
        assert len(rows) <= side and len(columns) <= side
    assert max(areas) == side**2  # whole inside, cut at the edges
    assert min(areas) < side**2


@pytest.mark.parametrize(("cutout", "size"), [(None, 0), (0, 0), (3, 3)])
def test_cutout_is_an_option(cutout, size) -> None:
    """Squares of one value inside the image, in training alone; 8 x 8 digits."""
    options = {} if cutout is None else {"cutout": cutout}
    task = tasks.get("wrn", **options)
    assert task.cutout == size
    images = next(task.train_loader(64, 0).passing(0))[0]
    plain = next(tasks.get("wrn").train_loader(64, 0).passing(0))[0]
    changed = (images != plain).flatten(1).sum(1)
    assert int(changed.max()) <= size**2 and bool((changed > 0).any()) == (size > 0)


@pytest.mark.cuda
@pytest.mark.parametrize("name", tasks.NAMES)
def test_batches_on_a_gpu_are_those_of_a_cpu(name) -> None:
    one, other = tasks.get(name), tasks.get(name)
    other.place(torch.device("cuda"))
    if name == "wrn":
        assert other.splits["train"][0].is_cuda
    ours, theirs = (next(task.train_loader(8, 5).passing(1)) for task in (one, other))
    for a, b in zip(flat(ours), flat(theirs), strict=True):
        assert torch.allclose(a, b.cpu(), atol=1e-6)
    model = one.build(0).eval()
    found = one.evaluate(model, 64)
    again = other.evaluate(model.cuda(), 64)
    assert found["error"] == pytest.approx(again["error"], abs=0.05)


def test_images_are_normalised_by_the_training_images(all_tasks) -> None:
    task = all_tasks["wrn"]
    images = task.normalised(task.splits["train"][0])
    assert images.mean().item() == pytest.approx(0.0, abs=1e-4)
    assert images.std().item() == pytest.approx(1.0, abs=1e-3)


def test_the_splits_of_wrn_share_no_image_and_a_subset_has_all_classes(all_tasks) -> None:
    task = all_tasks["wrn"]
    assert task.count("train") + task.count("validation") == 1397
    seen = {
        split: {image.numpy().tobytes() for image in task.splits[split][0]}
        for split in ("train", "validation", "test")
    }
    assert not seen["train"] & seen["test"]
    assert not seen["train"] & seen["validation"]
    (batch,) = task.batches("test", 100)
    assert len(batch[1].unique()) == 10


# --- bert -----------------------------------------------------------------------------------------


def test_only_the_encoder_of_bert_is_analog(all_tasks) -> None:
    task = all_tasks["bert"]
    analog = convert(task.build(0), rasch2023, exclude=list(task.exclude))
    table = coverage(analog).set_index("module")
    encoder = table[table.index.str.contains(r"encoder\.layer")]
    linear = encoder[encoder.type == "Linear"]
    assert len(linear) == 6 * 2  # query, key, value, output, up, down
    assert set(linear["where"]) == {"analog"}
    others = table[~table.index.isin(linear.index)]
    assert set(others["where"]) == {"digital"}
    for name in ("bert.pooler.dense", "classifier", "bert.embeddings.word_embeddings"):
        assert name in others.index


def test_padding_changes_no_score(all_tasks) -> None:
    """A sentence scores the same alone and beside a longer one."""
    task = all_tasks["bert"]
    model = task.build(0).eval()
    tokens = sorted(task.splits["test"][0], key=len)
    short, long = tokens[0], tokens[-1]
    with torch.no_grad():
        alone = task.logits(model, {**task.collate([short]), "labels": torch.tensor([0])})
        beside = task.logits(model, {**task.collate([short, long]), "labels": torch.tensor([0, 0])})
    assert torch.allclose(alone[0], beside[0], atol=1e-5)
    assert max(map(len, tokens)) <= bert.MAX_LENGTH


def test_an_epoch_of_sentences_has_each_at_most_once(all_tasks) -> None:
    task = all_tasks["bert"]
    loader = task.train_loader(32, 0)
    batches = list(loader.passing(0))
    assert len(batches) == len(loader) == task.count("train") // 32
    lengths = sorted(int(n) for b in batches for n in b["attention_mask"].sum(1))
    everything = sorted(len(t) for t in task.splits["train"][0])
    assert len(lengths) == len(everything) // 32 * 32
    padding = 1 - sum(lengths) / sum(b["input_ids"].numel() for b in batches)
    assert padding < 0.15  # batches of like length


def test_words_of_the_test_sentences_are_not_learned_from(all_tasks) -> None:
    task = all_tasks["bert"]
    seen = {i for tokens in task.splits["train"][0] for i in tokens}
    assert set(range(4, len(task.vocabulary))) <= seen


def test_a_missing_encoder_says_how_to_name_one(tmp_path, monkeypatch) -> None:
    (tmp_path / "SST-2").mkdir()
    for name in ("train.tsv", "dev.tsv"):
        (tmp_path / "SST-2" / name).write_text("sentence\tlabel\na\t1\nb\t0\n")
    with pytest.raises(DataError, match="no checkpoint .*nowhere.*-o encoder=NAME") as caught:
        tasks.get("bert", "real", tmp_path, encoder=str(tmp_path / "nowhere"))
    assert "\n" not in str(caught.value)


def small_encoder(folder) -> str:
    """A tiny BERT and its tokenizer, as `from_pretrained` wants them."""
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    folder.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "film", "a"]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    return str(folder)


def test_nothing_held_out_is_trained_on() -> None:
    """Whole sentences; what is a run of words of one of them is no training row, all else is."""
    sentences = [f"s{i} is a b{i} film c{i}" for i in range(40)]
    parts = [f"b{i} film" for i in range(40)] + ["is a"]
    rows = [*parts, *sentences, "s1  is a b1"]
    train, held = held_out(rows, 3, rng.stream(0, "test"))
    assert len(held) == 3 and set(held) <= set(range(41, 81))
    numbers = {i - 41 for i in held}
    gone = set(held) | numbers | {40}
    gone |= {81} if 1 in numbers else set()
    assert train == [i for i in range(len(rows)) if i not in gone]
    assert len(held_out(rows, 100, rng.stream(0, "test"))[1]) == 4  # a tenth of them
    assert held_out(["a b"], 5, rng.stream(0, "test")) == ([], [0])
    assert phrases("a  b c") == {"a", "b", "c", "a b", "b c", "a b c"}


def test_sst2_with_any_encoder(tmp_path) -> None:
    rows = "".join(f"a {'good' if i % 2 else 'bad'} film {i}\t{i % 2}\n" for i in range(40))
    (tmp_path / "SST-2").mkdir()
    for name in ("train.tsv", "dev.tsv"):
        (tmp_path / "SST-2" / name).write_text("sentence\tlabel\n" + rows)
    encoder = small_encoder(tmp_path / "encoder")
    task = tasks.get("bert", "real", tmp_path, encoder=encoder)
    assert (task.count("train"), task.count("validation"), task.count("test")) == (36, 4, 40)
    assert (task.model_name, task.dataset) == ("encoder", "SST-2")
    assert task.splits["test"][0][:2] == [[2, 8, 6, 7, 1, 3], [2, 8, 5, 7, 1, 3]]
    stored = task.build(0).state_dict()
    assert torch.equal(
        stored["bert.embeddings.word_embeddings.weight"],
        task.build(1).state_dict()["bert.embeddings.word_embeddings.weight"],
    )  # from the checkpoint
    assert not torch.equal(stored["classifier.weight"], torch.zeros(2, 16))
    weights = tmp_path / "encoder" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:200])
    with pytest.raises(CheckpointError, match="weights of .*encoder cannot be loaded") as caught:
        task.build(0)
    assert "\n" not in str(caught.value)
