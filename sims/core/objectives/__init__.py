"""What a batch is, and the quantities that losses are made of.

batch         one collection of responses, and the axes (..., B, K, L)
reductions    weights that average losses over tokens, responses and prompts
divergences   KL estimators from samples, exact KL and entropy
advantages    reward minus a baseline: group mean, leave-one-out, running mean, GAE
preferences   pairs of responses, and Bradley–Terry labels
"""
