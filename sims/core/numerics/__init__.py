"""Random numbers, sampling, and computations over many runs.

noise          one random stream per run and purpose
sampling       tokens from uniforms, by the inverse CDF
networks       small networks, one per run
cache_blocks   slices of a tensor that fit into the processor's cache
"""
