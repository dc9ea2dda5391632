"""Exact quantities of environments whose responses can all be listed, in NumPy and float64; the reference for tests.

quantities    value, entropy, KL both ways, the KL-regularised optimum, best-of-n, win rate, the objective and its
              weights
tables        log-probs of a table policy, and the chain rule from weights on responses to its logits
population    expected gradient of an algorithm: weight ∂L/∂ℓ on each response; the algorithms by family in
              population_likelihood, population_policy_gradient, population_contrastive and population_mixture
dynamics      gradient descent on such a population loss, update by update, without sampling
kl_dynamics   gradient descent on either direction of the KL, in three coordinate systems
variance      exact variance of policy-gradient estimators

Written from the equations and not from the code of `sims.core`, which is tested against it.
"""

from sims.core.numerics.log_softmax import log_softmax

from . import (
    population_contrastive,
    population_likelihood,
    population_mixture,
    population_policy_gradient,
)
from .dynamics import follow_gradient, one_prompt, preference_matrix
from .population import Population, has_population_weights, population_weights
from .quantities import (
    best_of_n,
    entropy,
    expected_reward,
    kl_best_of_n_bound,
    kl_policy_ref,
    kl_ref_policy,
    objective,
    objective_weights,
    optimum,
    win_rate,
)
from .tables import chain_rule, token_logp

__all__ = [
    "Population",
    "best_of_n",
    "chain_rule",
    "entropy",
    "expected_reward",
    "follow_gradient",
    "has_population_weights",
    "kl_best_of_n_bound",
    "kl_policy_ref",
    "kl_ref_policy",
    "log_softmax",
    "objective",
    "objective_weights",
    "one_prompt",
    "optimum",
    "population_contrastive",
    "population_likelihood",
    "population_mixture",
    "population_policy_gradient",
    "population_weights",
    "preference_matrix",
    "token_logp",
    "win_rate",
]
