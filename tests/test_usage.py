"""Which parameters the code of a module multiplies with."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from aimc_bridge.usage import is_multiplied


class Holder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(8, 8))


class Matmul(Holder):
    def forward(self, x: Tensor) -> Tensor:
        return x @ self.w


class Linear(Holder):
    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.w)


class Renamed(Holder):
    def forward(self, x: Tensor) -> Tensor:
        weight = self.w.to(x.dtype)
        weight = weight.transpose(0, 1) * 0.5
        return torch.matmul(x, weight)


class Einsum(Holder):
    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bi,oi->bo", x, self.w)


class InAMethod(Holder):
    def rest(self, x: Tensor) -> Tensor:
        return x.matmul(self.w)

    def forward(self, x: Tensor) -> Tensor:
        return self.rest(x)


class Inherited(Matmul):
    pass


class Convolution(Holder):
    def forward(self, x: Tensor) -> Tensor:
        return functional.conv1d(x, weight=self.w[:, :, None])


class Unused(Holder):
    def forward(self, x: Tensor) -> Tensor:
        return x


class Added(Holder):
    def forward(self, x: Tensor) -> Tensor:
        x = x + self.w
        return x @ x.T


class AddedByRows(Holder):
    def forward(self, x: Tensor) -> Tensor:
        table = self.w[: len(x)].unsqueeze(0)
        x = x + table
        return torch.matmul(x, x.transpose(-1, -2))


class Gain(Holder):
    def forward(self, x: Tensor) -> Tensor:
        y = x * self.w
        return y @ y.T


class Joined(Holder):
    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.w.expand(8, 8), x])
        return x @ x.T


class Overwritten(Holder):
    def forward(self, x: Tensor) -> Tensor:
        y = self.w
        x = x + y
        y = x
        return y @ y.T


@pytest.mark.parametrize(
    "kind", [Matmul, Linear, Renamed, Einsum, InAMethod, Inherited, Convolution, Unused]
)
def test_a_matrix(kind: Any) -> None:
    assert is_multiplied(kind(), "w")


@pytest.mark.parametrize("kind", [Added, AddedByRows, Gain, Joined, Overwritten])
def test_no_matrix(kind: Any) -> None:
    assert not is_multiplied(kind(), "w")


def test_code_that_cannot_be_read_is_no_excuse() -> None:
    namespace: dict[str, Any] = {"Holder": Holder}
    exec("class Made(Holder):\n    def forward(self, x):\n        return x + self.w", namespace)
    assert is_multiplied(namespace["Made"](), "w")
    replaced = Added()
    replaced.forward = lambda x: x @ replaced.w  # type: ignore[method-assign]
    assert is_multiplied(replaced, "w")
