"""Analog recurrent layers and cells: analog products, digital gates and states.

They are called like the digital layers, with the same shapes. The inputs of all time steps of one
layer and direction are multiplied at once; only the recurrent product is done step by step.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence

from aimc_bridge.errors import ShapeError, UsageError
from aimc_bridge.layers.attributes import OfMatrices
from aimc_bridge.layers.gates import ACTIVATIONS, State, gru, lstm
from aimc_bridge.layers.linear import MakeLinear
from aimc_bridge.layers.steps import time_steps


class _Recurrent(OfMatrices, ABC):
    """Layers and directions of a recurrent network; a subclass defines one time step.

    The children are `ih_l0`, `hh_l0` and, with projections, `hr_l0`. They are numbered by layer;
    `_reverse` at the end marks the second direction.
    """

    def __init__(self, module: nn.RNNBase, make_linear: MakeLinear) -> None:
        """Convert a digital layer.

        Args:
            module: The digital layer.
            make_linear: Makes the analog linear layers.
        """
        super().__init__()
        self.mode = module.mode
        self.input_size, self.hidden_size = module.input_size, module.hidden_size
        self.num_layers, self.bidirectional = module.num_layers, module.bidirectional
        self.bias, self.batch_first = module.bias, module.batch_first
        self.dropout, self.proj_size = module.dropout, module.proj_size
        self._suffixes = ("", "_reverse") if module.bidirectional else ("",)
        self._widths: tuple[int, ...] = (self.proj_size or self.hidden_size,)
        kinds = ("ih", "hh", "hr") if self.proj_size else ("ih", "hh")
        for layer in range(self.num_layers):
            for suffix in self._suffixes:
                for kind in kinds:
                    name = f"{kind}_l{layer}{suffix}"
                    bias = None
                    if self.bias and kind != "hr":
                        bias = getattr(module, f"bias_{name}")
                    self.add_module(name, make_linear(getattr(module, f"weight_{name}"), bias))

    @abstractmethod
    def _step(self, inputs: Tensor, state: State, name: str) -> State:
        """Return the state after one time step.

        Args:
            inputs: Product with the inputs of this step, shape [batch, gates * hidden].
            state: The state before the step.
            name: Layer and direction, such as "l0_reverse".
        """

    @property
    def all_weights(self) -> list[list[Tensor]]:
        """The weights and biases of every layer and direction, in the order of torch's."""
        kinds = ["weight_ih", "weight_hh"]
        kinds += ["bias_ih", "bias_hh"] if self.bias else []
        kinds += ["weight_hr"] if self.proj_size else []
        return [
            [getattr(self, f"{kind}_l{layer}{suffix}") for kind in kinds]
            for layer in range(self.num_layers)
            for suffix in self._suffixes
        ]

    def flatten_parameters(self) -> None:
        """Do nothing: there is no cuDNN buffer. It exists because users' code calls it."""

    def extra_repr(self) -> str:
        """Return the arguments of the digital layer, for `print(model)`."""
        return (
            f"{self.input_size}, {self.hidden_size}, num_layers={self.num_layers}, "
            f"bias={self.bias}, batch_first={self.batch_first}, dropout={self.dropout}, "
            f"bidirectional={self.bidirectional}, proj_size={self.proj_size}"
        )

    def _forward(
        self, x: Tensor | PackedSequence, hx: State | None
    ) -> tuple[Tensor | PackedSequence, State]:
        """Return outputs and final states of all layers, for packed or plain input."""
        if isinstance(x, PackedSequence):
            self._check_input(x.data, (2,), "packed [steps, {}]")
            sizes = x.batch_sizes.tolist()
            state = self._start(hx, x.data, sizes[0], batched=True)
            if x.sorted_indices is not None:
                state = tuple(s.index_select(1, x.sorted_indices) for s in state)
            out, state = self._layers(x.data, sizes, state)
            if x.unsorted_indices is not None:
                state = tuple(s.index_select(1, x.unsorted_indices) for s in state)
            packed = PackedSequence(out, x.batch_sizes, x.sorted_indices, x.unsorted_indices)
            return packed, state
        shape = "[batch, steps, {}]" if self.batch_first else "[steps, batch, {}]"
        self._check_input(x, (2, 3), f"{shape} or [steps, {{}}]")
        batched = x.ndim == 3
        # steps first from here on: [steps, batch, input_size]
        data = x.unsqueeze(1) if not batched else x.transpose(0, 1) if self.batch_first else x
        steps, batch = data.shape[:2]
        if steps == 0:
            raise ShapeError(f"input {tuple(x.shape)} has no time step; allowed: one or more")
        state = self._start(hx, data, batch, batched)
        out, state = self._layers(data.flatten(0, 1), [batch] * steps, state)
        out = out.view(steps, batch, out.shape[-1])
        if not batched:
            return out.squeeze(1), tuple(s.squeeze(1) for s in state)
        return out.transpose(0, 1) if self.batch_first else out, state

    def _check_input(self, x: Tensor, ndims: tuple[int, ...], allowed: str) -> None:
        """Raise ShapeError if the input has the wrong shape."""
        if x.ndim not in ndims or x.shape[-1] != self.input_size:
            shapes = allowed.replace("{}", str(self.input_size))
            raise ShapeError(f"input {tuple(x.shape)}; allowed: {shapes}")

    def _start(self, hx: State | None, data: Tensor, batch: int, batched: bool) -> State:
        """Return the initial states, shape [layers * directions, batch, width] each.

        They are zeros if `hx` is None. A wrong shape is a ShapeError.
        """
        count = self.num_layers * len(self._suffixes)
        if hx is None:
            return tuple(data.new_zeros(count, batch, width) for width in self._widths)
        for name, initial, width in zip("hc", hx, self._widths, strict=False):
            allowed = (count, batch, width) if batched else (count, width)
            if tuple(initial.shape) != allowed:
                raise ShapeError(f"initial {name} {tuple(initial.shape)}; allowed: {allowed}")
        return tuple(hx) if batched else tuple(s.unsqueeze(1) for s in hx)

    def _layers(self, data: Tensor, sizes: Sequence[int], start: State) -> tuple[Tensor, State]:
        """Run all layers and return the outputs and the final states.

        Args:
            data: Inputs of all steps, shape [sum(sizes), input_size].
            sizes: Number of rows at each step.
            start: The initial states.
        """
        finals: list[State] = []
        for layer in range(self.num_layers):
            if layer > 0:
                data = functional.dropout(data, self.dropout, self.training)
            outs = []
            for suffix in self._suffixes:
                first = tuple(s[len(finals)] for s in start)
                out, final = self._direction(f"l{layer}{suffix}", data, sizes, first)
                outs.append(out)
                finals.append(final)
            data = outs[0] if len(outs) == 1 else torch.cat(outs, dim=-1)
        return data, tuple(torch.stack(parts) for parts in zip(*finals, strict=True))

    def _direction(
        self, name: str, data: Tensor, sizes: Sequence[int], start: State
    ) -> tuple[Tensor, State]:
        """Run one layer in one direction; return its outputs and its final state.

        The sequences are sorted by length, longest first. Forward, a step drops those that have
        ended; backward, it takes up those that begin. So no product is spent on padding.

        Args:
            name: Layer and direction, such as "l0_reverse".
            data: Inputs of all steps, shape [sum(sizes), features].
            sizes: Number of rows at each step.
            start: The initial state.

        Returns:
            Outputs, shape [sum(sizes), width], and the final state.
        """
        inputs = self.get_submodule(f"ih_{name}")(data).split(list(sizes))
        order = range(len(sizes))
        state, ended, outs = start, [], []
        if name.endswith("_reverse"):
            order = range(len(sizes) - 1, -1, -1)
            state = tuple(s[: sizes[-1]] for s in start)
        with time_steps():
            for t in order:
                rows, active = sizes[t], state[0].shape[0]
                if rows < active:
                    ended.append(tuple(s[rows:] for s in state))
                    state = tuple(s[:rows] for s in state)
                elif rows > active:
                    pairs = zip(state, start, strict=True)
                    state = tuple(torch.cat([s, first[active:rows]]) for s, first in pairs)
                state = self._step(inputs[t], state, name)
                outs.append(state[0])
        if order.step < 0:
            outs.reverse()
        if ended:
            parts = [state, *reversed(ended)]
            state = tuple(torch.cat(pieces) for pieces in zip(*parts, strict=True))
        return torch.cat(outs), state


class AnalogLSTM(_Recurrent):
    """An analog counterpart of `nn.LSTM`, with all its options and input layouts."""

    def __init__(self, module: nn.LSTM, make_linear: MakeLinear) -> None:
        """Convert the layer, whose state also has c."""
        super().__init__(module, make_linear)
        self._widths = (*self._widths, self.hidden_size)

    def forward(
        self, input: Tensor | PackedSequence, hx: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor | PackedSequence, State]:
        """Return the outputs and the final state (h_n, c_n).

        Args:
            input: Shape [steps, batch, input_size]; [batch, steps, input_size] if `batch_first`;
                [steps, input_size] without a batch; or a packed sequence.
            hx: The initial state (h_0, c_0), shapes [layers * directions, batch, width] and [layers
                * directions, batch, hidden_size]; zeros if None. `width` is proj_size, or
                hidden_size if proj_size is 0.

        Returns:
            Outputs, in the layout of the input, with directions * width features; and (h_n, c_n).

        Raises:
            ShapeError: If an input or a state does not fit.
            UsageError: If the initial state is no pair.
        """
        _check_pair(hx)
        return self._forward(input, hx)

    def _step(self, inputs: Tensor, state: State, name: str) -> State:
        h, c = state
        h, c = lstm(inputs + self.get_submodule(f"hh_{name}")(h), c)
        return (self.get_submodule(f"hr_{name}")(h) if self.proj_size else h), c


class _OfOneState(_Recurrent):
    """A recurrent network whose state is h alone."""

    def forward(
        self, input: Tensor | PackedSequence, hx: Tensor | None = None
    ) -> tuple[Tensor | PackedSequence, Tensor]:
        """Return the outputs and the final state h_n.

        Args:
            input: Shape [steps, batch, input_size]; [batch, steps, input_size] if `batch_first`;
                [steps, input_size] without a batch; or a packed sequence.
            hx: The initial state h_0, shape [layers * directions, batch, hidden_size]; zeros if
                None.

        Returns:
            Outputs, in the layout of the input, with directions * hidden_size features; and h_n.

        Raises:
            ShapeError: If an input or a state does not fit.
        """
        out, state = self._forward(input, None if hx is None else (hx,))
        return out, state[0]


class AnalogGRU(_OfOneState):
    """An analog counterpart of `nn.GRU`, with all its options and input layouts."""

    def _step(self, inputs: Tensor, state: State, name: str) -> State:
        return (gru(inputs, self.get_submodule(f"hh_{name}")(state[0]), state[0]),)


class AnalogRNN(_OfOneState):
    """An analog counterpart of `nn.RNN`, with all its options and input layouts."""

    def __init__(self, module: nn.RNN, make_linear: MakeLinear) -> None:
        """Convert the layer and keep its nonlinearity."""
        super().__init__(module, make_linear)
        self.nonlinearity = self.mode.removeprefix("RNN_").lower()

    def _step(self, inputs: Tensor, state: State, name: str) -> State:
        recurrent = self.get_submodule(f"hh_{name}")(state[0])
        return (ACTIVATIONS[self.nonlinearity](inputs + recurrent),)


class _Cell(OfMatrices):
    """One step of a recurrent network, with the children `ih` and `hh`."""

    def __init__(self, module: nn.RNNCellBase, make_linear: MakeLinear) -> None:
        """Convert a digital cell.

        Args:
            module: The digital cell.
            make_linear: Makes the analog linear layers.
        """
        super().__init__()
        self.input_size, self.hidden_size = module.input_size, module.hidden_size
        self.bias = module.bias
        self.ih = make_linear(module.weight_ih, module.bias_ih)
        self.hh = make_linear(module.weight_hh, module.bias_hh)

    def extra_repr(self) -> str:
        """Return the arguments of the digital cell, for `print(model)`."""
        return f"{self.input_size}, {self.hidden_size}, bias={self.bias}"

    def _start(self, x: Tensor, hx: State | None, count: int) -> State:
        """Return `count` initial states, with or without a batch as the input.

        Their shape is [batch, hidden] or [hidden]. They are zeros if `hx` is None. A wrong shape is
        a ShapeError.
        """
        if x.ndim not in (1, 2) or x.shape[-1] != self.input_size:
            raise ShapeError(
                f"input {tuple(x.shape)}; allowed: [batch, {self.input_size}] or "
                f"[{self.input_size}]"
            )
        allowed = (*x.shape[:-1], self.hidden_size)
        if hx is None:
            return (x.new_zeros(allowed),) * count
        for name, initial in zip("hc", hx, strict=False):
            if tuple(initial.shape) != allowed:
                raise ShapeError(f"initial {name} {tuple(initial.shape)}; allowed: {allowed}")
        return hx

    def _product(self, child: nn.Module, x: Tensor) -> Tensor:
        """Return the product of a child, also for input without a batch."""
        y: Tensor = child(x.unsqueeze(0)).squeeze(0) if x.ndim == 1 else child(x)
        return y


class AnalogLSTMCell(_Cell):
    """An analog counterpart of `nn.LSTMCell`."""

    def forward(
        self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the new (h, c), shape [batch, hidden_size] each.

        Args:
            input: Shape [batch, input_size], or [input_size] without a batch.
            hx: The old (h, c), shape [batch, hidden_size] each; zeros if None.

        Raises:
            ShapeError: If an input or a state does not fit.
            UsageError: If the old state is no pair.
        """
        _check_pair(hx)
        h, c = self._start(input, hx, 2)
        h, c = lstm(self._product(self.ih, input) + self._product(self.hh, h), c)
        return h, c


class _OneStateCell(_Cell, ABC):
    """A cell whose state is h alone; a subclass defines the step."""

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """Return the new h, shape [batch, hidden_size].

        Args:
            input: Shape [batch, input_size], or [input_size] without a batch.
            hx: The old h, shape [batch, hidden_size]; zeros if None.

        Raises:
            ShapeError: If an input or a state does not fit.
        """
        (h,) = self._start(input, None if hx is None else (hx,), 1)
        return self._step(self._product(self.ih, input), self._product(self.hh, h), h)

    @abstractmethod
    def _step(self, inputs: Tensor, recurrent: Tensor, h: Tensor) -> Tensor:
        """Return the new h.

        Args:
            inputs: Product with the inputs.
            recurrent: Product with the old h.
            h: The old h.
        """


class AnalogGRUCell(_OneStateCell):
    """An analog counterpart of `nn.GRUCell`."""

    def _step(self, inputs: Tensor, recurrent: Tensor, h: Tensor) -> Tensor:
        return gru(inputs, recurrent, h)


class AnalogRNNCell(_OneStateCell):
    """An analog counterpart of `nn.RNNCell`."""

    def __init__(self, module: nn.RNNCell, make_linear: MakeLinear) -> None:
        """Convert the cell and keep its nonlinearity."""
        super().__init__(module, make_linear)
        self.nonlinearity = module.nonlinearity

    def _step(self, inputs: Tensor, recurrent: Tensor, h: Tensor) -> Tensor:
        return ACTIVATIONS[self.nonlinearity](inputs + recurrent)


def _check_pair(hx: object) -> None:
    """Raise UsageError if the initial state of an LSTM is neither None nor a pair."""
    if hx is not None and not (isinstance(hx, tuple | list) and len(hx) == 2):
        got = f"{len(hx)} states" if isinstance(hx, tuple | list) else f"a {type(hx).__name__}"
        raise UsageError(f"initial state is {got}; allowed: a pair (h_0, c_0), or None for zeros")
