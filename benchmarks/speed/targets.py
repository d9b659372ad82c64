"""The targets of the speed benchmark, as data.

A row compares a side of a group with another side, or states its seconds. `must` is the promise,
and `aim` is a better result that is worth trying for. A row that has neither only shows its number.
"""

from __future__ import annotations

from dataclasses import dataclass

NATIVE = "native"
HALF = "native, half-precision side products"
WEIGHTS = "native, weight physics only"
CONVERTERS = "native, DAC/ADC only"
OUTPUT = "native, DAC/ADC and output noise"
EAGER = "native, drawn eagerly"
DIGITAL = "digital"
TORCH = "aihwkit torch tile"
CPP = "aihwkit C++ tile"
GAUSSIAN = "native, DAC/ADC and output noise, Gaussian weight noise"
LIGHTNING = "aihwkit-lightning"
LIGHTNING_CONVERTERS = "aihwkit-lightning, DAC/ADC only"

RATIO, FASTER, SECONDS, SUM = "times digital", "times faster", "s", "times the sum"


@dataclass(frozen=True)
class Target:
    """One row of the table of targets.

    Attributes:
        row: The name of the row.
        group: The group whose sides it uses.
        side: The side that is judged.
        work: What tables call the row.
        kind: RATIO: `side` over `base`, at most `must`. FASTER: `base` over `side`, at least
            `must`. SECONDS: seconds of `side`, at most `must`. SUM: a sweep over the sum of its
            parts, at most `must`.
        base: The side that it is compared with.
        must: The promise of compiled runs; None if there is none.
        aim: A better result that is worth trying for; None if there is none.
        eager: (must, aim) of runs that are not compiled; None if they are the same.
    """

    row: str
    group: str
    side: str
    work: str
    kind: str = RATIO
    base: str = DIGITAL
    must: float | None = None
    aim: float | None = None
    eager: tuple[float, float] | None = None

    def bounds(self, compiled: bool) -> tuple[float | None, float | None]:
        """Return (must, aim) of a run.

        Args:
            compiled: Whether native models were compiled.
        """
        return (self.must, self.aim) if compiled or self.eager is None else self.eager

    def verdict(self, value: float, *, compiled: bool = True) -> str:
        """Judge a result.

        Args:
            value: The result, in the unit of `kind`.
            compiled: Whether native models were compiled.

        Returns:
            "aim reached", "met" or "not met"; "" if the row has no `must`.
        """
        must, aim = self.bounds(compiled)
        if must is None:
            return ""

        def reached(bound: float) -> bool:
            return value >= bound if self.kind == FASTER else value <= bound

        if aim is not None and reached(aim):
            return "aim reached"
        return "met" if reached(must) else "not met"


_ALL = "all of rasch2023"
TARGETS = (
    # forward
    Target(
        "forward-all",
        "wrn-forward",
        NATIVE,
        f"WRN forward, {_ALL}, exact",
        must=4.5,
        aim=4,
        eager=(5.2, 4.5),
    ),
    Target(
        "forward-half",
        "wrn-forward",
        HALF,
        f"WRN forward, {_ALL}, half-precision side products",
        must=2.8,
        aim=2.2,
        eager=(3.5, 2.8),
    ),
    Target(
        "forward-weights",
        "wrn-forward",
        WEIGHTS,
        "WRN forward, weight physics only",
        must=1.05,
        aim=1,
    ),
    Target(
        "forward-converters", "wrn-forward", CONVERTERS, "WRN forward, DAC/ADC", must=1.4, aim=1.2
    ),
    Target(
        "forward-output",
        "wrn-forward",
        OUTPUT,
        "WRN forward, DAC/ADC and output noise",
        must=2.2,
        aim=1.7,
    ),
    Target(
        "forward-cpp",
        "wrn-forward",
        NATIVE,
        f"WRN forward, {_ALL}, against aihwkit's C++ tile",
        FASTER,
        CPP,
        must=25,
    ),
    Target(
        "forward-torch",
        "wrn-forward",
        OUTPUT,
        "WRN forward, DAC/ADC and output noise, against aihwkit's torch tile",
        FASTER,
        TORCH,
    ),
    Target(
        "forward-lightning",
        "wrn-forward",
        OUTPUT,
        "WRN forward, DAC/ADC and output noise, against aihwkit-lightning",
        FASTER,
        LIGHTNING,
        must=7,
    ),
    Target(
        "forward-lightning-converters",
        "wrn-forward",
        CONVERTERS,
        "WRN forward, DAC/ADC, against aihwkit-lightning",
        FASTER,
        LIGHTNING_CONVERTERS,
    ),
    # training
    Target(
        "training-all",
        "wrn-training",
        NATIVE,
        f"WRN training step, {_ALL} and PCM_NOISE",
        must=2.4,
        aim=2,
        eager=(2.8, 2.4),
    ),
    Target(
        "training-output",
        "wrn-training",
        OUTPUT,
        "WRN training step, DAC/ADC, output noise, PCM_NOISE",
        must=1.7,
        aim=1.3,
    ),
    Target(
        "training-cpp",
        "wrn-training",
        NATIVE,
        f"WRN training step, {_ALL} and PCM_NOISE, against aihwkit's C++ tile",
        FASTER,
        CPP,
        must=15,
    ),
    Target(
        "training-torch",
        "wrn-training",
        OUTPUT,
        "WRN training step, DAC/ADC, output noise, against aihwkit's torch tile, which injects "
        "nothing",
        FASTER,
        TORCH,
    ),
    Target(
        "training-lightning",
        "wrn-training",
        GAUSSIAN,
        "WRN training step, DAC/ADC, output noise, Gaussian weight noise, against "
        "aihwkit-lightning",
        FASTER,
        LIGHTNING,
        must=5,
    ),
    # other models
    Target(
        "cnn",
        "cnn-forward",
        NATIVE,
        f"small CNN forward, {_ALL}",
        must=5.5,
        aim=4.5,
        eager=(6, 5),
    ),
    Target(
        "cnn-many",
        "cnn-forward-many",
        NATIVE,
        f"small CNN forward, {_ALL}, larger batch",
        must=4.5,
        aim=4,
        eager=(5, 4.5),
    ),
    Target("mlp", "mlp-forward", NATIVE, f"MLP forward, {_ALL}", must=6, aim=4, eager=(8, 6)),
    Target("lstm", "lstm-forward", NATIVE, f"LSTM forward, {_ALL}", must=5, aim=4),
    Target(
        "lstm-cpp",
        "lstm-forward",
        NATIVE,
        f"LSTM forward, {_ALL}, against aihwkit's C++ tile",
        FASTER,
        CPP,
        must=25,
    ),
    Target("bert", "bert-forward", NATIVE, f"BERT forward, {_ALL}", must=4, aim=3.5),
    Target(
        "bert-cpp",
        "bert-forward",
        NATIVE,
        f"BERT forward, {_ALL}, against aihwkit's C++ tile",
        FASTER,
        CPP,
        must=25,
    ),
    Target(
        "bert-torch",
        "bert-forward",
        OUTPUT,
        "BERT forward, DAC/ADC and output noise, against aihwkit's torch tile",
        FASTER,
        TORCH,
    ),
    # chips
    Target("bert-program", "bert-program", NATIVE, "BERT, program", SECONDS, must=3, aim=1.2),
    Target(
        "bert-drift",
        "bert-drift",
        NATIVE,
        "BERT, one drift with measured compensation",
        SECONDS,
        must=2,
        aim=0.8,
    ),
    Target("bert-program-cpp", "bert-program", NATIVE, "BERT, program", FASTER, CPP),
    Target("bert-drift-cpp", "bert-drift", NATIVE, "BERT, one drift", FASTER, CPP),
    Target(
        "wrn-chip-cpp",
        "wrn-chip",
        NATIVE,
        "WRN, program and one drift, against aihwkit's C++ tile",
        FASTER,
        CPP,
        must=60,
        aim=100,
    ),
    Target(
        "cnn-chip-cpp",
        "cnn-chip",
        NATIVE,
        "small CNN, program and one drift, against aihwkit's C++ tile",
        FASTER,
        CPP,
        must=40,
        aim=80,
    ),
    Target(
        "mlp-chip-cpp",
        "mlp-chip",
        NATIVE,
        "MLP, program and one drift, against aihwkit's C++ tile",
        FASTER,
        CPP,
        must=40,
        aim=80,
    ),
    Target("sweep", "sweep", "sweep", "WRN, sweep", SUM, "parts", must=1.1),
    # whole studies, on a GPU
    Target(
        "goal-wrn",
        "goal-wrn",
        NATIVE,
        f"WRN, whole sweep of the test set, {_ALL}",
        SECONDS,
        must=45,
    ),
    Target(
        "goal-bert",
        "goal-bert",
        NATIVE,
        f"BERT, whole sweep of the sentences, {_ALL}",
        SECONDS,
        must=60,
    ),
    Target(
        "goal-epoch",
        "goal-epoch",
        NATIVE,
        f"WRN, epoch of hardware-aware training, {_ALL} and PCM_NOISE",
        must=3,
    ),
    Target(
        "goal-epoch-bf16",
        "goal-epoch",
        f"{NATIVE}, bfloat16",
        f"WRN, epoch of hardware-aware training, {_ALL} and PCM_NOISE, both in bfloat16 autocast",
        base=f"{DIGITAL}, bfloat16",
    ),
)
"""On a CPU, groups whose names begin with "goal-" are measured only if they are named."""

GROUPS = tuple(dict.fromkeys(target.group for target in TARGETS))
