"""What others have published of a task: all of it hardware-aware trained."""

from __future__ import annotations

from dataclasses import dataclass, field

PAPER, REPLICATION = "paper", "replication"
HOUR, DAY, YEAR = 3600.0, 86400.0, 31536000.0
RASCH2023 = "Rasch et al. 2023, Nature Communications 14:5282"


@dataclass(frozen=True)
class Published:
    """One model of one publication; it stands in the file of the task that it is compared with.

    Attributes:
        by: PAPER or REPLICATION.
        model: What the publication calls the model.
        data: The data set that it was tested on.
        metric: "accuracy", "error" or "perplexity"; all values are in its unit, shares of 1 and not
            percent.
        digital: The value before conversion.
        at: t_inference in seconds -> value. A time that is missing was not published.
        chance: The error of guessing, for A*; None if it cannot be computed.
        source: Where the numbers stand.
        about: The times whose values were published as approximate.
        note: What a reader must know besides.
        stars: t_inference in seconds -> A* as published, for rows from which it cannot be computed.
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
