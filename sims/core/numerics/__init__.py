"""Random numbers, sampling, and computations over many runs.

noise          one random stream per run and purpose
philox         a generator of the same numbers on every device
sampling       tokens from uniforms, by the inverse CDF
log_softmax    logits to log-probs, in NumPy
networks       small networks, one per run
cache_blocks   slices of a tensor that fit into the processor's cache
compiler       whether torch.compile makes code here
recorded       whether operations are being recorded, so that nothing may look at numbers
"""
