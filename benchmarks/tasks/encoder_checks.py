"""Checks of a pretrained encoder: its files, its tokenizer, and its weights."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open
from torch import nn

from aimc_bridge.errors import CheckpointError, DataError, UsageError
from aimc_bridge.files import MOST_BYTES, check_file, read_text
from benchmarks.tasks.data import reason
from benchmarks.tasks.sentence_task import layer_lists

if TYPE_CHECKING:  # this import takes seconds, and commands that only list the tasks do not need it
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

NAME_ONE = "name another: -o encoder=NAME"
FLOATS = ("F64", "F32", "F16", "BF16")
"""The kinds of numbers that weights can be, by their names in safetensors."""
SHORTEST = 8
"""The fewest tokens that an encoder must take: special ones, and some words."""


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


def check_tokenizer(
    tokenizer: "PreTrainedTokenizerBase", config: "PretrainedConfig", encoder: str
) -> None:
    """Check that a tokenizer has a vocabulary, and not that of another model.

    Without its files transformers makes one that knows no word.

    Args:
        tokenizer: The tokenizer.
        config: The configuration of the model.
        encoder: The hub id or the folder.

    Raises:
        DataError: If its files are missing, or its vocabulary is much smaller than the model's.
    """
    folder, wanted = Path(encoder), list(tokenizer.vocab_files_names.values())
    known, expected = len(tokenizer), getattr(config.get_text_config(), "vocab_size", None) or 0
    lacks = ""
    if folder.is_dir() and wanted and not any((folder / name).is_file() for name in wanted):
        lacks = f"none of {', '.join(wanted)}"
    elif known <= len(tokenizer.all_special_tokens):
        lacks = "its tokenizer knows no words"
    elif 2 * known < expected:
        lacks = f"its tokenizer knows {known:,} tokens, the model {expected:,}"
    if lacks:
        raise DataError(
            f"no checkpoint {encoder!r}: no config and tokenizer of one model ({lacks}); {NAME_ONE}"
        )


def check_ids(largest: int, segment: int, model: "PreTrainedModel", encoder: str) -> None:
    """Check that a model has a vector for every token and every segment.

    Args:
        largest: The largest token id of the data.
        segment: The largest segment of the data.
        model: The model; its weights do not matter.
        encoder: The hub id or the folder.

    Raises:
        DataError: If it has not.
    """
    try:
        table = model.get_input_embeddings()
    except NotImplementedError:  # CANINE has no table: it hashes characters
        table = None
    if isinstance(table, nn.Embedding) and largest >= table.num_embeddings:
        raise DataError(
            f"{encoder}: its tokenizer gives ids up to {largest:,}, its model has vectors for 0 to "
            f"{table.num_embeddings - 1:,}; the files are of two models; {NAME_ONE}"
        )
    segments = getattr(model.config.get_text_config(), "type_vocab_size", None) or 0
    if 0 < segments <= segment:
        raise DataError(
            f"{encoder}: its tokenizer gives segments up to {segment} (token_type_ids), its model "
            f"has {segments} (type_vocab_size); leave token_type_ids out of model_input_names in "
            f"tokenizer_config.json, or {NAME_ONE}"
        )


def tokens_of(model: "PreTrainedModel", most: int, encoder: str) -> int:
    """Return how many tokens of a text a model is given.

    Args:
        model: The model; its weights do not matter.
        most: The largest number.
        encoder: The hub id or the folder.

    Returns:
        `most`, or fewer if the model has fewer positions. One that counts its positions from the
        padding's id on, as RoBERTa does, takes that many fewer.

    Raises:
        DataError: If it takes too few for a sentence.
    """
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if not isinstance(positions, int) or positions < 1:  # XLNet says -1, T5 nothing: no limit
        return most
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            positions -= 0 if module.padding_idx is None else module.padding_idx + 1
            break
    if positions < SHORTEST:
        raise DataError(f"{encoder} takes {positions} tokens; needed: {SHORTEST} or more")
    return min(most, positions)


def check_weights(folder: Path, model: "PreTrainedModel") -> None:
    """Check that the weights of a checkpoint can be used, without loading them.

    Quantised weights are stored as integers, and their scales in a place of each library's own.
    Without the scales transformers would take the integers themselves for the weights.

    Args:
        folder: The folder of a checkpoint; a hub id, which is none, is not looked at.
        model: The model; its weights do not matter.

    Raises:
        CheckpointError: If a file is missing, damaged or cut short, or if weights are no
            floating-point numbers of 16 bits or more.
    """
    if getattr(model.config, "quantization_config", None):
        raise cannot_load(str(folder), "its config.json says that they are quantised")
    if not folder.is_dir():
        return
    prefix = f"{model.base_model_prefix}."
    ours = {key.removeprefix(prefix) for key, _ in model.named_parameters()}
    names, index = ["model.safetensors"], folder / "model.safetensors.index.json"
    if not (folder / names[0]).exists() and index.exists():
        try:
            names = sorted(set(json.loads(read_text(index))["weight_map"].values()))
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise cannot_load(str(folder), f"{index.name}: {reason(error)}") from None
    for name in names:
        if not (folder / name).is_file():
            raise cannot_load(str(folder), f"no file {name}; other formats can hold code")
        try:
            with safe_open(folder / name, "pt") as file:
                kinds = {key: file.get_slice(key).get_dtype() for key in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise cannot_load(str(folder), f"{name}: {reason(error)}") from None
        for key, kind in kinds.items():
            if kind not in FLOATS and (key.endswith(".weight") or key.removeprefix(prefix) in ours):
                raise cannot_load(
                    str(folder), f"{name}: {key} is stored as {kind}; allowed: {', '.join(FLOATS)}"
                )


def check_fit(model: "PreTrainedModel", info: Mapping[str, Any], encoder: str) -> None:
    """Check that a checkpoint had all weights of an encoder but the head and the pooler.

    Args:
        model: The model, with its weights.
        info: What transformers says of the loading: the missing, unexpected and mismatched keys.
        encoder: The hub id or the folder.

    Raises:
        CheckpointError: If weights are missing or have another shape, or if the checkpoint has more
            layers than the model. Where transformers finds no weight it draws random ones.
    """
    prefix = f"{model.base_model_prefix}."

    def of_encoder(name: str) -> bool:
        return name.startswith(prefix) and "pooler" not in name

    wrong = [f"{name} is missing" for name in sorted(filter(of_encoder, info["missing_keys"]))]
    wrong += [
        f"{name} is {list(stored)}, not {list(ours)}"
        for name, stored, ours in sorted(info["mismatched_keys"], key=lambda key: key[0])
        if of_encoder(name)
    ]
    layers = {f"{name.removeprefix(prefix)}.": len(part) for name, part in layer_lists(model)}
    for name in sorted(info["unexpected_keys"]):
        for start, count in layers.items():
            number = name.removeprefix(prefix).removeprefix(start).split(".")[0]
            if name.removeprefix(prefix).startswith(start) and number.isdecimal():
                wrong += [f"{name} is of no layer of the model"] * (int(number) >= count)
    if wrong:
        more = f" and {len(wrong) - 2} more" if len(wrong) > 2 else ""
        raise CheckpointError(
            f"the weights of {encoder} do not fit its configuration: {', '.join(wrong[:2])}{more}; "
            f"the files are of two models; {NAME_ONE}"
        )


def cannot_load(encoder: str, reason: str) -> CheckpointError:
    """Return the error for weights that cannot be loaded.

    Args:
        encoder: The hub id or the folder.
        reason: What is wrong.
    """
    return CheckpointError(
        f"the weights of {encoder} cannot be loaded ({reason}); copy the folder again, or "
        f"{NAME_ONE}"
    )
