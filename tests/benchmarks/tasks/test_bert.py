"""The BERTs' task: analog layers, padding, splits of sentences, encoders by name."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from aimc_bridge import convert, coverage, rng
from aimc_bridge.errors import CheckpointError, DataError
from benchmarks import tasks
from benchmarks.studies.settings import Settings
from benchmarks.tasks import bert, encoders, glue
from benchmarks.tasks.glue import held_out, phrases
from benchmarks.tasks.plan import recipe_for
from presets import ideal, rasch2023


def test_only_the_encoder_of_bert_is_analog(all_tasks) -> None:
    task = all_tasks["bert"]
    model = task.build(0)
    analog = convert(model, rasch2023, exclude=task.digital_names(model))
    table = coverage(analog).set_index("module")
    encoder = table[table.index.str.contains(r"encoder\.layer")]
    linear = encoder[encoder.type == "Linear"]
    assert len(linear) == 6 * 2  # These are query, key, value, output, up and down.
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
    assert padding < 0.15  # Batches have sentences of similar length.


@pytest.mark.parametrize("subset", [3, 64, None])
def test_an_evaluation_takes_each_sentence_once_with_little_padding(all_tasks, subset) -> None:
    task = all_tasks["bert"]
    tokens, labels = (part[:subset] for part in task.splits["test"])
    evaluated = []
    sizes = []
    for batch in task.batches("test", subset):
        lengths = batch["attention_mask"].sum(1).tolist()
        rows = zip(batch["input_ids"].tolist(), lengths, batch["labels"].tolist(), strict=True)
        evaluated += [(row[:length], label) for row, length, label in rows]
        sizes.append(batch["input_ids"].numel())
    assert sorted(evaluated) == sorted(zip(tokens, labels, strict=True))
    if len(tokens) >= 64:
        assert 1 - sum(map(len, tokens)) / sum(sizes) < 0.35  # A batch of all 64 would have 0.8.


def test_words_of_the_test_sentences_are_not_learned_from(all_tasks) -> None:
    task = all_tasks["bert"]
    seen = {i for tokens in task.splits["train"][0] for i in tokens}
    assert set(range(4, len(task.vocabulary))) <= seen


def test_a_missing_encoder_says_how_to_name_one(tmp_path) -> None:
    with pytest.raises(DataError, match="no checkpoint .*nowhere.*-o encoder=NAME") as caught:
        tasks.get("bert", "real", tmp_path, encoder=str(tmp_path / "nowhere"))
    assert "\n" not in str(caught.value)


def small_encoder(folder) -> str:
    """Write a tiny BERT and its tokenizer, as `from_pretrained` wants them."""
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
    """Whole sentences are held out.

    A row that is a run of words of one of them is no training row; all other rows are.
    """
    sentences = [f"s{i} is a b{i} film c{i}" for i in range(40)]
    parts = [f"b{i} film" for i in range(40)] + ["is a"]
    rows = [*parts, *sentences, "s1  is a b1"]
    train, held = held_out(rows, 3, rng.stream(0, "test"))
    assert len(held) == 3 and set(held) <= set(range(41, 81))
    numbers = {i - 41 for i in held}
    gone = set(held) | numbers | {40}
    gone |= {81} if 1 in numbers else set()
    assert train == [i for i in range(len(rows)) if i not in gone]
    assert len(held_out(rows, 100, rng.stream(0, "test"))[1]) == 4  # This is a tenth of them.
    assert held_out(["a b"], 5, rng.stream(0, "test")) == ([], [0])
    assert phrases("a  b c") == {"a", "b", "c", "a b", "b c", "a b c"}


def test_sst2_with_any_encoder(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(glue.ROWS, "SST-2", {"train": 40, "dev": 40, "test": 2})
    monkeypatch.setitem(glue.DIGESTS, "SST-2", {})
    rows = "".join(f"a {'good' if i % 2 else 'bad'} film {i}\t{i % 2}\n" for i in range(40))
    (tmp_path / "SST-2").mkdir()
    for name in ("train.tsv", "dev.tsv"):
        (tmp_path / "SST-2" / name).write_text("sentence\tlabel\n" + rows)
    encoder = small_encoder(tmp_path / "encoder")
    task = tasks.get("bert", "real", tmp_path, encoder=encoder)
    assert (task.count("train"), task.count("validation"), task.count("test")) == (36, 4, 40)
    assert (task.model_name, task.dataset) == ("BERT 1x16", "SST-2")
    assert "token_type_ids" not in task.collate(task.splits["test"][0][:2])
    assert task.splits["test"][0][:2] == [[2, 8, 6, 7, 1, 3], [2, 8, 5, 7, 1, 3]]
    stored = task.build(0).state_dict()
    assert torch.equal(
        stored["bert.embeddings.word_embeddings.weight"],
        task.build(1).state_dict()["bert.embeddings.word_embeddings.weight"],
    )  # They come from the checkpoint.
    assert not torch.equal(stored["classifier.weight"], torch.zeros(2, 16))
    weights = tmp_path / "encoder" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:200])
    with pytest.raises(CheckpointError, match="weights of .*encoder cannot be loaded") as caught:
        task.build(0)
    assert "\n" not in str(caught.value)


def test_labelled_test_sentences_are_test_data_too(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(glue.ROWS, "SST-2", {"train": 40, "dev": 40, "test": 2})
    monkeypatch.setitem(glue.DIGESTS, "SST-2", {})
    rows = "".join(f"a {'good' if i % 2 else 'bad'} film {i}\t{i % 2}\n" for i in range(40))
    (tmp_path / "SST-2").mkdir()
    for name in ("train.tsv", "dev.tsv"):
        (tmp_path / "SST-2" / name).write_text("sentence\tlabel\n" + rows)
    encoder = small_encoder(tmp_path / "encoder")
    test = tmp_path / "SST-2" / "test.tsv"
    test.write_text("index\tsentence\n0\ta film\n1\tb\n")  # GLUE's own has no labels.
    task = tasks.get("bert", "real", tmp_path, encoder=encoder)
    assert (task.dataset, task.count("test")) == ("SST-2", 40)
    test.write_text("sentence\tlabel\na good film\t1\na bad film\t0\n")
    task = tasks.get("bert", "real", tmp_path, encoder=encoder)
    assert (task.dataset, task.count("test")) == ("SST-2 (dev and test)", 42)
    assert task.splits["test"][0][40:] == [[2, 8, 5, 7, 3], [2, 8, 6, 7, 3]]
    assert task.splits["test"][1][40:] == [1, 0]


def small_mpnet(folder) -> str:
    """Write a tiny MPNet and its tokenizer: its modules have other names than BERT's."""
    from transformers import MPNetConfig, MPNetForMaskedLM, MPNetTokenizerFast

    folder.mkdir()
    words = ["<s>", "<pad>", "</s>", "<unk>", "good", "bad", "film", "a", "[UNK]", "<mask>"]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    MPNetTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    config = MPNetConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        pad_token_id=1,
    )
    MPNetForMaskedLM(config).save_pretrained(folder)
    return str(folder)


def mrpc_files(folder, monkeypatch, n: int = 40) -> None:
    monkeypatch.setitem(glue.ROWS, "MRPC", {"train": n, "dev": 3, "test": 2})
    monkeypatch.setitem(glue.DIGESTS, "MRPC", {})
    header = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
    (folder / "MRPC").mkdir(parents=True)
    for name, rows in (("train", n), ("dev", 3), ("test", 2)):
        pairs = ((f"good {i} film{' a' * (i % 3)}", f"bad {name} {i}") for i in range(rows))
        lines = (f"{i % 2}\t{i}\t{i + 1}\t{one}\t{two}\n" for i, (one, two) in enumerate(pairs))
        (folder / "MRPC" / f"{name}.tsv").write_text(header + "".join(lines))


def test_an_mpnet_converts_with_its_head_digital(tmp_path, monkeypatch) -> None:
    """Its names match no pattern that was written for BERT; its layers are all analog."""
    mrpc_files(tmp_path, monkeypatch)
    encoder = small_mpnet(tmp_path / "mpnet")
    task = tasks.get("bert", "real", tmp_path, encoder=encoder, dataset="mrpc")
    named = (task.model_name, task.dataset, task.unit)
    assert named == ("MPNet 2x16", "MRPC (dev and test)", "pairs")
    assert (task.count("test"), task.n_classes, task.recipe) == (5, 2, "bert_mrpc")
    model = task.build(0).eval()
    assert task.digital_names(model) == ["classifier"]
    analog = convert(model, ideal, exclude=task.digital_names(model)).eval()
    table = coverage(analog).set_index("module")
    linear = table[table.type == "Linear"]
    assert sorted(linear["where"]) == ["analog"] * 12 + ["digital"] * 2
    head = {"classifier.dense", "classifier.out_proj"}
    assert set(linear.index[linear["where"] == "digital"]) == head
    (batch,) = task.batches("test")
    assert "token_type_ids" not in batch  # The model has one kind of segment.
    with torch.no_grad():
        expected, actual = task.logits(model, batch), task.logits(analog, batch)
    assert torch.allclose(expected, actual, atol=1e-5)


@pytest.mark.parametrize(
    ("layers", "width", "heads", "kind", "origin", "name"),
    [
        (12, 768, 12, "mpnet", "microsoft/mpnet-base", "MPNet-base"),
        (12, 768, 12, "bert", "", "BERT-base"),
        (12, 768, 6, "bert", "", "BERT 12x768"),
        (24, 1024, 16, "roberta", "", "RoBERTa-large"),
        (6, 384, 12, "bert", "nreimers/MiniLM-L6-H384-uncased", "MiniLM-L6"),
        (12, 384, 12, "bert", "microsoft/MiniLM-L12-H384-uncased", "MiniLM-L12"),
        (6, 384, 12, "bert", "", "BERT 6x384"),
        (6, 384, 6, "bert", "MiniLM-L6", "BERT 6x384"),
        (2, 384, 12, "bert", "me/not-a-MiniLM-at-all", "BERT 2x384"),
        (6, 384, 12, "roberta", "MiniLM-L6", "RoBERTa 6x384"),
        (4, 256, 4, "bert", "", "BERT 4x256"),
        (6, 768, 12, "xmod", "", "xmod 6x768"),
    ],
)
def test_an_encoder_is_called_what_its_configuration_says(
    layers, width, heads, kind, origin, name
) -> None:
    from transformers import PretrainedConfig

    config = PretrainedConfig(
        num_hidden_layers=layers, hidden_size=width, num_attention_heads=heads
    )
    config.model_type = kind
    assert encoders.name_of(config, origin) == name


def test_a_pair_has_two_segments(tmp_path, monkeypatch) -> None:
    """The model inputs are those of the tokenizer, padding included."""
    mrpc_files(tmp_path, monkeypatch)
    encoder = small_encoder(tmp_path / "encoder")
    task = tasks.get("bert", "gpu", tmp_path, encoder=encoder, dataset="mrpc")
    first, second = ["good 0 film", "a"], ["bad dev 0", "film a good bad"]
    expected = task.tokenizer(first, second, padding=True, return_tensors="pt")
    inputs = task.collate(*task.tokens(first, second))
    assert set(inputs) == set(expected) == {"input_ids", "attention_mask", "token_type_ids"}
    for name, values in expected.items():
        assert torch.equal(inputs[name], values), name
    assert int(inputs["token_type_ids"].sum()) == 4 + 5  # Words and the separator.
    for batch in (next(iter(task.digital_loader(4, 0))), *task.batches("test")):
        ends = (batch["input_ids"] == task.tokenizer.sep_token_id).long()
        after_first = (ends.cumsum(1) - ends > 0) & (batch["attention_mask"] > 0)
        assert torch.equal(batch["token_type_ids"], after_first.long())
    assert "token_type_ids" in task.calibration_batches(1)[0]
    ((cut,), (segments,)) = task.tokens(["a " * 200], ["film " * 90])
    assert len(cut) == len(segments) == 128


def test_pairs_that_share_a_sentence_with_a_held_out_one_are_not_trained_on() -> None:
    n = 50
    pairs = [f"a{i}" for i in range(n)], [f"a{(i + 1) % n}" for i in range(n)], [0] * n
    train, held = glue.held_out_pairs(pairs, 3, rng.stream(0, "test"))
    assert len(held) == 3
    near = {j % n for i in held for j in (i - 1, i, i + 1)}
    assert train == [i for i in range(n) if i not in near]
    assert len(glue.held_out_pairs(pairs, 100, rng.stream(0, "test"))[1]) == 5  # A tenth.


def test_the_plans_of_bert_follow_its_options() -> None:
    kind = tasks.find("bert")
    assert kind.plan_of("real") == bert.PLANS["real"]
    assert kind.plan_of("real", {"encoder": "x"}) == bert.BASE_SIZE
    pairs = kind.plan_of("gpu", {"dataset": "mrpc", "encoder": "x"})
    assert pairs.hwa_batches == 1500 and pairs.overrides["lr_drop_epochs"] == ()
    settings = Settings(
        tasks=("bert", "wrn"), profile="real", option=("dataset=mrpc", "width=2"), chips=7
    )
    assert settings.plan_of("bert") == dataclasses.replace(bert.PAIR_PLANS["real"], chips=7)
    for profile, plan in bert.PAIR_PLANS.items():
        recipe = recipe_for(rasch2023, "bert_mrpc", plan, {})
        assert {key: getattr(recipe.spec, key) for key in plan.overrides} == plan.overrides, profile


def test_an_encoder_with_code_or_pickles_is_refused(tmp_path, monkeypatch) -> None:
    """Its code is not run, nobody is asked, and weights that could hold code are not read."""
    monkeypatch.setitem(glue.ROWS, "SST-2", {"train": 40, "dev": 40, "test": 2})
    monkeypatch.setitem(glue.DIGESTS, "SST-2", {})
    (tmp_path / "SST-2").mkdir()
    for name in ("train.tsv", "dev.tsv"):
        (tmp_path / "SST-2" / name).write_text("sentence\tlabel\n" + "a good film\t1\n" * 40)
    encoder = tmp_path / "encoder"
    small_encoder(encoder)
    config = json.loads((encoder / "config.json").read_text())
    strange = {**config, "model_type": "strange", "auto_map": {"AutoConfig": "code.Config"}}
    (encoder / "config.json").write_text(json.dumps(strange))
    (encoder / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    with pytest.raises(DataError, match="no checkpoint .*encoder"):
        tasks.get("bert", "real", tmp_path, encoder=str(encoder))
    assert not (tmp_path / "ran").exists()
    (encoder / "config.json").write_text(json.dumps(config))
    (encoder / "model.safetensors").unlink()
    torch.save({}, encoder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="weights of .*encoder cannot be loaded"):
        tasks.get("bert", "real", tmp_path, encoder=str(encoder)).build(0)
