"""The results that others have published for a task.

All of them are from hardware-aware training.
"""

from __future__ import annotations

from dataclasses import dataclass, field

PAPER, REPLICATION = "paper", "replication"
HOUR, DAY, YEAR = 3600.0, 86400.0, 31536000.0
RASCH2023 = "Rasch et al. 2023, Nature Communications 14:5282"


@dataclass(frozen=True)
class Published:
    """One model of one publication.

    It is listed in the file of the task that it is compared with.

    Attributes:
        by: PAPER or REPLICATION.
        model: What the publication calls the model.
        data: The data set that it was tested on.
        metric: "accuracy", "error" or "perplexity". All values are in its unit: shares of 1, not
            percent.
        digital: The value before conversion.
        at: Values by t_inference in seconds. A time that is missing was not published.
        chance: The error of guessing, for A*; None if A* cannot be computed.
        source: The publication that has the numbers.
        about: The times whose values were published as approximate.
        note: What else a reader must know.
        stars: A* as published, by t_inference in seconds, for rows from which it cannot be
            computed.
    """

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
