"""Random streams, sampling from uniforms, and how tensors are gone over."""
