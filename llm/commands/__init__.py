"""The commands of `python -m llm`, one module per command.

pretrain    train an embedded model again, or check a saved one
new         a tokenizer and an untrained model
reward      fit a reward model
train       tune a model; also `sft`
sample      print responses
evaluate    compare a model with its reference
align       continuous alignment
options     an experiment from the command line: a preset with changed fields
"""
