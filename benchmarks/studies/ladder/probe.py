"""Measure what a change of physics costs single layers: the errors of their outputs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from aimc_bridge.converted import matrices_of
from aimc_bridge.errors import UsageError


class Probe:
    """Recorded inputs of every weight matrix, with their exact products.

    Attributes:
        matrices: Name -> weight matrix of the model.
        inputs: Name -> recorded inputs, one per row: vectors of a linear layer, images of a
            convolution.
        exact: Name -> the exact product of the inputs.
    """

    def __init__(self, model: nn.Module, run: Callable[[nn.Module], object], rows: int) -> None:
        """Run the model once and record inputs.

        All products are exact during this run, so that the inputs are those of the digital model.

        Args:
            model: A converted model of the native engine.
            run: A function that runs the model once on real data.
            rows: The number of inputs that are recorded per matrix, evenly spaced among all.

        Raises:
            CapabilityError: If the model is of another engine.
            UsageError: If the data never reach a matrix, or `rows` is below 1.
        """
        if rows < 1:
            raise UsageError(f"rows={rows}; allowed: 1 or more")
        self.matrices = matrices_of(model)
        seen: dict[str, list[Tensor]] = {name: [] for name in self.matrices}
        handles = [matrix.watch_inputs(_keep(seen[name])) for name, matrix in self.matrices.items()]
        training = model.training
        model.eval()
        self.inputs: dict[str, Tensor] = {}
        self.exact: dict[str, Tensor] = {}
        try:
            for matrix in self.matrices.values():
                matrix.observe(_nothing)
            with torch.no_grad():
                run(model)
                for handle in handles:
                    handle.remove()
                for name, matrix in self.matrices.items():
                    if not seen[name]:
                        raise UsageError(
                            f"the data never reached layer {name!r}; run data that do, or exclude "
                            "the layer"
                        )
                    self.inputs[name] = _spaced(torch.cat(seen[name]), rows)
                    self.exact[name] = matrix.multiply(self.inputs[name])
        finally:
            for handle in handles:
                handle.remove()
            for matrix in self.matrices.values():
                matrix.observe(None)
            model.train(training)

    @torch.no_grad()
    def errors(self) -> dict[str, float]:
        """Return the relative L2 error of each matrix, as its crossbars are now.

        The error is |y - exact| / |exact|. Biases are digital and not part of it. If the exact
        output is zero, the error is |y|.

        Returns:
            Name -> error.
        """
        by_layer = {}
        for name, matrix in self.matrices.items():
            exact = self.exact[name]
            error = torch.linalg.vector_norm(matrix.multiply(self.inputs[name]) - exact)
            size = torch.linalg.vector_norm(exact)
            by_layer[name] = float(error / size) if size > 0 else float(error)
        return by_layer


def _keep(inputs: list[Tensor]) -> Callable[[Tensor], None]:
    """Return a watcher that appends a copy of a matrix's inputs to a list."""

    def watcher(x: Tensor) -> None:
        inputs.append(x.clone())

    return watcher


def _nothing(row: int, column: int, x: Tensor, outputs: object) -> None:
    """Do nothing. A matrix computes exact products as long as it has an observer."""


def _spaced(x: Tensor, rows: int) -> Tensor:
    if len(x) <= rows:
        return x
    return x[torch.linspace(0, len(x) - 1, rows).long()].clone()
