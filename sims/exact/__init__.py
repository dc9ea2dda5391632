"""The oracle: exact answers on problems whose every response can be listed, in NumPy and float64.

quantities    value, entropy, KL both ways, the KL-regularised optimum, best-of-n, the objective and its weights
tables        log-probs of a table policy, and the one chain rule from weights on responses to its logits
population    what an algorithm does on average: expected weight ∂L/∂ℓ on each response; its algorithms by family in
              population_likelihood, population_policy_gradient and population_contrastive
dynamics      gradient descent on such a population loss, update by update, without sampling
kl_dynamics   gradient descent on either direction of the KL, by coordinates
variance      exact noise of policy-gradient estimators: what a batch gives beyond its mean

Written from the equations and not from the code of `sims.core`, which is tested against it.
"""

from . import population_contrastive, population_likelihood, population_policy_gradient
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
)
from .tables import chain_rule, log_softmax, token_logp

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
    "population_policy_gradient",
    "population_weights",
    "preference_matrix",
    "token_logp",
]
