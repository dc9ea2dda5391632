"""Training runs of language models.

presets         experiments by name
run             a run: built from its spec and trained; the arrays of its record
evaluation      what is measured of a run's policy
held_out        what is measured of a run on held-out responses
read_again      what a run must find again to go on: configurations, tokenizers, a judge's criteria
learning_rate   an optimiser whose learning rate warms up and decays
checkpoint      checkpoints, written atomically
folder          the files of a run, how it is started or resumed
written_by      which command wrote a folder, so that no other writes there
metrics         metrics of an update, under TRL's names
loggers         JSON lines, TensorBoard, Weights & Biases
memory          estimated memory of a run
loop            the training loop of every command: metrics, held-out numbers, checkpoints
best            the best evaluation, whose checkpoint is kept
run_fit         a run as the loop sees it
unfinished      the folder of fits that end in a model, until then
pretrain_fit    the updates of pretraining
pretrain        training of the embedded models
"""
