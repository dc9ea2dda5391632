"""Two tiny models, and the language that they speak."""
