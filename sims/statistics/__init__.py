"""From the scores of independent runs to what may be said about them.

intervals   of means, paired differences, interactions and bands over runs; what each covers
bootstrap   how those intervals are found
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
    verdict,
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
    "verdict",
]
