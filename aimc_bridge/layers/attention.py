"""Analog multi-head attention: projections on crossbars, attention products digital."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from aimc_bridge.errors import ShapeError, UsageError
from aimc_bridge.layers.attributes import AnalogModule, computed, weight_of
from aimc_bridge.layers.linear import MakeLinear
from aimc_bridge.layers.parameters import copied_parameter


class AnalogMultiheadAttention(AnalogModule):
    """An analog counterpart of `nn.MultiheadAttention`.

    The children `q`, `k`, `v` and `out` are analog linear layers. The products of attention itself
    are digital, and `bias_k` and `bias_v`, shape [1, 1, embed_dim], stay digital parameters.
    """

    # nn.TransformerEncoderLayer reads this before its fast path, and it rules it out. In torch it
    # also says that `q_proj_weight`, `k_proj_weight` and `v_proj_weight` exist, as they do here.
    _qkv_same_embed_dim: bool = False

    def __init__(
        self,
        module: nn.MultiheadAttention,
        make_linear: MakeLinear,
    ) -> None:
        """Put the projections of a digital layer on tiles.

        Args:
            module: The digital layer.
            make_linear: Makes the analog linear layers.
        """
        super().__init__()
        self.embed_dim, self.kdim, self.vdim = module.embed_dim, module.kdim, module.vdim
        self.num_heads, self.head_dim = module.num_heads, module.head_dim
        self.dropout, self.batch_first = module.dropout, module.batch_first
        self.add_zero_attn = module.add_zero_attn
        weights: list[Tensor]
        if module._qkv_same_embed_dim:
            weights = _thirds(module.in_proj_weight)
        else:
            weights = [module.q_proj_weight, module.k_proj_weight, module.v_proj_weight]
        biases: list[Tensor] | list[None] = [None, None, None]
        if module.in_proj_bias is not None:
            biases = _thirds(module.in_proj_bias)
        self.q, self.k, self.v = map(make_linear, weights, biases)
        self.out = make_linear(module.out_proj.weight, module.out_proj.bias)
        self.register_parameter("bias_k", copied_parameter(module.bias_k))
        self.register_parameter("bias_v", copied_parameter(module.bias_v))

    bias_k: nn.Parameter | None
    bias_v: nn.Parameter | None

    @property
    def out_proj(self) -> nn.Module:
        """The analog output projection: the child `out`."""
        return self.out

    @property
    def in_proj_weight(self) -> Tensor | None:
        """The trained weights of q, k and v, one above the other: a copy, for reading.

        It is None if keys or values have a width of their own, as in `nn.MultiheadAttention`.
        """
        if not self.embed_dim == self.kdim == self.vdim:
            return None
        weight = torch.cat([weight_of(part) for part in (self.q, self.k, self.v)])
        return computed(weight, "set those of the layers q, k and v: attention.q.weight")

    @property
    def in_proj_bias(self) -> Tensor | None:
        """The biases of q, k and v, one after the other: a copy, for reading; None without them."""
        if self.q.bias is None:
            return None
        bias = torch.cat([weight_of(part, "bias") for part in (self.q, self.k, self.v)])
        return computed(bias, "set those of the layers q, k and v: attention.q.bias")

    def __getattr__(self, name: str) -> Any:
        """Return `q_proj_weight` and the like, a parameter or a child.

        Any other name is an error that lists what is there.
        """
        part = name.removesuffix("_proj_weight")
        if part != name and part in ("q", "k", "v"):
            return self._modules[part].weight  # type: ignore[union-attr]
        return super().__getattr__(name)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the outputs, and the attention weights or None.

        Args:
            query: Shape [targets, batch, embed_dim]; [batch, targets, embed_dim] if `batch_first`;
                [targets, embed_dim] without a batch.
            key: The same with `sources` and `kdim`.
            value: The same with `sources` and `vdim`.
            key_padding_mask: Shape [batch, sources], or [sources] without a batch. A bool mask
                ignores what is True; another mask is added to the scores.
            need_weights: Whether the attention weights are returned.
            attn_mask: Shape [targets, sources] or [batch * heads, targets, sources], of the same
                kinds.
            average_attn_weights: Whether the weights are averaged over the heads.
            is_causal: A hint that `attn_mask` is the causal mask, which must be given too.

        Returns:
            Outputs, shaped like `query`, and weights, shape [batch, targets, sources], or [batch,
            heads, targets, sources] if they are not averaged; None if they are not needed.

        Raises:
            ShapeError: If an input or a mask has a wrong shape.
            UsageError: For nested tensors, integer masks, or `is_causal` without `attn_mask`.
        """
        batched = self._check(query, key, value)
        if is_causal and attn_mask is None:
            raise UsageError(
                "is_causal=True without attn_mask; allowed: with the causal mask, such as "
                "nn.Transformer.generate_square_subsequent_mask(steps)"
            )
        if not batched:
            query, key, value = (x.unsqueeze(0) for x in (query, key, value))
            if key_padding_mask is not None:
                key_padding_mask = key_padding_mask.unsqueeze(0)
        elif not self.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        q, k, v = self.q(query), self.k(key), self.v(value)
        # the rule is torch's: without another mask, the hint replaces attn_mask
        causal = is_causal and key_padding_mask is None and not need_weights
        mask = None
        if not causal:
            mask = self._mask(q, k, attn_mask, key_padding_mask)
        q, k, v = map(self._heads, (q, *self._extended(k, v)))
        if mask is not None:
            mask = functional.pad(mask, (0, k.shape[2] - mask.shape[3]))
        weights = None
        if need_weights:
            scores = (q * math.sqrt(1.0 / self.head_dim)) @ k.transpose(-2, -1)
            weights = torch.softmax(scores if mask is None else scores + mask, dim=-1)
            weights = functional.dropout(weights, self.dropout, self.training)
            mixed = weights @ v
        else:
            dropout = self.dropout if self.training else 0.0
            mixed = functional.scaled_dot_product_attention(q, k, v, mask, dropout, causal)
        y: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        if weights is not None and average_attn_weights:
            weights = weights.mean(dim=1)
        if not batched:
            return y.squeeze(0), None if weights is None else weights.squeeze(0)
        return y if self.batch_first else y.transpose(0, 1), weights

    def extra_repr(self) -> str:
        """Return the sizes, the number of heads and the options, for `print(model)`."""
        return (
            f"embed_dim={self.embed_dim}, num_heads={self.num_heads}, kdim={self.kdim}, "
            f"vdim={self.vdim}, batch_first={self.batch_first}, dropout={self.dropout}"
        )

    def _check(self, query: Tensor, key: Tensor, value: Tensor) -> bool:
        """Return whether the input has a batch dimension, after a check of all shapes."""
        if query.is_nested or key.is_nested or value.is_nested:
            raise UsageError("a nested tensor; allowed: padded tensors with a key_padding_mask")
        batched = query.ndim == 3
        layout = "[steps, {}]"
        if batched:
            layout = "[batch, steps, {}]" if self.batch_first else "[steps, batch, {}]"
        widths = {"query": self.embed_dim, "key": self.kdim, "value": self.vdim}
        for (name, width), x in zip(widths.items(), (query, key, value), strict=True):
            if x.ndim != query.ndim or x.ndim not in (2, 3) or x.shape[-1] != width:
                raise ShapeError(f"{name} {tuple(x.shape)}; allowed: {layout.format(width)}")
        batch = 0 if self.batch_first else 1
        if key.shape[:-1] != value.shape[:-1] or (
            batched and query.shape[batch] != key.shape[batch]
        ):
            raise ShapeError(
                f"query {tuple(query.shape)}, key {tuple(key.shape)}, value {tuple(value.shape)}; "
                "allowed: one batch size, and as many values as keys"
            )
        return batched

    def _heads(self, x: Tensor) -> Tensor:
        """Split [batch, steps, embed_dim] into [batch, heads, steps, head_dim]."""
        return x.view(*x.shape[:-1], self.num_heads, self.head_dim).transpose(1, 2)

    def _extended(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Append the learned pair and the zero pair to keys and values, if there are any."""
        if self.bias_k is not None and self.bias_v is not None:
            batch = k.shape[0]
            k = torch.cat([k, self.bias_k.expand(batch, 1, -1)], dim=1)
            v = torch.cat([v, self.bias_v.expand(batch, 1, -1)], dim=1)
        if self.add_zero_attn:
            k, v = functional.pad(k, (0, 0, 0, 1)), functional.pad(v, (0, 0, 0, 1))
        return k, v

    def _mask(
        self, q: Tensor, k: Tensor, attn_mask: Tensor | None, key_padding_mask: Tensor | None
    ) -> Tensor | None:
        """Return both masks as one that is added to the scores; None without a mask.

        It broadcasts to [batch, heads, targets, sources].
        """
        batch, targets, sources = q.shape[0], q.shape[1], k.shape[1]
        masks = []
        if attn_mask is not None:
            per_head = (batch * self.num_heads, targets, sources)
            if tuple(attn_mask.shape) not in (per_head, per_head[1:]):
                raise ShapeError(
                    f"attn_mask {tuple(attn_mask.shape)}; allowed: {per_head[1:]} or {per_head}"
                )
            by_head = (batch, self.num_heads, targets, sources)
            shape = by_head if attn_mask.ndim == 3 else per_head[1:]
            masks.append(_additive("attn_mask", attn_mask, q.dtype).reshape(shape))
        if key_padding_mask is not None:
            if tuple(key_padding_mask.shape) != (batch, sources):
                raise ShapeError(
                    f"key_padding_mask {tuple(key_padding_mask.shape)}; allowed: "
                    f"{(batch, sources)}, without batch {(sources,)}"
                )
            mask = _additive("key_padding_mask", key_padding_mask, q.dtype)
            masks.append(mask[:, None, None, :])
        if not masks:
            return None
        total = masks[0] if len(masks) == 1 else masks[0] + masks[1]
        return total if total.ndim == 4 else total[None, None]


def disable_fast_paths(model: nn.Module) -> None:
    """Make torch's transformer encoders call the converted layers that they hold.

    In eval mode without gradients, an encoder hands the weights of its layers to one fused kernel,
    and turns padded batches into nested tensors. Both are switched off. Encoders without a
    converted layer stay as they are. At padded positions nested tensors give 0; the outputs there
    are now those of the layers.

    Args:
        model: A converted model, which is changed.
    """
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoderLayer) and _holds_converted(module):
            module.activation_relu_or_gelu = 0
        if isinstance(module, nn.TransformerEncoder) and any(
            _holds_converted(layer) for layer in module.layers
        ):
            module.enable_nested_tensor = module.use_nested_tensor = False


def _holds_converted(layer: nn.Module) -> bool:
    """Return whether one of the layers that the fused kernel replaces is converted."""
    digital = (nn.Linear.forward, nn.MultiheadAttention.forward)
    return any(
        type(child).forward not in digital
        for name, child in layer.named_children()
        if name in ("self_attn", "linear1", "linear2")
    )


def _additive(name: str, mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a mask to add to the scores; a bool mask becomes -inf where it is True."""
    if mask.dtype == torch.bool:
        return torch.zeros_like(mask, dtype=dtype).masked_fill_(mask, -math.inf)
    if not mask.is_floating_point():
        raise UsageError(f"{name} of {mask.dtype}; allowed: bool or floating point")
    return mask.to(dtype)


def _thirds(parameter: Tensor) -> list[Tensor]:
    """Return the parts of a joint parameter for q, k and v.

    Each part has the gradient flag of the whole, because views made without gradients have none.
    """
    return [
        nn.Parameter(part, requires_grad=parameter.requires_grad)
        for part in parameter.detach().chunk(3)
    ]
