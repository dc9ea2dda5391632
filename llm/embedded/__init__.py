"""The language models that come with the package: names and folders; `language`, what they are trained on.

Each folder holds weights (safetensors), configuration, tokenizer and report.json, as `llm.training.pretrain` made them.
How well the models know the language, on its held-out prompts (`llm.training.pretrain.Report`):

| | language | pythia | mistral |
| --- | --- | --- | --- |
| loss − entropy, nats per token | 0 | 0.0074 | 0.0031 |
| probability of at most 5 tokens | 1.0e-05 | 5.4e-06 | 3.0e-06 |
| of a length within 5 tokens of 16 | 0.973 | 0.962 | 0.968 |
| of at least 27 tokens | 1.2e-05 | 8.2e-04 | 6.2e-04 |
| of an answer that is right | 0.500 | 0.436 | 0.478 |

They end long responses less often than the language does: rewards of short lengths are as far from what they give as
the language says, rewards of very long ones are not.
"""

from __future__ import annotations

from pathlib import Path

EMBEDDED = {name: Path(__file__).parent / f"{name}-tiny" for name in ("pythia", "mistral")}


def find_folder(name: str | Path) -> Path:
    """The folder of an embedded model; any other name as a path, which need not exist."""
    return EMBEDDED.get(str(name), Path(name))
