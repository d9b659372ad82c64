"""The uses of a parameter in the code of a module, read from its source."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from aimc_bridge.usage import is_multiplied


def helper(x: Tensor, table: Tensor) -> Tensor:
    return torch.matmul(x, table)


def resized(table: Tensor, size: int) -> Tensor:
    return functional.interpolate(table[None], size=size)[0]


class Holds(nn.Module):
    """Holds a square parameter; subclasses use it in one way each."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(4, 4))
        self.inner = nn.Linear(4, 4)


class Linear(Holds):
    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.w)


class At(Holds):
    def forward(self, x: Tensor) -> Tensor:
        return x @ self.w.T


class Keyword(Holds):
    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, weight=self.w)


class Renamed(Holds):
    def forward(self, x: Tensor) -> Tensor:
        if x.ndim == 2:
            w = self.w.t()
            w = w.contiguous()
        else:
            w = self.w
        return torch.einsum("bi,io->bo", x, w)


class Masked(Holds):
    def forward(self, x: Tensor) -> Tensor:
        mask = torch.ones(x.shape[-1], x.shape[-1]).tril()
        return x @ (self.w * mask)


class Helper(Holds):
    def forward(self, x: Tensor) -> Tensor:
        return helper(x, self.w)


class Method(Holds):
    def weight(self) -> Tensor:
        return self.w.softmax(-1)

    def forward(self, x: Tensor) -> Tensor:
        return x.matmul(self.weight())


class Property(Holds):
    @property
    def weight(self) -> Tensor:
        return torch.exp(self.w)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


class Kept(Holds):
    def prepare(self) -> None:
        self.cached = self.w.T

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.cached


class ByHand(Holds):
    """A product written as a sum of scaled inputs."""

    def forward(self, x: Tensor) -> Tensor:
        return (x[:, None, :] * self.w).sum(-1)


class Inherited(Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.w[0]


class Unreadable(Holds):
    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.aten.linear(x, self.w)  # type: ignore[no-any-return]


class NotMentioned(Holds):
    def forward(self, x: Tensor) -> Tensor:
        return self.inner(next(self.parameters()) @ x)  # type: ignore[no-any-return]


class Mapped(Holds):
    def forward(self, x: Tensor) -> Tensor:
        return torch.vmap(torch.mv, (None, 0))(self.w, x)  # type: ignore[no-any-return]


class InLambda(Holds):
    def forward(self, x: Tensor) -> Tensor:
        run = lambda y: y @ self.w  # noqa: E731
        return run(x)  # type: ignore[no-any-return]


class Attended(Holds):
    def forward(self, x: Tensor) -> Tensor:
        return functional.scaled_dot_product_attention(x, self.w[None], x)


MULTIPLIED = [Linear, At, Keyword, Renamed, Masked, Helper, Method, Property, Kept, ByHand]
MULTIPLIED += [Inherited, Unreadable, NotMentioned, Mapped, InLambda, Attended]


class Added(Holds):
    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x + self.w[: x.shape[0]])  # type: ignore[no-any-return]


class AddedThenMultiplied(Holds):
    """The sum depends on the inputs: its product is attention, or a layer's."""

    def forward(self, x: Tensor) -> Tensor:
        query = x + self.w
        return query @ x.T


class Gain(Holds):
    def forward(self, x: Tensor) -> Tensor:
        y = x * self.w + self.inner(x)
        return torch.sigmoid(y)


class Lookup(Holds):
    def forward(self, x: Tensor) -> Tensor:
        return self.inner(functional.embedding(x, self.w)) @ x.float()  # type: ignore[no-any-return]


class Indexed(Holds):
    def forward(self, x: Tensor) -> Tensor:
        bias = self.w[x.argmax(-1)].view(-1, 4)
        return (x @ x.T).softmax(-1) + bias


class Resized(Holds):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([resized(self.w, 4), x]) @ x.T


class Token(Holds):
    def forward(self, x: Tensor) -> Tensor:
        tokens = self.w.expand(4, -1)
        x = torch.cat((tokens, x), dim=0)
        return self.inner(x) @ x.T  # type: ignore[no-any-return]


class AttentionBias(Holds):
    def forward(self, x: Tensor) -> Tensor:
        return functional.scaled_dot_product_attention(x, x, x, attn_mask=self.w)


class Bias(Holds):
    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.w, x, x.T)


class Restored(Holds):
    """Writes the parameter again, resized, as timm's ViT does."""

    def set_size(self, size: int) -> None:
        self.w = nn.Parameter(resized(self.w, size))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.w


class Interpolated(Holds):
    """A method that no pass calls gives the parameter to code that cannot be followed."""

    def set_size(self, size: int) -> None:
        self.w = nn.Parameter(torch.einsum("ij,jk->ik", self.w, torch.ones(size, size)))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.w


class NotInForward(Holds):
    """Another module asks for the product; the forward pass does not mention the parameter."""

    def product(self, x: Tensor) -> Tensor:
        return x @ self.w

    def forward(self, x: Tensor) -> Tensor:
        return x


MULTIPLIED.append(NotInForward)
NOT_MULTIPLIED = [Interpolated, Added, AddedThenMultiplied, Gain, Lookup, Indexed, Resized, Token]
NOT_MULTIPLIED += [AttentionBias, Bias, Restored]


@pytest.mark.parametrize("kind", MULTIPLIED)
def test_multiplied(kind: type[Holds]) -> None:
    assert is_multiplied(kind(), "w")


@pytest.mark.parametrize("kind", NOT_MULTIPLIED)
def test_added_scaled_or_looked_up(kind: type[Holds]) -> None:
    assert not is_multiplied(kind(), "w")


def test_code_that_is_not_there() -> None:
    names: dict[str, type[Holds]] = {"Holds": Holds}
    code = "class Hidden(Holds):\n    def forward(self, x):\n        return x + self.w\n"
    exec(code, {"Holds": Holds, "__name__": "nowhere"}, names)
    assert is_multiplied(names["Hidden"](), "w")
    wrapped = Added()
    wrapped.forward = lambda x: x + wrapped.w  # type: ignore[method-assign]
    assert is_multiplied(wrapped, "w")
