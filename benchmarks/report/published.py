"""What others have published, for the README's table; all of it hardware-aware trained.

Values are in the unit of their metric (shares, perplexity); a time that is missing was not given.
"""

from __future__ import annotations

from dataclasses import dataclass, field

PAPER, REPLICATION = "paper", "replication"
HOUR, DAY, YEAR = 3600.0, 86400.0, 31536000.0


@dataclass(frozen=True)
class Published:
    """One model of one publication.

    task      the benchmark of this project that it stands beside
    digital   before conversion
    at        t_inference, seconds -> value; `about`: those given as an approximation
    chance    error of guessing, for A*; None where it cannot be computed
    stars     t_inference -> A* as published, where it cannot be computed
    source    where the numbers stand
    """

    task: str
    by: str
    model: str
    data: str
    metric: str
    digital: float
    at: dict[float, float]
    chance: float | None
    source: str
    about: tuple[float, ...] = ()
    note: str = ""
    stars: dict[float, float] = field(default_factory=dict)


_RASCH = "Rasch et al. 2023, Nature Communications 14:5282"

PUBLISHED = (
    Published(
        task="wrn",
        by=PAPER,
        model="WideResNet-16",
        data="CIFAR-100",
        metric="accuracy",
        digital=0.8000,
        at={DAY: 0.7994},
        chance=0.99,
        source=f"{_RASCH}; 1 day: a variant, SI Table 5",
        about=(DAY,),
    ),
    Published(
        task="wrn",
        by=REPLICATION,
        model="WideResNet-16-4",
        data="CIFAR-100",
        metric="accuracy",
        digital=0.7850,
        at={1.0: 0.7695, YEAR: 0.7694},
        chance=0.99,
        source="its README",
    ),
    Published(
        task="bert",
        by=PAPER,
        model="BERT-base",
        data="GLUE, mean of 8",
        metric="accuracy",
        digital=1 - 0.1747,
        at={HOUR: 1 - 0.1755},
        chance=None,
        source=_RASCH,
        stars={HOUR: 0.998},
    ),
    Published(
        task="bert",
        by=REPLICATION,
        model="BERT-base",
        data="SST-2",
        metric="accuracy",
        digital=0.9037,
        at={1.0: 0.9037, YEAR: 0.9037},
        chance=0.5,
        source="its README",
        note="evaluated without noise",
    ),
    Published(
        task="lstm",
        by=PAPER,
        model="LSTM 2x650",
        data="Penn Treebank",
        metric="error",
        digital=0.7290,
        at={HOUR: 0.7300, DAY: 0.7295},
        chance=1 - 1 / 10_000,
        source=_RASCH,
        about=(DAY,),
    ),
    Published(
        task="lstm",
        by=REPLICATION,
        model="LSTM 2x200",
        data="WikiText-2",
        metric="perplexity",
        digital=330.96,
        at={1.0: 259.05, YEAR: 259.09},
        chance=None,
        source="its README",
        note="five epochs more than its digital model",
    ),
)
