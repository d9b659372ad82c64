"""Entries of transformers: language models, encoders, vision, speech, time series."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from benchmarks.zoo.entry import Entry, images, random, tokens


def _model(name: str, config: Mapping[str, Any]) -> nn.Module:
    """Return a model with random weights.

    Args:
        name: Its class, such as "BertModel".
        config: Values of its configuration.
    """
    import transformers

    kind = getattr(transformers, name)
    model: nn.Module = kind(kind.config_class(**config))
    return model


def _text() -> dict[str, Any]:
    return {"input_ids": tokens()}


def _entry(
    name: str,
    model: str,
    config: Mapping[str, Any],
    inputs: Callable[[], dict[str, Any]] = _text,
    **own: Any,
) -> Entry:
    """Return an entry of a class of transformers.

    Args:
        name: The architecture.
        model: The class of the model.
        config: Values of its configuration.
        inputs: Makes one batch of keyword arguments.
        **own: Options of the entry.
    """
    return Entry("transformers", name, partial(_model, model, config), inputs, **own)


def _long_text() -> dict[str, Any]:
    """Return texts that are long enough to reach every expert."""
    return {"input_ids": tokens(40)}


def _marked() -> dict[str, Any]:
    """Return texts whose first token attends to all."""
    mask = torch.zeros(2, 9, dtype=torch.long)
    mask[:, 0] = 1
    return {"input_ids": tokens(), "global_attention_mask": mask}


def _both() -> dict[str, Any]:
    return {"input_ids": tokens(), "decoder_input_ids": tokens(5)}


def _image() -> dict[str, Any]:
    return {"pixel_values": images(32)}


def _image_and_text() -> dict[str, Any]:
    return {"input_ids": tokens(), "pixel_values": images(32)}


def _wave() -> dict[str, Any]:
    return {"input_values": random(2, 2000)}


def _spectrum() -> dict[str, Any]:
    return {"input_features": random(2, 8, 40), "decoder_input_ids": tokens(5)}


def _series() -> dict[str, Any]:
    return {"past_values": random(2, 32, 2)}


_BODY = {
    **{"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2},
    "intermediate_size": 48,
}
_LM = _BODY | {"vocab_size": 64, "max_position_embeddings": 64}
_GROUPED = _LM | {"num_key_value_heads": 1}
_EXPERTS = _GROUPED | {"num_experts_per_tok": 2}
_ROUTED = _EXPERTS | {"head_dim": 16, "moe_intermediate_size": 24, "num_experts": 3}
_VISION = _BODY | {"image_size": 32, "patch_size": 8}
_GPT = {
    **{"n_embd": 32, "n_layer": 2, "n_head": 2, "vocab_size": 64, "n_positions": 32},
    **{"bos_token_id": 0, "eos_token_id": 0},
}
_TWO_SIDES = {
    **{"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "vocab_size": 64},
    **{"encoder_attention_heads": 2, "decoder_attention_heads": 2},
    **{"encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_position_embeddings": 32},
}
_SPEECH = _BODY | {
    **{"vocab_size": 32, "conv_dim": (16,) * 7, "num_conv_pos_embeddings": 16},
    **{"num_conv_pos_embedding_groups": 4, "layerdrop": 0.0, "mask_time_prob": 0.0},
}
_T5 = {**{"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 1, "num_heads": 2, "vocab_size": 64}}

ENTRIES = (
    # encoders
    _entry("BERT", "BertForMaskedLM", _LM, aihwkit=True, everyday=True),
    _entry("RoBERTa", "RobertaForSequenceClassification", _LM),
    _entry(
        "DistilBERT",
        "DistilBertForMaskedLM",
        {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 48, "vocab_size": 64},
    ),
    _entry("ALBERT", "AlbertForMaskedLM", _LM | {"embedding_size": 16}),
    _entry("ELECTRA", "ElectraForPreTraining", _LM | {"embedding_size": 16}),
    _entry(
        "DeBERTa v2",
        "DebertaV2ForSequenceClassification",
        _LM
        | {
            "relative_attention": True,
            "pos_att_type": "p2c|c2p",
            "max_relative_positions": 16,
            "conv_kernel_size": 3,
        },
    ),
    _entry("MPNet", "MPNetForMaskedLM", _LM),
    _entry(
        "MobileBERT",
        "MobileBertForMaskedLM",
        _LM | {"embedding_size": 16, "intra_bottleneck_size": 16},
        exclude=("cls.predictions.decoder", "cls.predictions.dense"),
        why="the output layer joins the weights of two layers",
    ),
    _entry("SqueezeBERT", "SqueezeBertForSequenceClassification", _LM | {"embedding_size": 32}),
    _entry("ModernBERT", "ModernBertForMaskedLM", _LM | {"pad_token_id": 0}),
    _entry("FNet", "FNetForSequenceClassification", _LM),
    _entry("Longformer", "LongformerForMaskedLM", _LM | {"attention_window": 4}, _marked),
    _entry("BigBird", "BigBirdForPreTraining", _LM | {"attention_type": "original_full"}),
    _entry(
        "Funnel",
        "FunnelForSequenceClassification",
        {
            "vocab_size": 64,
            "block_sizes": [1, 1],
            "d_model": 32,
            "n_head": 2,
            "d_head": 16,
            "d_inner": 48,
        },
        exclude=("*.r_kernel", "*.seg_embed"),
        why="bare parameters, multiplied with positions and segments",
    ),
    _entry(
        "XLNet",
        "XLNetForSequenceClassification",
        {"vocab_size": 64, "d_model": 32, "n_layer": 1, "n_head": 2, "d_inner": 48},
        exclude=("*.rel_attn.?", "*.seg_embed"),
        why="the projections of attention are bare parameters",
    ),
    # decoders
    _entry("GPT-2", "GPT2LMHeadModel", _GPT, aihwkit=True, everyday=True),
    _entry("GPT-J", "GPTJForCausalLM", _GPT | {"rotary_dim": 8}),
    _entry("GPT-NeoX", "GPTNeoXForCausalLM", _LM),
    _entry(
        "OPT",
        "OPTForCausalLM",
        {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "ffn_dim": 48,
            "vocab_size": 64,
            "max_position_embeddings": 32,
            "word_embed_proj_dim": 32,
        },
    ),
    _entry(
        "BLOOM",
        "BloomForCausalLM",
        {"hidden_size": 32, "n_layer": 2, "n_head": 2, "vocab_size": 64},
    ),
    _entry("Llama", "LlamaForCausalLM", _GROUPED, everyday=True),
    _entry("Mistral", "MistralForCausalLM", _GROUPED),
    _entry("Qwen2", "Qwen2ForCausalLM", _GROUPED),
    _entry("Qwen3", "Qwen3ForCausalLM", _GROUPED | {"head_dim": 16}),
    _entry("Gemma 2", "Gemma2ForCausalLM", _GROUPED | {"head_dim": 16}),
    _entry("Phi", "PhiForCausalLM", _LM),
    _entry("Phi-3", "Phi3ForCausalLM", _LM | {"pad_token_id": 0}),
    _entry(
        "Falcon",
        "FalconForCausalLM",
        {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 64},
    ),
    _entry("OLMo 2", "Olmo2ForCausalLM", _LM),
    # experts
    _entry(
        "Mixtral",
        "MixtralForCausalLM",
        _EXPERTS | {"num_local_experts": 3},
        _long_text,
        everyday=True,
    ),
    _entry("Qwen3-MoE", "Qwen3MoeForCausalLM", _ROUTED, _long_text),
    _entry(
        "GPT-OSS",
        "GptOssForCausalLM",
        _EXPERTS | {"head_dim": 16, "num_local_experts": 3, "initializer_range": 0.2},
        _long_text,
    ),
    _entry("OLMoE", "OlmoeForCausalLM", _EXPERTS | {"num_experts": 3}, _long_text),
    _entry(
        "DeepSeek V3",
        "DeepseekV3ForCausalLM",
        _EXPERTS
        | {"num_key_value_heads": 2, "n_routed_experts": 4, "n_group": 1}
        | {
            "topk_group": 1,
            "moe_intermediate_size": 16,
            "kv_lora_rank": 8,
            "q_lora_rank": 8,
            "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 8,
            "v_head_dim": 16,
            "first_k_dense_replace": 1,
        },
        _long_text,
    ),
    # state spaces
    _entry(
        "Mamba",
        "MambaForCausalLM",
        {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 1},
        exclude=("*.conv1d", "*.dt_proj"),
        why="the mixer reads these weights without calling the layers",
    ),
    _entry(
        "Mamba-2",
        "Mamba2ForCausalLM",
        {
            "vocab_size": 64,
            "hidden_size": 32,
            "num_hidden_layers": 1,
            "num_heads": 4,
            "head_dim": 16,
            "n_groups": 1,
            "state_size": 16,
        },
        exclude=("*.conv1d",),
        why="the mixer reads these weights without calling the layer",
    ),
    _entry(
        "RWKV",
        "RwkvForCausalLM",
        {
            "vocab_size": 64,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "context_length": 32,
            "attention_hidden_size": 32,
        },
    ),
    # two sides
    _entry("T5", "T5ForConditionalGeneration", _T5, _both),
    _entry("BART", "BartForConditionalGeneration", _TWO_SIDES, _both),
    _entry(
        "Marian",
        "MarianMTModel",
        _TWO_SIDES | {"pad_token_id": 0, "decoder_start_token_id": 0},
        _both,
    ),
    # speech
    _entry(
        "Whisper",
        "WhisperForConditionalGeneration",
        {key: value for key, value in _TWO_SIDES.items() if "max" not in key}
        | {
            "num_mel_bins": 8,
            "max_source_positions": 20,
            "max_target_positions": 20,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "decoder_start_token_id": 1,
        },
        _spectrum,
    ),
    _entry("wav2vec 2.0", "Wav2Vec2ForCTC", _SPEECH, _wave),
    _entry("HuBERT", "HubertForCTC", _SPEECH, _wave),
    # vision, and vision with text
    _entry("ViT", "ViTForImageClassification", _VISION, _image, everyday=True),
    _entry("DINOv2", "Dinov2ForImageClassification", _VISION, _image),
    _entry("BEiT", "BeitForImageClassification", _VISION, _image),
    _entry(
        "Swin",
        "SwinForImageClassification",
        {
            "image_size": 32,
            "patch_size": 4,
            "embed_dim": 16,
            "depths": [2, 2],
            "num_heads": [1, 2],
            "window_size": 4,
            "drop_path_rate": 0.0,
        },
        _image,
    ),
    _entry(
        "SegFormer",
        "SegformerForSemanticSegmentation",
        {
            "num_encoder_blocks": 2,
            "depths": [1, 1],
            "sr_ratios": [2, 1],
            "hidden_sizes": [8, 16],
            "patch_sizes": [3, 3],
            "strides": [2, 2],
            "num_attention_heads": [1, 2],
            "mlp_ratios": [2, 2],
            "decoder_hidden_size": 16,
        },
        _image,
    ),
    _entry(
        "CLIP",
        "CLIPModel",
        {"text_config": _LM | {"eos_token_id": 2}, "vision_config": _VISION, "projection_dim": 16},
        _image_and_text,
    ),
    _entry(
        "SigLIP", "SiglipModel", {"text_config": _LM, "vision_config": _VISION}, _image_and_text
    ),
    # time series
    _entry(
        "PatchTST",
        "PatchTSTForPrediction",
        {
            "context_length": 32,
            "patch_length": 8,
            "patch_stride": 8,
            "num_input_channels": 2,
            "d_model": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "ffn_dim": 24,
            "prediction_length": 4,
        },
        _series,
    ),
    _entry(
        "PatchTSMixer",
        "PatchTSMixerForPrediction",
        {
            "context_length": 32,
            "patch_length": 8,
            "patch_stride": 8,
            "num_input_channels": 2,
            "d_model": 8,
            "num_layers": 2,
            "prediction_length": 4,
        },
        _series,
    ),
)
