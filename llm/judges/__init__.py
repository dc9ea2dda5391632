"""A language model behind an OpenAI-compatible endpoint as judge of responses.

settings   which model, where, and how patiently it is asked
messages   what it is asked, and how its replies are read
judge      scores and comparisons, many at a time
"""

from llm.judges.judge import Comparison, Judge
from llm.judges.settings import JudgeSettings

__all__ = ["Comparison", "Judge", "JudgeSettings"]
