"""The recipes for environments and policies, followed to the letter: the code in their docstrings is added, found and
tested; and broken on purpose in every way that has happened, it is refused in a line that teaches, or a test fails.

Each in a process of its own, so that what is added is not there for the other tests.
"""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path

from sims import policies
from sims.environments import toy
from tests.processes import run_script


def recipe(docstring: str | None, folder: str) -> str:
    """The code of a recipe, as it would stand in a file of that folder; imports made absolute."""
    found = re.search(r"(?:^    .*\n|^\n)+", (docstring or "").partition("imported ")[2], re.MULTILINE)
    assert found
    code = textwrap.dedent(found[0]).strip() + "\n"
    return code.replace("from ..", "from sims.").replace("from .", f"from sims.{folder}.")


ENVIRONMENT = recipe(toy.__doc__, "environments")
POLICY = recipe(policies.__doc__, "policies")


def python(script: str, folder: Path) -> tuple[int | None, str]:
    """Exit code, and what was printed."""
    path = folder / "added.py"
    path.write_text(script)
    return run_script(path)


def variant(code: str, kind: str, name: str, *changes: tuple[str, str]) -> str:
    """The recipe under another kind, with something changed."""
    for old, new in changes:
        assert code.count(old) == 1, f"{old!r} stands {code.count(old)} times in the recipe"
        code = code.replace(old, new)
    return code.replace(f'kind="{kind}"', f'kind="{kind}_{name}"')


def failing_tests(file: str, kind: str, code: str, folder: Path) -> dict[str, set[str]]:
    """Which of the universal tests of `file` fail for each variant in `code`, by its name; "" is the recipe itself."""
    run = f'import pytest, sims.policies\npytest.main(["{file}", "-q", "-k", "{kind}", "-p", "no:cacheprovider"])'
    _, printed = python(f"{code}\n{run}", folder)
    assert "[100%]" in printed, printed
    found: dict[str, set[str]] = {}
    for test, name in re.findall(rf"^(?:FAILED|ERROR) \S*?::(\w+)\[.*?\b{kind}_?(\w*)", printed, re.MULTILINE):
        found.setdefault(name, set()).add(test)
    return found


def commands(code: str, lines: list[str], folder: Path) -> list[tuple[int, str, str]]:
    """python -m sims with the newcomers of `code`, once per line, in one process: exit status, stdout, and the last
    line of stderr."""
    run = f"""
import contextlib, io, json, sims.__main__
found = []
for line in {lines!r}:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = sims.__main__.main([*line.split(), *{FEW.split()!r}, "--results", {str(folder / "results")!r}])
    found.append((status, out.getvalue(), (err.getvalue().strip().splitlines() or [""])[-1]))
print(json.dumps(found))
"""
    status, printed = python(code + run, folder)
    assert status == 0, printed
    return [tuple(item) for item in json.loads(printed.splitlines()[-1])]


FEW = "--updates 2 --evaluations 1 --runs 2 --batch-size 4"


def test_the_recipes_are_short() -> None:
    for code in (ENVIRONMENT, POLICY):
        assert len([line for line in code.splitlines() if line.strip()]) < 40
    assert len([line for line in ENVIRONMENT.splitlines() if line.strip()]) < 30


# --- environments

# Environments that say something themselves: `environment` gives them the tables of the recipe.
OWN = """

from dataclasses import replace

import torch

from sims.environments import EnumerableEnvironment


class Own(EnumerableEnvironment):
    {method}


Own.__name__ = "{name}"


@dataclass(frozen=True)
class {name}(TwoArms, kind="two_arms_{kind}"):
    '''Two actions, labelled by an environment of its own.'''

    def environment(self, tables, dtype, noise, labeller=Own):
        return labeller(self.space, torch.from_numpy(tables["rewards"]).to(dtype), self.labeller)
"""


def own(kind: str, method: str) -> str:
    name = "".join(part.title() for part in kind.split("_"))
    return OWN.format(kind=kind, name=name, method=method)


REWARD = "def reward(self, prompts, responses): return "
LABEL = "def label(self, *asked, **more):\n        said = super().label(*asked, **more)\n        return "
BROKEN_ENVIRONMENTS = {
    "late": own("late", f"{REWARD}super().reward(prompts, responses).mean(-1)"),
    "sick": own("sick", f"{REWARD}torch.where(responses[..., 0] == 1, torch.nan, super().reward(prompts, responses))"),
    "wide": own("wide", f"{REWARD}super().reward(prompts, responses).double()"),
    "turned": own("turned", f"{LABEL}said if said.pairs is None else replace(said, pair_label=1.0 - said.pair_label)"),
    "global_noise": own("global_noise", f"{REWARD}super().reward(prompts, responses) + torch.rand(1)"),
    "mixed_runs": own("mixed_runs", f"{REWARD}(lambda r: r - r.mean())(super().reward(prompts, responses))"),
    "unlisted": own("unlisted", f"{REWARD}2.0 * super().reward(prompts, responses)"),
}  # fmt: skip
CHANGED_ENVIRONMENTS = {
    "shape": (("np.tile([0.0, self.gap], (self.num_prompts, 1))", "np.array([0.0, self.gap])"),),
    "nan": (("np.tile([0.0, self.gap], (self.num_prompts, 1))", "np.full((self.num_prompts, 2), np.nan)"),),
    "unnormalised": (("np.log(0.5)", "0.5"),),
    "constant": (("[0.0, self.gap]", "[self.gap, self.gap]"),),
    "stack": (('("gap",)', '("gap", "num_prompts")'),),
    "helpless": (
        ('setting(0.5, "reward of the second action minus that of the first", above=0)', "setting(0.5, above=0)"),
    ),
}


def changed_environment(name: str, changes: tuple[tuple[str, str], ...]) -> str:
    """The recipe with something changed, as a class named after the change."""
    return variant(ENVIRONMENT, "two_arms", name, *changes).replace("class TwoArms", f"class {name.title()}")


REFUSED_ENVIRONMENTS = {
    "late": r"Late.reward: shape = \(2, 4\): must be \(2, 4, 2\), one number per response",
    "sick": r"Sick.label: rewards\[\d, \d, \d\] = nan: must be finite: one such reward would end its run",
    "shape": r"Shape.rewards: shape = \(2,\): must be \(1, 2\), one number per prompt and response",
    "nan": r"Nan.rewards\[0, 0\] = nan: must be finite",
    "unnormalised": r"Unnormalised.reference_logp\[0, 0\] = 3.29\d*: their exp must sum to 1 over the tokens",
}


def all_environments() -> str:
    changed = [changed_environment(name, changes) for name, changes in CHANGED_ENVIRONMENTS.items()]
    return "\n\n".join([ENVIRONMENT, *BROKEN_ENVIRONMENTS.values(), *changed])


def test_the_environment_of_the_recipe_runs_and_a_broken_one_is_refused_in_a_line(tmp_path: Path) -> None:
    lines = [f"--algorithm dpo --environment two-arms-{name}" for name in REFUSED_ENVIRONMENTS]
    lines = ["--algorithm dpo --environment two-arms --gap 0.3", "--environments", *lines]
    good, table, *refused = commands(all_environments(), lines, tmp_path)
    assert good[0] == 0, good
    assert "| two_arms | Two actions, of which the second has `gap` more reward" in table[1]
    for (status, _, line), message in zip(refused, REFUSED_ENVIRONMENTS.values(), strict=True):
        assert status == 2 and re.fullmatch(f"error: {message}", line), line


def test_a_broken_environment_fails_a_test_and_the_recipe_none(tmp_path: Path) -> None:
    found = failing_tests("tests/environments/test_every_environment.py", "two_arms", all_environments(), tmp_path)
    assert set(found) == {*BROKEN_ENVIRONMENTS, *CHANGED_ENVIRONMENTS}, found
    assert "test_noiseless_labels_follow_the_rewards" in found["turned"]
    assert "test_a_run_alone_is_the_run_among_many" in found["mixed_runs"]
    assert "test_global_generators_are_untouched_and_one_seed_gives_one_result" in found["global_noise"]
    assert "test_listed_rewards_are_those_it_gives" in found["unlisted"]
    assert found["wide"] == {"test_rewards_are_one_finite_number_per_response"}
    assert found["helpless"] == {"test_says_what_it_is"}


# --- policies

LOGITS = "return self._parameters[0].expand(-1, self.prompts, -1, -1)"
VALUES = "return self._parameters[1].expand(-1, self.prompts, -1)"
NEGATED = """

    def forward(self, *asked, **more):
        said = super().forward(*asked, **more)
        return type(said)(-said.logp, said.values, said.entropy)"""
ITSELF = """

    def clone(self):
        return self"""
BROKEN_POLICIES = {
    "shape": (LOGITS, LOGITS + "[:, :, 0]"),
    "values": (VALUES, "return self._parameters[1]"),
    "nan": (LOGITS, LOGITS + " * float('nan')"),
    "sign": (VALUES, VALUES + NEGATED),
    "mixed_runs": (LOGITS, LOGITS + " + self._parameters[0].mean(0)"),
    "unused": ("[logits, *values]", "[logits, *values, torch.zeros_like(logits)]"),
    "detached": (LOGITS, LOGITS + ".detach()"),
    "aliased": (VALUES, VALUES + ITSELF),
    "global_noise": ("values = [", "logits += 0.01 * torch.rand(logits.shape)\n        values = ["),
    "no_critic": ("if critic else []", "if False else []"),
}
# One environment is enough to see what is broken.
ONLY = ("isinstance(environment, EnumerableSpec)", 'environment.kind == "token_tree"')


REFUSED_POLICIES = {
    "shape": r"ShapePolicy.logits: shape = \(2, 3, 3\): must be \(2, 3, 13, 3\), \(R, X, nodes, V\)",
    "values": r"ValuesPolicy.value_table: shape = \(2, 1, 13\): must be \(2, 3, 13\), \(R, X, nodes\)",
}


def all_policies() -> str:
    broken = []
    for name, change in BROKEN_POLICIES.items():
        code = variant(POLICY, "shared", name, change, ONLY)
        broken.append(code.replace("SharedPolicy", f"{name.title()}Policy"))
    return "\n\n".join([POLICY, *broken])


def test_the_policy_of_the_recipe_runs_and_a_broken_one_is_refused_in_a_line(tmp_path: Path) -> None:
    on = "--algorithm ppo --environment token-tree --num-prompts 3 --policy"
    lines = [f"{on} shared", "--policies", *(f"{on} shared-{name}" for name in REFUSED_POLICIES)]
    good, table, *refused = commands(all_policies(), lines, tmp_path)
    assert good[0] == 0, good
    assert "| shared | One table for all prompts, initialised at the data policy of the first | – |" in table[1]
    for (status, _, line), message in zip(refused, REFUSED_POLICIES.values(), strict=True):
        assert status == 2 and re.fullmatch(f"error: {message}", line), line


def test_a_broken_policy_fails_a_test_and_the_recipe_none(tmp_path: Path) -> None:
    found = failing_tests("tests/policies/test_every_policy.py", "shared", all_policies(), tmp_path)
    assert set(found) == set(BROKEN_POLICIES), found
    assert "test_forward_says_what_sample_said" in found["sign"]
    assert "test_a_run_alone_is_the_run_among_many" in found["mixed_runs"]
    assert found["unused"] >= {"test_the_gradient_reaches_every_parameter_of_its_own_run_alone"}
    assert "test_a_clone_is_its_own" in found["aliased"]
