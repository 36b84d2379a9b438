"""What a search of Sec. 5.1 measures: its random points, the grid around the best of them, and the points trained again."""

import dataclasses
from dataclasses import dataclass

import numpy as np

from resattn.config import PAPER, TrainConfig
from resattn.experiments.search_queue import Point
from resattn.files import digest
from resattn.settings import check, setting


@dataclass(frozen=True)
class SearchPlan:
    """What to search; every worker with the same plan comes to the same points.

    Attributes:
        config: all settings but the two searched for; its seed also decides the random points.
        trials: number of random points, log-uniform in the ranges.
        grid: points along learning rate and weight decay in the grid around the best random point, which is its centre and is not
            trained twice.
        span: the grid's extent as a share of each range, on the logarithmic scale.
        confirm: train the best point and the paper's again with so many further seeds, from the config's seed + 1 on: the best
            of many is partly luck.
        lr, weight_decay: ranges (low, high) of the random points.

    Raises:
        ValueError: an argument is not as described.
    """

    config: TrainConfig
    trials: int = setting(16, low=1)
    grid: tuple[int, int] = setting((5, 5), low=1)
    span: float = setting(0.25, above=0, high=1)
    confirm: int = setting(3, low=0)
    lr: tuple[float, float] = setting((1e-4, 1.0), above=0)
    weight_decay: tuple[float, float] = setting((1e-5, 1.0), above=0)

    def __post_init__(self):
        check(self)
        for name in ("lr", "weight_decay"):
            low, high = getattr(self, name)
            if low >= high:
                raise ValueError(f"{name} must be a range of two rising numbers above 0, got {low} and {high}")

    def settings(self) -> dict:
        """The settings all trials share, as a record stores them."""
        return {k: v for k, v in self.config.identity().items() if k not in ("lr", "weight_decay", "seed")}

    @property
    def name(self) -> str:
        """Name of the study. More trials or another grid extend it; other settings, ranges or seed are another study."""
        words = dataclasses.replace(self.config, lr=1.0, weight_decay=0.0).slug.split("-")[:-1]
        code = digest(repr((sorted(self.settings().items()), self.config.seed, self.lr, self.weight_decay)))[:8]
        return "-".join([*words, self.config.schedule, code])

    def random_point(self, k: int) -> Point:
        """The k-th random point: decided by seed and k alone, whoever asks, in whatever order."""
        u, v = np.random.default_rng([self.config.seed, k]).random(2)
        return self._point("random", _between(*self.lr, u), _between(*self.weight_decay, v))

    def first_points(self) -> list[Point]:
        """The random points, and Table 1's."""
        return [
            *(self.random_point(k) for k in range(self.trials)),
            self._point("paper", PAPER["lr"], PAPER["weight_decay"]),
        ]

    def grid_points(self, centre: Point) -> list[Point]:
        """The grid around ``centre``, without it."""
        axes = []
        for n, value, (low, high) in zip(
            self.grid, (centre.lr, centre.weight_decay), (self.lr, self.weight_decay), strict=True
        ):
            reach = (high / low) ** (self.span / 2)
            axes.append([value if 2 * i == n - 1 else value * reach ** (2 * i / (n - 1) - 1) for i in range(n)])
        points = [self._point("grid", lr, decay) for lr in axes[0] for decay in axes[1]]
        return [point for point in points if (point.lr, point.weight_decay) != (centre.lr, centre.weight_decay)]

    def confirmation_points(self, best: Point) -> list[Point]:
        """``best`` and the paper's point with further seeds."""
        chosen = [(best.lr, best.weight_decay), (PAPER["lr"], PAPER["weight_decay"])]
        seeds = range(self.config.seed + 1, self.config.seed + 1 + self.confirm)
        return [self._point("confirm", *values, seed=seed) for seed in seeds for values in dict.fromkeys(chosen)]

    def _point(self, stage: str, lr: float, weight_decay: float, seed: int | None = None) -> Point:
        """Four digits: what a point is called and printed as is exactly what it is."""
        seed = self.config.seed if seed is None else seed
        return Point(stage, float(f"{lr:.4g}"), float(f"{weight_decay:.4g}"), seed)


def _between(low: float, high: float, share: float) -> float:
    return low * (high / low) ** share
