"""Encoders of strangers: folders that do not fit together, and models unlike BERT."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from aimc_bridge import convert, coverage
from aimc_bridge.errors import CheckpointError, DataError, UsageError
from aimc_bridge.sealed_files import write_tensors
from benchmarks import tasks
from benchmarks.tasks import encoders
from presets import ideal
from tests.benchmarks.tasks.test_bert import mrpc_files, small_encoder


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with a small BERT; MRPC lies beside it."""
    mrpc_files(tmp_path, monkeypatch)
    return Path(small_encoder(tmp_path / "encoder"))


def made(folder: Path) -> encoders.PretrainedTask:
    task = tasks.get("bert", "real", folder.parent, encoder=str(folder), dataset="mrpc")
    assert isinstance(task, encoders.PretrainedTask)
    return task


def change(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def replace(folder: Path, model: Any) -> None:
    """Put another model into a folder; its tokenizer stays."""
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder)


def small(**values: Any) -> dict[str, Any]:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return {"vocab_size": 9, "intermediate_size": 16, "pad_token_id": 0, **sizes, **values}


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"num_hidden_layers": 2}, r"bert\.encoder\.layer\.1\.attention\S+ is missing.* 14 more"),
        ({"model_type": "roberta"}, r"roberta\.embeddings\.LayerNorm\.bias is missing"),
        ({"hidden_size": 32}, r"bert\.embeddings\.LayerNorm\.bias is \[16\], not \[32\]"),
    ],
    ids=["more layers", "another family", "wider"],
)
def test_weights_of_another_model_are_no_random_encoder(folder, values, complaint) -> None:
    change(folder, **values)
    with pytest.raises(CheckpointError, match=f"do not fit its configuration: .*{complaint}"):
        made(folder).build(0)


@pytest.mark.parametrize("kind", ["I8", "U8", "I32", "F8_E4M3"])
def test_weights_that_are_no_floats_of_16_bits_are_refused(folder, kind) -> None:
    """Quantised weights without their scales are other numbers than those of the model."""
    path = folder / "model.safetensors"
    kinds = {"I8": torch.int8, "U8": torch.uint8, "I32": torch.int32}
    dtype = kinds.get(kind, torch.float8_e4m3fn)
    whole, name = load_file(path), "bert.encoder.layer.0.attention.self.query"
    task = made(folder)
    for part in ("weight", "bias"):
        save_file({**whole, f"{name}.{part}": whole[f"{name}.{part}"].to(dtype)}, path)
        for use in (lambda: task.digital_loader(4, 0), lambda: task.build(0)):
            complaint = rf"cannot be loaded .*query\.{part} is stored as {kind}; allowed: F64, F32"
            with pytest.raises(CheckpointError, match=complaint):
                use()
    # parts that hold no weights are integers in old checkpoints
    positions = {"bert.embeddings.position_ids": torch.arange(512)[None]}
    save_file({**{key: value.half() for key, value in whole.items()}, **positions}, path)
    assert task.build(0).bert.pooler.dense.weight.dtype == torch.float32
    change(folder, quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True})
    with pytest.raises(CheckpointError, match=r"config\.json says that they are quantised"):
        made(folder).build(0)


def test_layers_that_the_configuration_leaves_out_are_not_cut_silently(folder) -> None:
    from transformers import BertConfig, BertForSequenceClassification, BertModel

    for model in (BertModel, BertForSequenceClassification):
        replace(folder, model(BertConfig(**small(num_hidden_layers=2))))
        change(folder, num_hidden_layers=1)
        complaint = r"encoder\.layer\.1\.\S+ is of no layer of the model"
        with pytest.raises(CheckpointError, match=f"do not fit its configuration: .*{complaint}"):
            made(folder).build(0)
    change(folder, num_hidden_layers=0)
    with pytest.raises(UsageError, match="layers of an encoder cannot be told"):
        made(folder)


def test_only_head_and_pooler_may_be_new(folder) -> None:
    from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification

    replace(folder, BertForMaskedLM(BertConfig(**small())))
    assert made(folder).build(0).classifier.out_features == 2
    three = BertForSequenceClassification(BertConfig(**small(num_labels=3)))
    replace(folder, three)
    built = made(folder).build(0).state_dict()
    for name, stored in three.state_dict().items():
        if name.startswith("bert."):
            assert torch.equal(built[name], stored), name
    assert built["classifier.weight"].shape == (2, 16)
    assert built["classifier.weight"].std() > 0
    again, other = made(folder).build(0).state_dict(), made(folder).build(1).state_dict()
    assert torch.equal(built["classifier.weight"], again["classifier.weight"])
    assert not torch.equal(built["classifier.weight"], other["classifier.weight"])


def test_a_folder_without_tokenizer_files_is_refused(folder) -> None:
    for path in folder.iterdir():
        if "token" in path.name or "vocab" in path.name:
            path.unlink()
    with pytest.raises(DataError, match=r"no config and tokenizer .*none of .*tokenizer\.json"):
        made(folder)


def test_a_tokenizer_of_another_model_is_refused(folder) -> None:
    from transformers import BertConfig, BertForSequenceClassification

    replace(folder, BertForSequenceClassification(BertConfig(**small(vocab_size=100))))
    with pytest.raises(DataError, match="its tokenizer knows 9 tokens, the model 100"):
        made(folder)
    replace(folder, BertForSequenceClassification(BertConfig(**small(vocab_size=6))))
    with pytest.raises(DataError, match="ids up to 8, its model has vectors for 0 to 5"):
        made(folder)


@pytest.mark.parametrize(("kind", "tokens"), [("Bert", 16), ("Roberta", 13), ("Distil", 128)])
def test_texts_are_cut_to_what_the_model_takes(folder, kind, tokens) -> None:
    """RoBERTa counts its positions from the id of its padding on; here that is 2."""
    import transformers

    if kind == "Distil":
        config = transformers.DistilBertConfig(vocab_size=9, dim=16, n_layers=1, n_heads=2)
        replace(folder, transformers.DistilBertForSequenceClassification(config))
    else:
        values = small(max_position_embeddings=16, pad_token_id=2 if kind == "Roberta" else 0)
        config = getattr(transformers, f"{kind}Config")(**values)
        replace(folder, getattr(transformers, f"{kind}ForSequenceClassification")(config))
    task = made(folder)
    ids, _ = task.tokens(["a good film " * 60])
    assert [len(row) for row in ids] == [task.max_length] == [tokens]
    assert task.model_name.endswith(f", {tokens} tokens") == (tokens < 128)
    with torch.no_grad():
        assert task.build(0).eval()(**task.collate(ids)).logits.isfinite().all()


def roberta(folder: Path, segments: int, pair: str) -> None:
    """Put a RoBERTa into a folder, with a tokenizer that lists segments among its outputs."""
    from tokenizers.processors import TemplateProcessing
    from transformers import (
        BertTokenizerFast,
        PreTrainedTokenizerFast,
        RobertaConfig,
        RobertaForSequenceClassification,
    )

    backend = BertTokenizerFast.from_pretrained(folder).backend_tokenizer
    special = [("[CLS]", 2), ("[SEP]", 3)]
    backend.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair=pair, special_tokens=special
    )
    PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="[PAD]",
        sep_token="[SEP]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    ).save_pretrained(folder)
    config = RobertaConfig(**small(type_vocab_size=segments, max_position_embeddings=200))
    replace(folder, RobertaForSequenceClassification(config))


ONE_SEGMENT = "[CLS] $A [SEP] [SEP] $B [SEP]"


@pytest.mark.parametrize("segments", [1, 2])
def test_a_separator_makes_no_segment(folder, segments) -> None:
    """RoBERTa's tokenizer has segment 0 only, whatever stands between the sentences of a pair."""
    roberta(folder, segments, ONE_SEGMENT)
    task = made(folder)
    assert "token_type_ids" in task.tokenizer.model_input_names
    (batch,) = task.batches("test")
    assert int((batch["input_ids"] == task.tokenizer.sep_token_id).sum(1).min()) == 3
    assert "token_type_ids" not in batch  # 0 is what the model takes without them
    model = task.build(0).eval()
    told = {**batch, "token_type_ids": torch.zeros_like(batch["input_ids"])}
    with torch.no_grad():
        assert torch.equal(task.logits(model, batch), model(**told).logits)


def test_segments_are_the_tokenizers(folder) -> None:
    """Here the separator behind the first sentence is of the second segment."""
    roberta(folder, 2, "[CLS] $A [SEP]:1 [SEP] $B:1 [SEP]")
    task = made(folder)
    (batch,) = task.batches("test")
    rows = zip(batch["input_ids"].tolist(), batch["token_type_ids"].tolist(), strict=True)
    for ids, segments in rows:
        first = ids.index(3)
        assert segments[: first + 2] == [0] * first + [1, 0]
        assert segments[first + 2 :].count(1) == len(ids) - first - 3 - ids.count(0)
    roberta(folder, 1, "[CLS] $A [SEP]:1 [SEP] $B:1 [SEP]")
    with pytest.raises(DataError, match="gives segments up to 1 .*its model has 1 .*leave token_"):
        made(folder)


@pytest.mark.parametrize("kind", ["Nystromformer", "GPT2"])
def test_a_model_that_takes_no_padded_batch_is_refused_before_training(folder, kind) -> None:
    import transformers

    values = {
        "Nystromformer": small(num_landmarks=8, max_position_embeddings=128),
        "GPT2": {"vocab_size": 9, "n_embd": 16, "n_layer": 1, "n_head": 2},
    }
    config = getattr(transformers, f"{kind}Config")(**values[kind])
    replace(folder, getattr(transformers, f"{kind}ForSequenceClassification")(config))
    change(folder, pad_token_id=None if kind == "GPT2" else 0)
    task = made(folder)
    reason = {"Nystromformer": "RuntimeError: shape", "GPT2": "ValueError: Cannot handle batch"}
    complaint = rf"{kind}\w+ cannot do its work on 2 sentences .* \d tokens \({reason[kind]}"
    for use in (lambda: task.digital_loader(4, 0), lambda: task.build(0)):
        with pytest.raises(DataError, match=complaint) as caught:
            use()
        assert "-o encoder=NAME" in str(caught.value) and "\n" not in str(caught.value)
    task.skeleton()
    if kind == "GPT2":
        change(folder, pad_token_id=0)
        (batch,) = made(folder).batches("test")
        scores = made(folder).build(0).eval()(batch["input_ids"], None, batch["attention_mask"])
        assert scores.logits.shape == (5, 2)


def test_the_reason_of_a_refusal_is_said_in_full(folder) -> None:
    """Other libraries say it in the second line or later."""
    from transformers import ModernBertConfig

    saved = (folder / "config.json").read_text()
    ModernBertConfig(**small(num_hidden_layers=2)).save_pretrained(folder)
    change(folder, num_hidden_layers=3)
    with pytest.raises(DataError, match=r"`num_hidden_layers` \(3\) must be equal") as caught:
        made(folder)
    assert "\n" not in str(caught.value)
    (folder / "config.json").write_text(saved)
    for path in folder.glob("*.txt"):
        path.unlink()
    (folder / "tokenizer.json").unlink()
    path = folder / "tokenizer_config.json"
    words = {**json.loads(path.read_text()), "tokenizer_class": "PreTrainedTokenizerFast"}
    path.write_text(json.dumps(words))
    with pytest.raises(DataError, match=r"instantiate the backend tokenizer .*serialization file"):
        made(folder)


def test_a_model_that_takes_no_sentence_is_refused(folder) -> None:
    change(folder, max_position_embeddings=4)
    with pytest.raises(DataError, match="takes 4 tokens; needed: 8 or more"):
        made(folder)


@pytest.mark.parametrize("kind", ["CLIPConfig", "ViTConfig", "PerceiverConfig"])
def test_a_model_without_a_head_for_texts_is_refused(folder, kind) -> None:
    import transformers

    getattr(transformers, kind)().save_pretrained(folder)
    message = "encoder holds no text encoder with a sequence classification head"
    with pytest.raises(DataError, match=message) as caught:
        made(folder)
    assert "\n" not in str(caught.value)


def test_weights_are_looked_at_before_a_training(folder) -> None:
    """`--dry-run` makes the batches of the digital training, but no model."""
    task, weights = made(folder), folder / "model.safetensors"
    whole = weights.read_bytes()
    task.digital_loader(4, 0)
    for content in (whole[:-4], whole[:100], b""):
        weights.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"cannot be loaded \(model\.safetensors: "):
            task.digital_loader(4, 0)
    weights.unlink()
    with pytest.raises(CheckpointError, match=r"cannot be loaded \(no file model\.safetensors"):
        task.digital_loader(4, 0)
    task.skeleton()  # a trained model needs the folder's configuration only
    (folder / "one.safetensors").write_bytes(whole)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "one.safetensors"}}))
    task.digital_loader(4, 0)
    index.write_text(json.dumps({"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}))
    with pytest.raises(CheckpointError, match=r"no file two\.safetensors"):
        task.digital_loader(4, 0)
    index.write_text("[]")
    with pytest.raises(CheckpointError, match=r"index\.json"):
        task.digital_loader(4, 0)


def test_a_model_trained_from_half_precision_weights_is_not_rounded_to_them(folder) -> None:
    from transformers import BertConfig, BertForSequenceClassification

    replace(folder, BertForSequenceClassification(BertConfig(**small())).half())
    trained = made(folder).build(0)
    nn.init.constant_(trained.classifier.weight, 0.1)
    write_tensors(folder.parent / "model.safetensors", trained.state_dict())
    loaded = made(folder).load(folder.parent).state_dict()
    assert trained.classifier.weight.dtype == loaded["classifier.weight"].dtype == torch.float32
    for name, weight in trained.state_dict().items():
        assert torch.equal(loaded[name], weight), name


@pytest.mark.parametrize(
    ("kind", "sizes", "digital", "linear"),
    [
        ("XLM", {"emb_dim": 16, "n_layers": 3, "n_heads": 2}, ["sequence_summary"], 18),
        ("Flaubert", {"emb_dim": 16, "n_layers": 3, "n_heads": 2}, ["sequence_summary"], 18),
        (
            "T5",
            {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2},
            ["classification_head"],
            32,
        ),
        (
            "MobileBert",
            small(embedding_size=8, intra_bottleneck_size=8, true_hidden_size=8),
            ["mobilebert.embeddings", "mobilebert.pooler", "classifier"],
            15,
        ),
        (
            "Bart",
            {"d_model": 16, "encoder_layers": 2, "decoder_layers": 1, "encoder_ffn_dim": 24},
            ["classification_head"],
            22,
        ),
        ("Electra", small(embedding_size=8), ["electra.embeddings_project", "classifier"], 6),
    ],
)
def test_all_layers_of_an_encoder_are_analog(all_tasks, kind, sizes, digital, linear) -> None:
    """Also where they lie in several lists: those of XLM's attention and feed-forward layers."""
    import transformers

    config = getattr(transformers, f"{kind}Config")(**{"vocab_size": 9, **sizes})
    model = getattr(transformers, f"{kind}ForSequenceClassification")(config).eval()
    task = all_tasks["bert"]
    assert task.digital_names(model) == digital
    table = coverage(convert(model, ideal, exclude=digital)).set_index("module")
    rows = table[(table.type == "Linear") & (table["where"] == "analog")]
    assert len(rows) == linear
    assert not rows.index.str.contains("pool|classif|embed|summary").any()


def test_a_part_that_may_be_a_layer_does_not_stay_digital_silently(all_tasks) -> None:
    from transformers import BertConfig, BertForSequenceClassification

    model = BertForSequenceClassification(BertConfig(**small()))
    model.bert.encoder.extra = nn.Sequential(nn.Linear(16, 16))
    with pytest.raises(UsageError, match=r"whether bert\.encoder\.extra is a layer"):
        all_tasks["bert"].digital_names(model)


def test_a_model_that_is_not_of_transformers_has_several_lists_too(all_tasks) -> None:
    model = nn.Module()
    model.attention = nn.ModuleList([nn.Linear(4, 4)])
    model.norms = nn.ModuleList([nn.LayerNorm(4), nn.LayerNorm(4)])
    model.feed_forward = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
    model.head = nn.Linear(4, 2)
    assert all_tasks["bert"].digital_names(model) == ["head"]
