"""A run of a language model: presets, the run itself, checkpoints, metrics, memory."""
