"""What a change of physics costs single layers: their inputs, and the errors of their outputs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from aimc_bridge.converted import matrices_of
from aimc_bridge.errors import UsageError


class Probe:
    """Inputs of every weight matrix, and what an exact product makes of them.

    Args:    model  a converted model of the native engine.    run  runs it once on real data; all
             products are exact meanwhile, so that the inputs are those of the digital model.
             rows  inputs kept of each matrix, evenly spaced among all: vectors of a linear layer,
             images of a convolution.
    Raises:  CapabilityError (another engine); UsageError where a matrix is never reached.
    """

    def __init__(self, model: nn.Module, run: Callable[[nn.Module], object], rows: int) -> None:
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
        """Relative L2 error of each matrix as its crossbars are now: |y - exact| / |exact|.

        Biases, which are digital, are not in it. An output of zeros has the error of what is there.
        """
        by_layer = {}
        for name, matrix in self.matrices.items():
            exact = self.exact[name]
            error = torch.linalg.vector_norm(matrix.multiply(self.inputs[name]) - exact)
            size = torch.linalg.vector_norm(exact)
            by_layer[name] = float(error / size) if size > 0 else float(error)
        return by_layer


def _keep(inputs: list[Tensor]) -> Callable[[Tensor], None]:
    """Return a watcher that copies what a matrix is given, one input per row."""

    def watcher(x: Tensor) -> None:
        inputs.append(x.clone())

    return watcher


def _nothing(row: int, column: int, x: Tensor, outputs: object) -> None:
    """An observer: while it is there, products are exact."""


def _spaced(x: Tensor, rows: int) -> Tensor:
    if len(x) <= rows:
        return x
    return x[torch.linspace(0, len(x) - 1, rows).long()].clone()
