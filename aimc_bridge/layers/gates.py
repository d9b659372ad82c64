"""The digital part of a recurrent step: from the analog products to the new state."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

State = tuple[Tensor, ...]
"""The state between two steps: (h, c) of an LSTM, (h,) of the others."""

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"tanh": torch.tanh, "relu": torch.relu}
"""The nonlinearities of a plain recurrent network, by the names of `nn.RNN`."""


def lstm(gates: Tensor, c: Tensor) -> State:
    """Return the new (h, c) of an LSTM.

    Args:
        gates: The sum of both products, shape [..., 4 * hidden], gates in the order i, f, g, o.
        c: The old cell state, shape [..., hidden].
    """
    i_and_f, g, o = gates.split((2 * c.shape[-1], c.shape[-1], c.shape[-1]), dim=-1)
    i, f = torch.sigmoid(i_and_f).chunk(2, dim=-1)
    c = torch.addcmul(f * c, i, torch.tanh(g))
    return torch.sigmoid(o) * torch.tanh(c), c


def gru(inputs: Tensor, recurrent: Tensor, h: Tensor) -> Tensor:
    """Return the new h of a GRU.

    The two products stay apart, because r acts on the recurrent half of n with its bias.

    Args:
        inputs: Product with the inputs, shape [..., 3 * hidden], gates in the order r, z, n.
        recurrent: Product with the old h, of the same shape and order.
        h: The old state, shape [..., hidden].
    """
    r_x, z_x, n_x = inputs.chunk(3, dim=-1)
    r_h, z_h, n_h = recurrent.chunk(3, dim=-1)
    z = torch.sigmoid(z_x + z_h)
    n = torch.tanh(n_x + torch.sigmoid(r_x + r_h) * n_h)
    return n + z * (h - n)
