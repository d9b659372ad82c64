"""Uses of a parameter that go through each kind of statement and expression of a forward pass.

Each pair of classes differs in the use alone: a product with inputs, or something else.
"""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from aimc_bridge.usage import is_multiplied
from tests.test_usage import Holds


def keywords(x: Tensor, **more: Tensor) -> Tensor:
    return x @ more["w"]


def first_and_more(x: Tensor, *more: Tensor) -> Tensor:
    return x @ more[1]


def added_keywords(x: Tensor, **more: Tensor) -> Tensor:
    return x + more["w"]


def added_more(x: Tensor, *more: Tensor) -> Tensor:
    return x + more[1]


class While(Holds):
    def forward(self, x: Tensor) -> Tensor:
        w = x
        while x.sum() < 1:
            x = x @ w
            w = self.w  # reaches the product when the loop comes round
        return x


class WhileAdded(Holds):
    def forward(self, x: Tensor) -> Tensor:
        while x.sum() < 1:
            x = x + self.w
        return x


class With(Holds):
    def forward(self, x: Tensor) -> Tensor:
        with contextlib.nullcontext(self.w) as w:
            return x @ w


class WithAdded(Holds):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return x + self.w


class Handled(Holds):
    def forward(self, x: Tensor) -> Tensor:
        try:
            w = x
        except ValueError:
            w = self.w
        finally:
            x = x.relu()
        return x @ w


class HandledAdded(Holds):
    def forward(self, x: Tensor) -> Tensor:
        try:
            w = self.w
        except ValueError:
            w = x
        return x + w


class Inside(Holds):
    def forward(self, x: Tensor) -> Tensor:
        def weight() -> Tensor:
            return self.w.T

        return x @ weight()


class InsideAdded(Holds):
    def forward(self, x: Tensor) -> Tensor:
        def moved(y: Tensor) -> Tensor:
            return y + self.w

        return moved(x).relu()


class Zipped(Holds):
    def forward(self, x: Tensor) -> Tensor:
        for part, row in zip(x, self.w, strict=True):
            x = x + torch.dot(part, row)
        return x


class ZippedAdded(Holds):
    """The parameter goes to one variable, the product is of the other one."""

    def forward(self, x: Tensor) -> Tensor:
        for part, row in zip(x, self.w, strict=True):
            x = x + part @ part + row
        return x


class Numbered(Holds):
    def forward(self, x: Tensor) -> Tensor:
        for place, row in enumerate(self.w):
            x = x + torch.dot(x[place], row)
        return x


class NumberedAdded(Holds):
    def forward(self, x: Tensor) -> Tensor:
        for place, row in enumerate(self.w):
            x = x + x[place] @ x[place] + row
        return x


class Starred(Holds):
    def forward(self, x: Tensor) -> Tensor:
        _, *rest = self.w
        return x @ rest[0]  # type: ignore[no-any-return]


class StarredAdded(Holds):
    def forward(self, x: Tensor) -> Tensor:
        _, *rest = self.w
        return x @ x + rest[0]  # type: ignore[no-any-return]


class Named(Holds):
    def forward(self, x: Tensor) -> Tensor:
        return x @ w if (w := self.w).ndim == 2 else x


class NamedAdded(Holds):
    def forward(self, x: Tensor) -> Tensor:
        return x + w if (w := self.w).ndim == 2 else x


class Comprehension(Holds):
    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([x @ row for row in self.w if row.sum() > 0])


class ComprehensionAdded(Holds):
    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([x @ x + row for row in self.w if row.sum() > 0])


class Dictionary(Holds):
    def forward(self, x: Tensor) -> Tensor:
        parts = {place: row for place, row in enumerate(self.w)}  # noqa: C416
        return x @ parts[0]


class DictionaryAdded(Holds):
    def forward(self, x: Tensor) -> Tensor:
        parts = {place: row for place, row in enumerate(self.w)}  # noqa: C416
        return x @ x + parts[0]


class Scaled(Holds):
    def forward(self, x: Tensor) -> Tensor:
        return torch.mul(x[:, None, :], self.w).sum(-1)


class ScaledAlone(Holds):
    def forward(self, x: Tensor) -> Tensor:
        return torch.mul(x, self.w).relu()


class KeywordsOfOurs(Holds):
    def forward(self, x: Tensor) -> Tensor:
        return keywords(x, w=self.w)


class KeywordsAdded(Holds):
    def forward(self, x: Tensor) -> Tensor:
        return added_keywords(x, w=self.w)


class More(Holds):
    def forward(self, x: Tensor) -> Tensor:
        return first_and_more(x, x, self.w)


class MoreAdded(Holds):
    def forward(self, x: Tensor) -> Tensor:
        return added_more(x, x, self.w)


class GivenAway(Holds):
    """The parameter is kept by another object, where its use is not followed."""

    def forward(self, x: Tensor) -> Tensor:
        self.inner.table = self.w
        return self.inner(x)  # type: ignore[no-any-return]


class IntoLayer(Holds):
    """A layer takes the parameter as its input: what comes out counts as an input.

    The layer has the name of a product of torch, which says nothing about it.
    """

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.inner(self.w)  # type: ignore[no-any-return]


class IntoNorm(Holds):
    """A layer has the name of a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x * self.w)  # type: ignore[no-any-return]


class PartMultiplies(nn.Module):
    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        return functional.linear(x, w)


class PartAdds(nn.Module):
    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        return x + w


class IntoPart(Holds):
    def __init__(self) -> None:
        super().__init__()
        self.part = PartMultiplies()

    def forward(self, x: Tensor) -> Tensor:
        return self.part(x, self.w)  # type: ignore[no-any-return]


class IntoPartAdded(Holds):
    def __init__(self) -> None:
        super().__init__()
        self.part = PartAdds()

    def forward(self, x: Tensor) -> Tensor:
        return self.part(x, self.w)  # type: ignore[no-any-return]


MULTIPLIED = [While, With, Handled, Inside, Zipped, Numbered, Starred, Named, Comprehension]
MULTIPLIED += [Dictionary, Scaled, KeywordsOfOurs, More, GivenAway, IntoPart]
OTHERWISE = [WhileAdded, WithAdded, HandledAdded, InsideAdded, ZippedAdded, NumberedAdded]
OTHERWISE += [StarredAdded, NamedAdded, ComprehensionAdded, DictionaryAdded, ScaledAlone]
OTHERWISE += [KeywordsAdded, MoreAdded, IntoLayer, IntoNorm, IntoPartAdded]


@pytest.mark.parametrize("kind", MULTIPLIED)
def test_a_product_is_found_through_each_kind_of_statement(kind: type[Holds]) -> None:
    assert is_multiplied(kind(), "w")


@pytest.mark.parametrize("kind", OTHERWISE)
def test_another_use_is_no_product(kind: type[Holds]) -> None:
    assert not is_multiplied(kind(), "w")
