"""Transforms of torch that run a model other than by calling it, and what tiles make of them.

A graph that holds a noisy product would hold one draw of its noise, the chip of one moment, or the
Python decisions of one batch. So such products are left out of graphs, or refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor

from aimc_bridge.errors import CapabilityError, UsageError

_GRAPHS = (
    "allowed: layers whose periphery changes nothing on the native engine (preset ideal), or "
    "digital layers (exclude=[...])"
)

LEFT_OUT = (
    "an analog layer draws noise and keeps a chip, which no graph can hold: torch.compile(model) "
    f"without fullgraph leaves it out, torch.export cannot; {_GRAPHS}"
)
"""Why torch.compile breaks its graph at an analog layer."""


def transformed() -> bool:
    """Return whether torch.func, a tracer or a compiler runs the present forward pass."""
    return (
        torch.compiler.is_compiling()  # first: where it is True, torch.compile looks no further
        or torch._C._are_functorch_transforms_active()
        or torch._C._get_tracing_state() is not None
    )


def refuse_graphs() -> None:
    """Raise an error if a tracer records the present forward pass in a graph.

    Raises:
        CapabilityError: In torch.jit.trace, torch.export and torch.onnx.export.
    """
    if torch._C._get_tracing_state() is not None:
        raise CapabilityError(
            "torch.jit.trace of an analog layer would record one pass with its noise and its chip; "
            + _GRAPHS
        )
    if torch.compiler.is_exporting():
        raise CapabilityError(
            "torch.export of an analog layer: a graph cannot hold its noise and its chip; "
            + _GRAPHS
        )


def refuse_script() -> NoReturn:
    """Raise the error of torch.jit.script.

    Raises:
        CapabilityError: Always.
    """
    raise CapabilityError(
        "torch.jit.script cannot compile an analog layer, which decides in Python what its tiles "
        "do; allowed: torch.jit.script(model) before convert, with the analog layers outside of "
        "the scripted part, or torch.compile(model), which leaves the tiles out"
    )


def refuse_derivatives(what: str) -> NoReturn:
    """Raise the error of torch.func's transforms other than vmap.

    Args:
        what: The part that cannot do it, such as "native engine".

    Raises:
        CapabilityError: Always.
    """
    raise CapabilityError(
        f"{what}: torch.func derivatives (grad, vjp, jvp, jacrev, jacfwd, hessian) through an "
        "analog layer; allowed: torch.autograd (loss.backward(), torch.autograd.grad, "
        "torch.autograd.functional.jacobian), or on the native engine layers whose periphery "
        "changes nothing (preset ideal)"
    )


def mapped(product: Callable[[Tensor], Tensor], x: Tensor, weight: Tensor, noisy: bool) -> Tensor:
    """Return a product under `torch.func.vmap`, with the mapped samples as one large batch.

    Every sample has noise of its own, so `vmap` must be told randomness="different".

    Args:
        product: The product of a layer, of inputs `[samples, ...]`.
        x: Inputs of one mapped sample, `[samples, ...]`.
        weight: The trained weights of the layer.
        noisy: Whether the product draws noise.

    Raises:
        CapabilityError: Under derivatives of torch.func, or if `vmap` maps the weights.
        UsageError: If `vmap` asks for another randomness.
    """
    functorch = torch._C._functorch
    levels = functorch.get_interpreter_stack() or []
    if any(level.key() != functorch.TransformType.Vmap for level in levels):
        refuse_derivatives("native engine")
    if functorch.is_batchedtensor(weight):
        raise CapabilityError(
            "vmap over the weights of an analog layer; allowed: over its inputs. Call ensembles "
            "model by model, each with a chip of its own"
        )
    y: Tensor = _Mapped.apply(x, product, noisy)  # type: ignore[no-untyped-call]
    return y


class _Mapped(torch.autograd.Function):
    """A product whose mapped dimension is folded into its samples."""

    @staticmethod
    def forward(x: Tensor, product: Callable[[Tensor], Tensor], noisy: bool) -> Tensor:
        """Raise CapabilityError: it runs only if `vmap` does not map the inputs."""
        raise CapabilityError(
            "vmap does not map the inputs of this analog layer; allowed: mapped inputs, or call "
            "the layer outside of vmap"
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Do nothing: autograd sees the folded product itself."""

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[int | None, ...],
        x: Tensor,
        product: Callable[[Tensor], Tensor],
        noisy: bool,
    ) -> tuple[Tensor, int]:
        """Return the product of all mapped samples, and the place of the mapped dimension.

        Args:
            info: Size of the mapped dimension, and the randomness that `vmap` was told.
            in_dims: Place of the mapped dimension in each argument.
            x: All inputs.
            product: As `forward`.
            noisy: As `forward`.
        """
        if noisy and info.randomness != "different":
            raise UsageError(
                f"vmap(randomness={info.randomness!r}) of a noisy analog layer; allowed: "
                'randomness="different": every sample has noise of its own'
            )
        place = in_dims[0]
        assert place is not None
        x = x.movedim(place, 0)
        y = product(x.flatten(0, 1))
        return y.unflatten(0, (info.batch_size, -1)), 0
