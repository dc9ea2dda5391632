"""Pure losses, one family a file: log-probs in, one loss a token, response or pair out.

A loss knows neither batches, masks, reductions nor networks. Which units count, and how much, is `reductions`; what the
advantages, labels and margins are is `algorithms`.
"""
