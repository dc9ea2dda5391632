"""From a policy and an environment to updates.

protocols   interfaces of policies and environments
checks      shapes and ranges of rewards and labels
reference   the reference policy of the KL penalty
labelling   rewards and labels from the environment, or from the policy's implicit reward
deployment  which samples are labelled, and when a trained policy replaces the one that users get
collect     batches: sampling, pools, replay, recorded data
optimise    SGD and Adam, one learning rate per run
learner     one update
train       the training loop
captured    the same, its updates captured as graphs: CUDA's on a GPU
compiled    such a graph on a CPU: recorded operations, compiled to loops of C++
"""
