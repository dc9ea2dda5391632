"""Pure losses: log-probs in, one loss per token, response or pair out.

likelihood        likelihood, unlikelihood, exponential reward weights
policy_gradient   REINFORCE, clipped surrogate (PPO), clipped importance weights (CISPO), value loss
contrastive       the DPO family, KTO, SimPO, ORPO's log-odds, Nash-MD
reward_model      Bradley–Terry losses of reward models

A loss does not depend on batches, masks or networks. `objectives.reductions` weighs and averages its values;
`algorithms` computes its advantages, labels and margins.
"""
