"""The results that others have published for a task: of direct conversion and of training."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from benchmarks.a_star import normalised_accuracy

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
        phase: "hwa" is hardware-aware training, "direct" the digital model converted as it is.
        scaling: What the weights are normalised by: the largest |w| of a "column" or of a "tile".
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
    phase: str = "hwa"
    scaling: str = "column"

    def star(self, t_s: float) -> float | None:
        """Return A* at a time; None if it was not published and cannot be computed.

        Args:
            t_s: Seconds after programming.
        """
        if t_s in self.stars:
            return self.stars[t_s]
        if t_s not in self.at or self.chance is None:
            return None
        before = self.error(self.digital)
        return normalised_accuracy(self.error(self.at[t_s]), before, self.chance)

    def error(self, value: float) -> float:
        """Return the error that a value of the metric is.

        Args:
            value: An accuracy or an error, in [0, 1].
        """
        return value if self.metric == "error" else 1.0 - value


def direct(model: Published, scaling: str, errors: dict[float, float]) -> Published:
    """Return the paper's direct conversion of a model whose training it has published too.

    Args:
        model: The hardware-aware result.
        scaling: "column" or "tile".
        errors: The error by t_inference in seconds.
    """
    at = {t_s: model.error(error) for t_s, error in errors.items()}
    return replace(
        model, at=at, source=RASCH2023, about=(), note="", phase="direct", scaling=scaling
    )
