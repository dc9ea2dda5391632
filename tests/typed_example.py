# mypy: warn-unused-ignores
"""What a type checker says to a user of the public face; `make lint` runs it: each ignored line must be an error."""

from typing import assert_type

import numpy as np

import llm
import sims

run = sims.run(sims.DPO(beta=0.1), sims.BanditR1(), updates=200, learning_rate=0.1)
assert_type(run, sims.Result)
assert_type(llm.run("tiny-min-length", algorithm=sims.RLOO()), sims.Result)
scores: np.ndarray = run.score
rewards: np.ndarray = run.reward

sims.run(sims.DPO(), sims.BanditR1(), batch_size="many")  # type: ignore[arg-type]
sims.run(sims.DPO(), sims.BanditR1(), batchsize=2)  # type: ignore[call-arg]
sims.run("dpo", sims.BanditR1())  # type: ignore[arg-type]
sims.NoSuchName  # type: ignore[attr-defined]  # noqa: B018
