"""The core: from a batch of responses to an update. Read it in this order.

objectives/   what a loss is made of
    batch         what one collection of responses looks like, and the axes (..., B, K, L)
    reductions    how the losses of many tokens, responses or pairs are averaged
    divergences   KL divergence and entropy: estimators from samples, and exact
    advantages    reward minus a baseline
    preferences   from rewards to pairs and preference labels
losses/       one pure function per loss, under its equation
algorithms/   one frozen dataclass per algorithm: hyper-parameters, needs, targets, loss; the table of them; the recipe
              for adding one (`algorithms/base.py`)
loop/         from a policy and an environment to updates
    protocols     what a policy and an environment must offer, and their settings
    checks        shapes and ranges of rewards and labels, checked before they are used
    reference     the reference policy of the KL penalty
    labelling     where rewards and labels come from: the environment, or the policy's implicit reward
    deployment    which samples are labelled, and when a trained policy replaces the one that users get
    collect       where batches come from
    optimise      SGD and Adam, one learning rate per run
    learner       one update
    train         the one training loop
    captured      its updates as CUDA graphs: recorded once, then replayed
numerics/     one random stream per run, sampling from uniforms, small stacked networks, cache-sized slices
schedule      how on-policy a run is: batch size, reuse, sync period, source of the samples
spec          validated settings: every class with hyper-parameters is one; read it last

It imports numpy and torch, and nothing else of this project.

**One batch, from draw to gradient.** DPO on a bandit, 64 prompts, 2 responses per prompt:

1. `loop/train.py`       `Training.train` gets a batch from the collector, once every `updates_per_batch` updates;
2. `loop/collect.py`     `Collector.next_batch` syncs the sampler with the policy if it is time, draws prompts (R, 64)
                         from the environment and responses (R, 64, 2, 1) from the sampler, with their log-probs;
3. `sims/environments/`  `label` gives rewards (R, 64, 2), pairs (R, 64, 1, 2), and the probability that the first of a
                         pair is preferred (R, 64, 1);
4. `loop/reference.py`   the reference's policy adds log π_ref; all is a `Batch` (`objectives/batch.py`), and frozen;
5. `algorithms/contrastive.py`  `DPO.targets` computes, once per batch and without gradient, what the loss needs;
6. `loop/learner.py`     `Learner.update` takes a minibatch, computes the policy's log-probs (`sims/policies/`), calls
7. `algorithms/contrastive.py`  `DPO.loss`, which calls `losses/contrastive.py`: `dpo_loss`, (R, 64), one number per
                         prompt, already divided by the size of the minibatch;
8. `loop/optimise.py`    its sum over prompts is differentiated; the gradient is clipped and applied per run.

R counts runs: independent repetitions that are trained side by side and never mix. A language model has no such
axis and takes the same path: its prompts are (64, P) tokens, its responses (64, 2, L).

**One figure, from arms to verdict.** `figures/gallery/online_offline.py` names its arms as experiments
(`sims/experiments/experiment.py`); `figures/lab.py` tunes them on other seeds and requests their records;
`sims/experiments/runner.py` finds these in the store (`store.py`) or stacks and runs what is missing (`executor.py`,
whose loop, `record_loop.py`, language models share);
the figure draws them, computes each claim's effect and interval (`sims/statistics/`), and `figures/claims.py` states
the verdict, which `figures/report/` shows.
"""
