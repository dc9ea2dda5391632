"""Policies over token sequences, trained for all runs at once.

table         one free logit per prompt, prefix and token
mlp           a ReLU network from prompt to logits
response_mlp  a ReLU network from the features of a response to its logit
transformer   settings, initialisation and fit of a small causal transformer, which `causal` computes
fine_tuned    another policy after supervised fine-tuning on recorded pairs
categorical   sampling and scoring from a table of logits
stacked       parameters with a leading axis of runs

**To add a policy**:

(1) Add a file here, imported below, with two classes: the policy and its settings.

    from dataclasses import dataclass
    from typing import Any

    import torch
    from torch import Tensor

    from sims.core.loop.protocols import EnvironmentSpec, PolicySpec
    from sims.core.numerics.noise import Noise
    from sims.core.spec import SpecError
    from sims.environments.enumerable import EnumerableSpec
    from sims.environments.space import TokenSpace

    from .categorical import CategoricalPolicy


    class SharedPolicy(CategoricalPolicy):
        '''One distribution for all X prompts: logits (R, 1, nodes, V), and a critic's values (R, 1, nodes).'''

        def __init__(self, space: TokenSpace, prompts: int, parameters: list[Tensor]) -> None:
            super().__init__(space, parameters)
            self.prompts = prompts

        def logits(self) -> Tensor:
            return self._parameters[0].expand(-1, self.prompts, -1, -1)

        def value_table(self) -> Tensor:
            return self._parameters[1].expand(-1, self.prompts, -1)


    @dataclass(frozen=True)
    class Shared(PolicySpec, kind="shared"):
        '''One table for all prompts, initialised at the data policy of the first.'''

        def check_environment(self, environment: EnvironmentSpec) -> None:
            if not isinstance(environment, EnumerableSpec):
                raise SpecError("policy", self.kind, f"needs responses that can be listed: not {environment.kind}")

        def build(self, environment: Any, noise: Noise, critic: bool, dtype: torch.dtype) -> SharedPolicy:
            logp = torch.from_numpy(environment.checked_reference_logp(noise)).to(dtype)
            logits = logp.expand(*noise.lead, *logp.shape[-3:])[:, :1].clone()
            values = [torch.zeros_like(logits[..., 0])] if critic else []
            return SharedPolicy(environment.space, environment.num_prompts, [logits, *values])

Every parameter has R runs as its leading axis, and runs must not mix. Logits are (R, X, nodes, V): of each token after
each prefix, for each prompt; they and the values are functions of parameters and attributes alone, for they are asked
for again only when a parameter has changed in place. All random numbers come from `noise.uniforms`, of a stream that
you name; what is not trained, such as features, is an attribute, which copies share. `build` returns the reference,
from which training starts. `CategoricalPolicy` samples and scores from the logits; a policy whose logits do not fit
into memory inherits from `StackedPolicy` and defines `sample`, `forward` and `all_log_probs` itself, as in `causal`.

(2) List the settings in `sims/__init__.pyi`, which makes them `sims.NAME`, with an example (`>>>`) in their docstring;
and put the table that `python -m sims --policies` prints into the README.

The command line and the tests of `tests/policies/test_every_policy.py` find it by its kind.
"""

from .categorical import CategoricalPolicy
from .causal import TransformerPolicy
from .fine_tuned import FineTuned
from .mlp import MLP, MLPPolicy
from .response_mlp import ResponseMLP, ResponseMLPPolicy
from .table import Table, TablePolicy
from .transformer import Transformer

__all__ = [
    "MLP",
    "CategoricalPolicy",
    "FineTuned",
    "MLPPolicy",
    "ResponseMLP",
    "ResponseMLPPolicy",
    "Table",
    "TablePolicy",
    "Transformer",
    "TransformerPolicy",
]
