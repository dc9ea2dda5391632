"""Statistics of independent runs: confidence intervals, and verdicts on claims.

intervals   confidence intervals of means, paired differences and interactions; bands of curves; their coverage
bootstrap   Student's and bootstrap-t intervals, vectorised over columns
bounded     Gaffke's interval for means of bounded scores
gates       preconditions of a verdict, checked before the effect is computed
verdicts    from an interval and gates to a verdict; p-values and the false discovery rate
"""

from .intervals import (
    Interval,
    band,
    bootstrap_t_interval,
    difference_interval,
    interaction,
    interquartile_mean,
    interquartile_mean_interval,
    mean_interval,
    paired_effect,
    probability_of_improvement,
    probability_of_improvement_interval,
    student_interval,
)

__all__ = [
    "Interval",
    "band",
    "bootstrap_t_interval",
    "difference_interval",
    "interaction",
    "interquartile_mean",
    "interquartile_mean_interval",
    "mean_interval",
    "paired_effect",
    "probability_of_improvement",
    "probability_of_improvement_interval",
    "student_interval",
]
