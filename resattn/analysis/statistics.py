"""Means, intervals and paired differences over seeds, and the one verdict that follows from them."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.special import stdtr, stdtrit  # Student's t without scipy.stats, which takes a second to import

LEVEL, ALPHA = 0.95, 0.05


class Difference(NamedTuple):
    """Over how many seeds, and mean and half-width of its 95 % interval; without a seed NaN, and the half-width for one."""

    seeds: int
    mean: float
    half: float


def mean_interval(values: Iterable[float]) -> tuple[float, float]:
    """Mean and half-width of Student's 95 % interval; the half-width is NaN for a single value, and no value is a ValueError."""
    values = np.asarray(list(values), float)
    if not len(values):
        raise ValueError("values must not be empty")
    if len(values) == 1:
        return float(values[0]), float("nan")
    half = stdtrit(len(values) - 1, 0.5 + LEVEL / 2) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean()), float(half)


def paired_difference(one: pd.Series, other: pd.Series) -> Difference:
    """Of ``one`` - ``other``, each indexed by seed, over the seeds that both have; a seed that is there twice is a ValueError."""
    if one.index.has_duplicates or other.index.has_duplicates:
        raise ValueError(f"one and other must hold one run a seed, got seeds {list(one.index)} and {list(other.index)}")
    pairs = (one - other).dropna()
    return Difference(len(pairs), *(mean_interval(pairs) if len(pairs) else (np.nan, np.nan)))


def p_value(seeds: int, mean: float, half: float) -> float:
    """Two-sided p of the paired t test that a mean with its 95 % interval belongs to; NaN for a single seed."""
    if half == 0:
        return float(mean == 0)
    t = mean / half * stdtrit(seeds - 1, 0.5 + LEVEL / 2)
    return float(2 * stdtr(seeds - 1, -abs(t)))


def holm(p_values: Iterable[float]) -> np.ndarray:
    """P-values adjusted for how many there are (Holm 1979); NaN stays NaN and does not count."""
    p = np.asarray(list(p_values), float)
    order = np.argsort(p)[: np.isfinite(p).sum()]
    adjusted = np.full(len(p), np.nan)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)))
    return adjusted


def verdict(mean: float, half: float, p: float, better: int = 1) -> str:
    """Whether a difference, whose p is adjusted, supports or contradicts the claim that its sign is ``better`` (0: that there is none,
    which no test can support); where undecided, the sizes that its interval excludes."""
    if not np.isfinite(half):
        return "undecided; one seed"
    if p < ALPHA:
        return "supported" if mean * better > 0 else "contradicted"
    return f"undecided; beyond ±{abs(mean) + half:.2f} excluded"


def gain_text(claimed: float, mean: float, half: float) -> str:
    """A gain that the paper reports, and where it lies: inside the interval of the measured difference, above or below it."""
    if not np.isfinite(claimed):
        return ""
    place = ", above" if claimed > mean + half else ", below" if claimed < mean - half else ", inside"
    return (f"{claimed:+.1f}" if claimed else "none") + (place if np.isfinite(half) else "")


def signed(mean: float, half: float = float("nan")) -> str:
    """A difference with its sign, and the half-width of its interval where it has one: "+1.30 ± 0.40", "−0.42", "0.00"."""
    text = f"{mean:+.2f}".replace("-", "\N{MINUS SIGN}")
    text = "0.00" if text[1:] == "0.00" else text
    return f"{text} ± {half:.2f}" if np.isfinite(half) else text
