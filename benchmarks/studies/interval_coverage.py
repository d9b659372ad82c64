"""How often intervals of means and of A* hold the truth, on answers with known effects.

A sample is answered right if its margin is above 0. The margin of the digital model on a sample is
normal, and a chip moves it: by what all samples lose, by the luck of its training and of the chip
itself, and by noise of its own on each sample. The probabilities of right answers follow from these
in closed form, so the truth is known.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.report import answer_intervals
from benchmarks.report.intervals import Interval, crossed_interval, mean_interval

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Bits = NDArray[np.bool_]

_NODES = 40


@dataclass(frozen=True)
class Scenario:
    """A test set, models and chips whose effects are known.

    Effects are standard deviations of margins, whose own standard deviation over samples is 1.

    Attributes:
        name: What it stands for.
        right: The accuracy of the digital model, in (0, 1).
        chance: The error of guessing, in [0, 1].
        samples: Test samples.
        chips: Chips of each training.
        trainings: Trainings, each with chips of its own.
        shared: The share of a chip's margin (its variance) that is the digital model's, in [0, 1]:
            the difficulty of a sample. At 0 chips and the digital model err on other samples.
        of_trainings: How much a training moves all margins. With one training, anything but 0 asks
            for what no interval over chips and samples covers: another training.
        of_chips: How much a chip moves all margins.
        of_digital: How much a digital model moves all margins, if each training has one of its own;
            0 means that they have one in common.
        lost: How far margins are lower on a chip, in the mean.
        run: Neighbouring samples whose margins have a tenth of their variance in common; 1 means
            that samples are independent.
        claimed: Whether a table claims to cover this.
    """

    name: str
    right: float
    chance: float
    samples: int
    chips: int
    trainings: int = 1
    shared: float = 0.9
    of_trainings: float = 0.03
    of_chips: float = 0.05
    of_digital: float = 0.0
    lost: float = 0.1
    run: int = 1
    claimed: bool = True


class Truth(NamedTuple):
    """The true values, which an interval should hold.

    Attributes:
        error: The error of new chips on new samples.
        star: Their A*.
    """

    error: float
    star: float


class Coverage(NamedTuple):
    """How often intervals at 95 % hold the truth, shares of 1.

    Attributes:
        error: Those of the mean error.
        star: Those of A*.
        chips_alone: Student's t of A* over units (chips or trainings) alone, as older records have.
        half: The mean half width of the interval of A*.
    """

    error: float
    star: float
    chips_alone: float
    half: float


def truth_of(scenario: Scenario) -> Truth:
    """Return the error and A* that new chips have on new samples, in the mean.

    Args:
        scenario: The effects.
    """
    import numpy as np
    from scipy.stats import norm

    middle = float(norm.ppf(scenario.right))
    nodes, weights = np.polynomial.hermite_e.hermegauss(_NODES)
    at = middle + scenario.of_digital * nodes  # the digital models' own luck, integrated over
    share = weights / weights.sum()
    spread = math.sqrt(1 + scenario.of_trainings**2 + scenario.of_chips**2)
    digital = norm.sf(at)
    chip = norm.sf((at - scenario.lost) / spread)
    stars = 1 - (chip - digital) / (scenario.chance - digital)
    return Truth(float(share @ chip), float(share @ stars))


def draw(scenario: Scenario, numbers: np.random.Generator) -> list[tuple[Bits, Bits]]:
    """Draw answers: for each training those of its digital model and of its chips.

    Args:
        scenario: The effects.
        numbers: The source of randomness.

    Returns:
        Pairs of shapes (samples,) and (chips, samples), True for a right answer.
    """
    from scipy.stats import norm

    n, middle = scenario.samples, float(norm.ppf(scenario.right))
    rest = (1 - scenario.shared) / 2  # half is the training's, half the chip's
    common = _margins(scenario, numbers)
    drawn = []
    for _ in range(scenario.trainings):
        luck = scenario.of_digital * numbers.standard_normal()
        digital = common
        if scenario.of_digital:  # a model of its own agrees with the others on most samples
            digital = math.sqrt(0.8) * common + math.sqrt(0.2) * _margins(scenario, numbers)
        luck_of_training = scenario.of_trainings * numbers.standard_normal()
        luck_of_chips = scenario.of_chips * numbers.standard_normal((scenario.chips, 1))
        trained = math.sqrt(scenario.shared) * digital
        trained = trained + math.sqrt(rest) * _margins(scenario, numbers)
        noise = numbers.standard_normal((scenario.chips, n), dtype="float32")
        level = middle + luck - scenario.lost + luck_of_training
        border = -(trained + level)[None, :] - luck_of_chips
        drawn.append((digital + middle + luck > 0, math.sqrt(rest) * noise > border))
    return drawn


def _margins(scenario: Scenario, numbers: np.random.Generator) -> NDArray[np.float64]:
    """Draw one margin per sample, of mean 0 and variance 1; neighbours share a part in runs."""
    import numpy as np

    own = numbers.standard_normal(scenario.samples)
    if scenario.run == 1:
        return own
    of_runs = numbers.standard_normal(-(-scenario.samples // scenario.run))
    in_common = np.repeat(of_runs, scenario.run)[: scenario.samples]
    mixed: NDArray[np.float64] = math.sqrt(0.1) * in_common + math.sqrt(0.9) * own
    return mixed


def tables_of(
    drawn: Sequence[tuple[Bits, Bits]], chance: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the error and the shares of A* of each unit and sample, as the reports have them.

    Args:
        drawn: The answers of each training.
        chance: The error of guessing, in [0, 1].

    Returns:
        Two tables (units, samples). Units are chips if there is one training, else trainings.
    """
    import numpy as np

    errors = [(~chips).astype(float) for _, chips in drawn]
    stars = [answer_intervals.table_of_stars(digital, chips, chance) for digital, chips in drawn]
    if len(drawn) == 1:
        return errors[0], stars[0]
    return np.stack([x.mean(0) for x in errors]), np.stack([x.mean(0) for x in stars])


def coverage(scenario: Scenario, sets: int, seed: int = 0) -> Coverage:
    """Measure how often intervals hold the truth.

    Args:
        scenario: The effects.
        sets: How many data sets are drawn.
        seed: The seed of the draws.
    """
    import numpy as np

    numbers, truth = np.random.default_rng(seed), truth_of(scenario)
    held = np.zeros(3)
    half = 0.0
    for _ in range(sets):
        error, star = tables_of(draw(scenario, numbers), scenario.chance)
        found = (crossed_interval(error), crossed_interval(star), mean_interval(star.mean(1)))
        held += [_holds(i, t) for i, t in zip(found, (*truth, truth.star), strict=True)]
        half += (found[1].high - found[1].low) / 2
    shares = [float(share) for share in held / sets]
    return Coverage(shares[0], shares[1], shares[2], half / sets)


def _holds(interval: Interval, value: float) -> bool:
    return interval.low <= value <= interval.high


# --- the scenarios --------------------------------------------------------------------------------

_TESTS = (
    Scenario("2 classes, 95 % right", 0.95, 0.5, 872, 5),
    Scenario("2 classes, 86 % right", 0.86, 0.5, 2133, 5),
    Scenario("100 classes, 78 % right", 0.78, 0.99, 2000, 5),
    Scenario("100 classes, 75 % right", 0.75, 0.99, 10_000, 5),
    Scenario("10,000 words, 27 % right", 0.27, 0.9999, 9980, 5, of_chips=0.0, lost=0.02),
)
_SMALL = 3
"""The first of `_TESTS`, which cost little: they are drawn with independent answers too."""


def _designs(test: Scenario) -> Iterator[Scenario]:
    """Return a test with 5 and 25 chips, of one and of three trainings."""
    for trainings in (1, 3):
        luck = test.of_trainings if trainings > 1 else 0.0
        for chips in (5, 25):
            yield replace(test, chips=chips, trainings=trainings, of_trainings=luck)


_MANY = replace(_TESTS[1], chips=25, trainings=3)
SCENARIOS = (
    *(design for test in _TESTS for design in _designs(test)),
    *(
        replace(design, name=f"{test.name}, errors of a chip not the digital model's", shared=0.0)
        for test in _TESTS[:_SMALL]
        for design in _designs(test)
    ),
    replace(_MANY, name="chips and trainings alike", of_trainings=0.0, of_chips=0.0),
    replace(_MANY, name="trainings that differ much", of_trainings=0.2),
    replace(_MANY, name="each training from its own digital model", of_digital=0.03),
    replace(_MANY, name="two trainings", trainings=2, claimed=False),
    replace(_MANY, name="another training is asked for", trainings=1, claimed=False),
    replace(
        _MANY,
        name="another training is asked for, trainings differ much",
        trainings=1,
        of_trainings=0.1,
        claimed=False,
    ),
    replace(
        _TESTS[4],
        name="words whose neighbours (20) have a tenth in common",
        chips=25,
        of_trainings=0.0,
        run=20,
        claimed=False,
    ),
)
"""The cases of the tables, and cases that no table claims to cover."""
