"""Runs on several processes.

message         tensors joined for one sum over processes
gradient_sum    gradients summed while the backward pass computes others
launcher        processes that a launcher started end with it
spread          data parallel: each process has all weights and a slice of the prompts
sharded         fully sharded (FSDP): each process has a part of the weights
shared_module   the one sharded module that all policies of a run compute with
"""
