"""What every experiment shares, from one batch to one verdict. Read it in this order:

spec          settings that check themselves
batch         what one collection of responses looks like
reductions    how the losses of many responses become one number
divergences   distances between policies: estimated from samples, and exact
advantages    what a response was worth, beyond what was expected
losses/       one pure function a loss, under its equation
algorithms/   one frozen dataclass an algorithm: hyper-parameters, needs, targets, loss; and the table of them
preferences   rewards to labels
sampling      uniforms to tokens
noise         one random stream a run
protocols     what a policy and an environment must offer
schedule      how on-policy a run is
reference     what the KL is measured to
judge         who says what samples are worth: the environment, or the policy itself
collect       where batches come from
pieces        long passes that stay in the cache
optimise      SGD and Adam, one learning rate a run
learner       one update
train         the one training loop
experiment    an arm as data
obtain        from experiments to records: read, or stacked, run and written; one queue for all who ask
workers       the processes that run them
costs         what they will cost, from what others did
record_file   a file of records: a stack's, or what the repository keeps of a figure
record_schema what each array of a record is
store         a folder of such files
sources       which code ran
resampling    how intervals are found
statistics    intervals and verdicts
options       command lines made from specs
"""
