"""The 1-D bandit of Tajwar et al. 2024: 100 actions, one reward peak, and a data policy with little or much probability
near it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sims.core.numerics.noise import Noise
from sims.core.spec import SpecError, setting

from .enumerable import EnumerableSpec
from .space import TokenSpace


def bump(actions: int, peak: float, width: float) -> np.ndarray:
    """Reward exp(−((a − peak)/width)²) of each action a, in [0, 1]. Returns (actions,)."""
    return np.exp(-(((np.arange(actions) - peak) / width) ** 2))


def cauchy_data_policy(actions: int) -> np.ndarray:
    """The paper's π_data: the histogram on [−1, 1] of tanh(Cauchy(−0.7, 0.4)), exactly. Returns (actions,).

    The first and last bins hold 0.08 and 0.04 of the mass: the heavy tails, where tanh saturates.
    """
    edges = np.arctanh(np.linspace(-1.0, 1.0, actions + 1)[1:-1])
    # Cauchy's F(x) = arctan2(1, −z)/π, as exact in the tails: half a second sooner than by importing scipy.stats.
    below = np.arctan2(1.0, -(edges + 0.7) / 0.4) / np.pi
    return np.diff(np.concatenate([[0.0], below, [1.0]]))


def shifted_data_policy(actions: int, peak: float, width: float, overlap: float, spread: float) -> np.ndarray:
    """A discretised Gaussian moved to the left of the peak until its mass within ±width of it is `overlap`.

    Returns (actions,). The shape is the same at every overlap, without the spikes of `cauchy_data_policy` at the edges.
    """
    from scipy import optimize  # not at the top of the file: few bandits need it, and it takes a third of a second

    positions = np.arange(actions)
    inside = np.abs(positions - peak) <= width

    def distribution(centre: float) -> np.ndarray:
        log_mass = -0.5 * ((positions - centre) / spread) ** 2
        mass = np.exp(log_mass - log_mass.max())
        return mass / mass.sum()

    with np.errstate(divide="ignore"):  # far from the peak no mass is within
        centre = optimize.brentq(
            lambda c: np.log(distribution(c)[inside].sum()) - np.log(overlap), -2 * actions, peak, xtol=1e-12
        )
    return distribution(float(centre))


@dataclass(frozen=True)
class Bandit(EnumerableSpec):
    """One reward peak on a line of actions; the data policy is the paper's, wherever the peak is."""

    only_numbers: ClassVar[frozenset[str]] = frozenset(("kind", "peak", "width", "overlap", "spread"))

    num_actions: int = setting(100, "number of actions", at_least=2)
    peak: float = setting(70.0, "action with the largest reward", at_least=0)
    width: float = setting(10.0, "width of the reward peak, exp(-((a - peak)/width)^2), in actions", above=0)

    def check(self) -> None:
        if self.peak > self.num_actions - 1:
            raise SpecError("peak", self.peak, f"must be an action: at most {self.num_actions - 1}")

    @property
    def space(self) -> TokenSpace:
        return TokenSpace(self.num_actions)

    def rewards(self) -> np.ndarray:
        return np.tile(bump(self.num_actions, self.peak, self.width), (self.num_prompts, 1))

    def data_policy(self) -> np.ndarray:
        """(actions,) probabilities."""
        return cauchy_data_policy(self.num_actions)

    def reference_logp(self, noise: Noise | None = None) -> np.ndarray:
        return np.tile(np.log(self.data_policy()), (self.num_prompts, 1, 1))

    def overlap_mass(self) -> float:
        """The data policy's mass within ±width of the peak."""
        inside = np.abs(np.arange(self.num_actions) - self.peak) <= self.width
        return float(self.data_policy()[inside].sum())


@dataclass(frozen=True)
class BanditR1(Bandit, kind="bandit_r1"):
    """R1: peak at 70, which the data policy rarely hits (0.046 of its mass lies within ±10).

    >>> round(sims.BanditR1().overlap_mass(), 3)
    0.046
    """


@dataclass(frozen=True)
class BanditR2(Bandit, kind="bandit_r2"):
    """R2: peak at 20, in the middle of the data policy (0.45 of its mass lies within ±10).

    >>> round(sims.BanditR2().overlap_mass(), 2)
    0.45
    """

    peak: float = setting(20.0, "action with the largest reward", at_least=0)


@dataclass(frozen=True)
class BanditOverlap(Bandit, kind="bandit_overlap"):
    """R1's reward with a Gaussian data policy, placed so that `overlap` of its mass lies within ±width of the peak.

    >>> round(sims.BanditOverlap(overlap=1e-3).overlap_mass(), 6)
    0.001
    """

    overlap: float = setting(0.05, "probability of the data policy within +-width of the peak", at_least=1e-8, below=1)
    spread: float = setting(8.0, "standard deviation of the data policy, in actions", above=0)

    def check(self) -> None:
        super().check()
        least, most = (self._mass_around(centre) for centre in (-2.0 * self.num_actions, self.peak))
        if not least < self.overlap <= most:
            rule = f"must be above {least:.3g} and at most {most:.3g}, the mass within ±width of a data policy far from"
            raise SpecError("overlap", self.overlap, f"{rule} the peak and on it, at spread = {self.spread:g}")
        if not self.data_policy().all():  # e^(−d²/2) is 0 in float64 beyond 38 spreads
            raise SpecError("spread", self.spread, "must be larger: the data policy gives some action probability 0")

    def _mass_around(self, centre: float) -> float:
        """The mass within ±width of the peak of a data policy around a centre."""
        with np.errstate(over="ignore", invalid="ignore"):  # a spread near 0 is refused by its NaN
            log_mass = -0.5 * ((np.arange(self.num_actions) - centre) / self.spread) ** 2
            mass = np.exp(log_mass - log_mass.max())
        return float(mass[np.abs(np.arange(self.num_actions) - self.peak) <= self.width].sum() / mass.sum())

    def data_policy(self) -> np.ndarray:
        return shifted_data_policy(self.num_actions, self.peak, self.width, self.overlap, self.spread)


__all__ = ["Bandit", "BanditOverlap", "BanditR1", "BanditR2", "bump", "cauchy_data_policy", "shifted_data_policy"]
