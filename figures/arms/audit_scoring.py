"""The off-by-one scoring of the code released with Tajwar et al. 2024, for the figure that audits it and nothing else.

In that code (Asap7772/understanding-rlhf, bandit_experiment/gpt.py) `GPT.log_prob` takes the logits at position t for
the token at position t. A transformer's logits at position t are its distribution of the token at t + 1, having read
token t: so what is scored is how well the network repeats a token that it has just read, the prompt's included.
`generate`, which draws the responses, has no such slip. Nothing outside the audit may be trained like this: the class
lives here, not in `sims`, and so no option of a command line can name it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sims.core.loop.protocols import EnvironmentSpec
from sims.core.objectives.batch import LOG_PROBS, Batch, OutputRequest, Outputs
from sims.core.spec import SpecError
from sims.environments import TokenBandit
from sims.policies import Transformer, TransformerPolicy


@dataclass(frozen=True)
class ShiftedScoringTransformer(Transformer, kind="audit_shifted_transformer"):
    """A transformer with the released bug. Differs from its base in `forward` alone: (1) the log-prob of token t comes
    from the logits at t, not at t − 1; (2) the prompt's own token is scored too, its log-prob added to the first
    token's. Sampling, the fit to the data policy and the evaluation are right, as they are in the released code, but
    for its KL and entropy, which it scores with the bug too.
    """

    class Policy(TransformerPolicy):
        """Scores what it has just read."""

        def forward(self, batch: Batch, request: OutputRequest = LOG_PROBS) -> Outputs:
            """Shifted log-probs of responses (R, B, K, L) without EOS: what the released `log_prob` sums."""
            if request.values or request.entropy:
                raise ValueError("values, entropy = True: must be False, the released scoring gives log-probs alone")
            responses = batch.responses
            first = self.prompt_rows[batch.prompts][..., None, None].expand(*responses.shape[:-1], 1)
            read = torch.cat([first, responses], dim=-1).flatten(1, 2)
            distributions = self.logits(self.hidden(read)).log_softmax(-1)
            repeated = distributions.gather(-1, read.flatten(1).unsqueeze(-1)).view(
                *responses.shape[:-1], read.shape[-1]
            )
            of_prompt, of_first, *rest = repeated.unbind(-1)
            return Outputs(logp=torch.stack([of_prompt + of_first, *rest], dim=-1))

    def policy_class(self) -> type[TransformerPolicy]:
        return self.Policy

    def check_environment(self, environment: EnvironmentSpec) -> None:
        if not isinstance(environment, TokenBandit):
            raise SpecError("policy", self.kind, "reproduces a bug of the token bandit, and is for that alone")
