"""The contrastive losses and the reward model's, against TRL 1.16's own methods on random ragged batches.

TRL's trainers are made without their constructors and given stub models that look logits up: no weights, no network.
Both sides read the same logits, so that losses and gradients can be compared, relative 1e-6. Where TRL differs, on
purpose or by mistake, the test says so and pins the difference.
"""

import warnings
from collections import defaultdict
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from trl.trainer import dpo_trainer, kto_trainer
from trl.trainer.reward_trainer import RewardTrainer

from sims.core.algorithms import Algorithm
from sims.core.algorithms.contrastive import DPO, IPO, KTO, ConservativeDPO, DPOWithNLL, RobustDPO, SLiC
from sims.core.algorithms.reference_free import CPO, ORPO, SimPO
from sims.core.algorithms.reward_model import RewardModelLoss
from sims.core.loop.collect import mismatch
from sims.core.losses.contrastive import log1mexp
from sims.core.objectives.batch import Batch, Outputs

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # TRL's note that its experimental trainers may change
    from trl.experimental.cpo.cpo_trainer import CPOTrainer
    from trl.experimental.orpo.orpo_trainer import ORPOTrainer
    from trl.experimental.orpo.orpo_trainer import log1mexp as trl_log1mexp

PAIRS, VOCABULARY, WIDTH = 5, 7, 10
SEEDS = [0, 1, 2]


class Text:
    """Random prompts of 1 to 3 tokens with completions of 1 to 6, padded on the right; rows are N texts.

    ids, attention, completion: (N, WIDTH); logits, ref_logits: (N, WIDTH, VOCABULARY), float64 leaves.
    """

    def __init__(self, rows: int, seed: int, shared_prompts: bool = False) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.ids = torch.randint(0, VOCABULARY, (rows, WIDTH), generator=generator)
        prompt = torch.randint(1, 4, (rows, 1), generator=generator)
        if shared_prompts:
            prompt = prompt[: rows // 2].repeat(2, 1)
        length = torch.randint(1, 7, (rows, 1), generator=generator)
        position = torch.arange(WIDTH)
        self.attention = (position < prompt + length).long()
        self.completion = ((position >= prompt) & (position < prompt + length)).long()
        shape = (rows, WIDTH, VOCABULARY)
        self.logits = torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
        self.ref_logits = torch.randn(shape, generator=generator, dtype=torch.float64)

    @property
    def mask(self) -> Tensor:
        """(N, WIDTH − 1) bool: which predicted tokens belong to a completion."""
        return self.completion[:, 1:].bool()

    def logp(self, logits: Tensor) -> Tensor:
        """(N, WIDTH − 1): log-prob of each next token."""
        return logits[:, :-1].log_softmax(-1).gather(-1, self.ids[:, 1:, None]).squeeze(-1)

    def shared(self, x: Tensor) -> Tensor:
        """Rows that are all chosen, then all rejected, as (B, K = 2, ...)."""
        return x.unflatten(0, (2, -1)).transpose(0, 1)


def our_loss(algorithm: Algorithm, text: Text, label: float = 1.0) -> Tensor:
    """Our loss of the pairs in `text`, chosen first; NaN stands in every slot that is masked."""
    mask = text.shared(text.mask)
    batch = Batch(
        prompts=torch.zeros(PAIRS, dtype=torch.int64),
        responses=text.shared(text.ids[:, 1:]),
        mask=mask,
        logp_ref=text.shared(text.logp(text.ref_logits)).masked_fill(~mask, torch.nan),
        pairs=torch.tensor([0, 1]).expand(PAIRS, 1, 2),
        pair_label=torch.full((PAIRS, 1), label, dtype=torch.float64),
    )
    outputs = Outputs(logp=torch.where(mask, text.shared(text.logp(text.logits)), torch.nan))
    return algorithm.loss(outputs, batch, algorithm.at_update(batch, {}, None)).sum()


def assert_same(ours: Tensor, theirs: Tensor, *leaves: Tensor, tolerance: float = 1e-6) -> None:
    """Equal losses, and equal gradients by every leaf, relative to the largest entry."""
    assert ours.item() == pytest.approx(theirs.item(), rel=tolerance)
    for a, b in zip(torch.autograd.grad(ours, leaves), torch.autograd.grad(theirs, leaves), strict=True):
        assert b.abs().max() > 0
        assert (a - b).abs().max() <= tolerance * b.abs().max()


def bare(trainer: type, **attributes: Any) -> Any:
    """A trainer that never ran its constructor, on one process."""
    made = object.__new__(trainer)
    accelerator = SimpleNamespace(device=torch.device("cpu"), gather=lambda x: x, gather_for_metrics=lambda x: x)
    made.__dict__.update(
        accelerator=accelerator,
        model=torch.nn.Identity(),
        aux_loss_enabled=False,
        precompute_ref_logps=False,
        is_encoder_decoder=False,
        _metrics={"train": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
        **attributes,
    )
    return made


def fused_outputs(text: Text, logits: Tensor) -> SimpleNamespace:
    """What TRL's fused head returns: log-probs of the labelled tokens, 0 elsewhere, and numbers to log."""
    logp = torch.where(text.mask, text.logp(logits), 0.0)
    zeros = torch.zeros_like(logp)
    return SimpleNamespace(log_probs=logp, entropy=zeros, mean_logits=zeros, is_top1=zeros.bool())


def lookup(texts: list[Text], reference: bool) -> Any:
    """A stub model: knows a text by its ids, and checks that the labels are its completion."""

    def model(input_ids: Tensor, labels: Tensor, **_: Any) -> SimpleNamespace:
        (text,) = [t for t in texts if t.ids is input_ids]
        assert torch.equal(labels != -100, text.completion.bool())
        return fused_outputs(text, text.ref_logits if reference else text.logits)

    return model


@pytest.fixture(autouse=True)
def no_checkpointing(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (dpo_trainer, kto_trainer):
        monkeypatch.setattr(module, "disable_gradient_checkpointing", lambda *_: nullcontext())


def trl_dpo(
    text: Text, loss_types: list[str], beta: float = 0.3, smoothing: float = 0.0, weights: Any = None
) -> Tensor:
    trainer = bare(
        dpo_trainer.DPOTrainer,
        beta=beta,
        label_smoothing=smoothing,
        loss_types=loss_types,
        loss_weights=weights or [1.0] * len(loss_types),
        ld_alpha=None,
        f_divergence_type="reverse_kl",
        use_weighting=False,
        ref_model=lookup([text], reference=True),
        args=SimpleNamespace(gradient_checkpointing_kwargs=None),
    )
    inputs = {"input_ids": text.ids, "attention_mask": text.attention, "completion_mask": text.completion}
    return trainer._compute_loss(lookup([text], reference=False), inputs, return_outputs=False)


# --- the DPO family


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("algorithm", "loss_type", "smoothing"),
    [
        (DPO(beta=0.3), "sigmoid", 0.0),
        (DPO(beta=0.3, length_normalised=True), "sigmoid_norm", 0.0),
        (SLiC(beta=0.3), "hinge", 0.0),
        (RobustDPO(beta=0.3, label_smoothing=0.2), "robust", 0.2),
        (IPO(beta=0.3, length_normalised=True), "ipo", 0.0),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_dpo_family(algorithm: Algorithm, loss_type: str, smoothing: float, seed: int) -> None:
    text = Text(2 * PAIRS, seed, shared_prompts=True)
    assert_same(our_loss(algorithm, text), trl_dpo(text, [loss_type], smoothing=smoothing), text.logits)


def test_trl_averages_ipo_over_tokens_and_the_paper_sums() -> None:
    text = Text(2 * PAIRS, 0, shared_prompts=True)
    summed, averaged = our_loss(IPO(beta=0.3), text), our_loss(IPO(beta=0.3, length_normalised=True), text)
    assert trl_dpo(text, ["ipo"]).item() == pytest.approx(averaged.item(), rel=1e-6)
    assert abs(summed.item() - averaged.item()) > 0.1 * averaged.item()


def test_trl_label_smoothing_no_longer_reaches_the_sigmoid_loss() -> None:
    """What users of TRL's `label_smoothing` with `loss_type="sigmoid"` get is plain DPO, not cDPO."""
    text = Text(2 * PAIRS, 1, shared_prompts=True)
    theirs = trl_dpo(text, ["sigmoid"], smoothing=0.2)
    assert torch.equal(theirs, trl_dpo(text, ["sigmoid"], smoothing=0.0))
    assert_same(our_loss(DPO(beta=0.3), text), theirs, text.logits)
    conservative = our_loss(ConservativeDPO(beta=0.3, label_smoothing=0.2), text)
    assert abs(conservative.item() - theirs.item()) > 1e-2


@pytest.mark.parametrize("seed", SEEDS)
def test_cdpo_lives_on_in_trl_where_its_labels_are_smoothed(seed: int) -> None:
    """CPO without reference still smooths. With our ρ in place of ℓ that is cDPO: compare on a reference that is
    uniform over completions of one length, where h of both is the same."""
    text = Text(2 * PAIRS, seed, shared_prompts=True)
    text.ref_logits = torch.zeros_like(text.ref_logits)
    text.completion = text.completion[:1].expand(2 * PAIRS, WIDTH)
    theirs = trl_cpo(text, "sigmoid", alpha=0.0, smoothing=0.2)
    assert_same(our_loss(ConservativeDPO(beta=0.3, label_smoothing=0.2), text), theirs, text.logits)


@pytest.mark.parametrize("seed", SEEDS)
def test_dpo_with_nll(seed: int) -> None:
    text = Text(2 * PAIRS, seed, shared_prompts=True)
    theirs = trl_dpo(text, ["sigmoid", "sft"], weights=[1.0, 0.7])
    assert_same(our_loss(DPOWithNLL(beta=0.3, alpha=0.7, nll_reduction="token_mean"), text), theirs, text.logits)
    per_sequence = our_loss(DPOWithNLL(beta=0.3, alpha=0.7), text)  # RPO's paper: a mean a response, then over pairs
    assert abs(per_sequence.item() - theirs.item()) > 1e-3


# --- without a reference


class LogitModel:
    """A stub that returns a causal model's logits; ids are not looked at."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits

    def __call__(self, *_: Any, **__: Any) -> SimpleNamespace:
        return SimpleNamespace(logits=self.logits)


def chosen_and_rejected(text: Text) -> dict[str, Tensor]:
    labels = text.ids.masked_fill(text.completion == 0, -100)
    fields = {"input_ids": text.ids, "attention_mask": text.attention, "labels": labels}
    sides = {"chosen": slice(0, PAIRS), "rejected": slice(PAIRS, None)}
    return {f"{side}_{name}": x[rows] for name, x in fields.items() for side, rows in sides.items()}


def trl_cpo(text: Text, loss_type: str, alpha: float, smoothing: float = 0.0) -> Tensor:
    trainer = bare(
        CPOTrainer,
        beta=0.3,
        alpha=0.0,
        cpo_alpha=alpha,
        simpo_gamma=0.4,
        loss_type=loss_type,
        label_smoothing=smoothing,
        pad_token_id=0,
    )
    loss, _ = trainer.get_batch_loss_metrics(LogitModel(text.logits), chosen_and_rejected(text))
    return loss


@pytest.mark.parametrize("seed", SEEDS)
def test_cpo(seed: int) -> None:
    text = Text(2 * PAIRS, seed, shared_prompts=True)
    ours = CPO(beta=0.3, alpha=0.7, nll_reduction="token_mean")
    assert_same(our_loss(ours, text), trl_cpo(text, "sigmoid", alpha=0.7), text.logits)
    assert_same(our_loss(CPO(beta=0.3, alpha=0.0), text), trl_cpo(text, "sigmoid", alpha=0.0), text.logits)


@pytest.mark.parametrize("seed", SEEDS)
def test_simpo(seed: int) -> None:
    text = Text(2 * PAIRS, seed, shared_prompts=True)
    theirs = trl_cpo(text, "simpo", alpha=0.0)
    assert_same(our_loss(SimPO(beta=0.3, gamma=0.4), text), theirs, text.logits)
    with_likelihood = trl_cpo(text, "simpo", alpha=1.0)  # TRL's default: SimPO plus CPO's likelihood term
    assert with_likelihood.item() > theirs.item() + 0.1


@pytest.mark.parametrize("seed", SEEDS)
def test_trl_label_smoothing_is_a_soft_label(seed: int) -> None:
    """Smoothing by ε is the probability 1 − ε that the first is preferred."""
    text = Text(2 * PAIRS, seed, shared_prompts=True)
    cpo, simpo = (trl_cpo(text, kind, alpha=0.0, smoothing=0.2) for kind in ("sigmoid", "simpo"))
    assert_same(our_loss(CPO(beta=0.3, alpha=0.0), text, label=0.8), cpo, text.logits)
    # Not so in SimPO: TRL mirrors what stands behind −log σ, margin included, σ(γ − βh); a soft label mirrors the pair,
    # σ(−βh − γ), so that whichever side is right has to win by γ.
    assert our_loss(SimPO(beta=0.3, gamma=0.4), text, label=0.8) > simpo + 1e-2


def trl_orpo(text: Text) -> Tensor:
    trainer = bare(ORPOTrainer, beta=0.3, padding_value=0)
    loss, _ = trainer.get_batch_loss_metrics(LogitModel(text.logits), chosen_and_rejected(text))
    return loss


@pytest.mark.parametrize("seed", SEEDS)
def test_orpo(seed: int) -> None:
    """TRL's likelihood includes the prompt; ours, as the paper's, does not. Give both the response's."""
    text = Text(2 * PAIRS, seed, shared_prompts=True)
    theirs = trl_orpo(text)
    chosen = text.logp(text.logits).chunk(2)[0]
    everything, response = text.attention[:PAIRS, 1:].bool(), text.mask[:PAIRS]
    corrected = theirs + chosen[everything].mean() - chosen[response].mean()
    ours = our_loss(ORPO(beta=0.3, nll_reduction="token_mean"), text)
    assert_same(ours, corrected, text.logits)  # TRL computes odds in float32
    assert abs(ours.item() - theirs.item()) > 1e-3


def test_trl_orpo_has_no_gradient_where_a_probability_is_almost_one() -> None:
    """Both branches of TRL's `where` are differentiated, and the one that is not taken gives 0·∞ = NaN."""
    x = torch.tensor([-1e-9], requires_grad=True)
    (theirs,) = torch.autograd.grad(trl_log1mexp(x).sum(), x)
    (ours,) = torch.autograd.grad(log1mexp(x).sum(), x)
    assert torch.isnan(theirs).all()
    assert ours.item() == pytest.approx(-1e9, rel=1e-6)  # d/dx log(1 − e^x) ≈ 1/x


# --- KTO


def trl_kto(text: Text, probes: Text, good: Tensor, weights: tuple[float, float]) -> Tensor:
    texts = [text, probes]
    trainer = bare(
        kto_trainer.KTOTrainer,
        beta=0.3,
        loss_type="kto",
        calculate_KL=True,
        desirable_weight=weights[0],
        undesirable_weight=weights[1],
        ref_model=lookup(texts, reference=True),
        args=SimpleNamespace(gradient_checkpointing_kwargs=None),
    )
    inputs = {"input_ids": text.ids, "attention_mask": text.attention, "completion_mask": text.completion}
    inputs |= {"KL_input_ids": probes.ids, "KL_attention_mask": probes.attention}
    inputs |= {"KL_completion_mask": probes.completion, "label": good}
    return trainer._compute_loss(lookup(texts, reference=False), inputs, return_outputs=False)


@pytest.mark.parametrize("drift", [-1.0, 0.0, 1.0], ids=["anchor clamped at 0", "near 0", "anchor above 0"])
@pytest.mark.parametrize("seed", SEEDS)
def test_kto(seed: int, drift: float) -> None:
    text, probes = Text(PAIRS, seed), Text(PAIRS, 100 + seed)
    # Makes the probes' own tokens likelier than under the reference, or less likely.
    probes.logits = probes.ref_logits.clone()
    probes.logits[:, :-1].scatter_add_(-1, probes.ids[:, 1:, None], torch.full((PAIRS, WIDTH - 1, 1), drift).double())
    good = torch.tensor([True, False, True, True, False])
    theirs = trl_kto(text, probes, good, (1.0, 1.5))

    def batch_of(part: Text) -> Batch:
        mask = part.mask[:, None]
        logp_ref = part.logp(part.ref_logits)[:, None].masked_fill(~mask, torch.nan)
        prompts = torch.arange(PAIRS)
        return Batch(prompts=prompts, responses=part.ids[:, None, 1:], mask=mask, logp_ref=logp_ref)

    rewards = torch.zeros(PAIRS, 1, dtype=torch.float64)
    batch = batch_of(text).replace(probes=batch_of(probes), rewards=rewards, desirable=good[:, None].double())
    algorithm = KTO(beta=0.3, desirable_weight=1.0, undesirable_weight=1.5)
    targets = algorithm.at_update(batch, {}, probes.logp(probes.logits)[:, None].detach())
    assert (targets["anchor"][0, 0] > 0) == (drift > 0)
    ours = algorithm.loss(Outputs(logp=text.logp(text.logits)[:, None]), batch, targets).sum()
    assert_same(ours, theirs, text.logits)


def test_trl_kto_rotates_the_other_way() -> None:
    """TRL pairs x_i with y_{i−1}, the paper and we with y_{i+1}: both derangements of the same set."""
    order = [0, 1, 2, 3]
    responses = torch.tensor(order).reshape(4, 1, 1)
    batch = Batch(prompts=torch.tensor(order), responses=responses, mask=torch.ones(4, 1, 1, dtype=torch.bool))
    ours = mismatch(batch).responses.flatten().tolist()
    theirs = [order[-1], *order[:-1]]  # `add_kl_completion_ids` in KTOTrainer._prepare_dataset
    assert ours == [1, 2, 3, 0]
    assert theirs == [3, 0, 1, 2]


# --- the reward model


@pytest.mark.parametrize("coefficient", [None, 0.01, 0.5])
@pytest.mark.parametrize("with_margin", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
def test_reward_model(seed: int, with_margin: bool, coefficient: float | None) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(2 * PAIRS, 1, generator=generator, dtype=torch.float64).requires_grad_()
    margin = torch.rand(PAIRS, generator=generator, dtype=torch.float64) if with_margin else None
    trainer = bare(RewardTrainer, args=SimpleNamespace(center_rewards_coefficient=coefficient))
    inputs = {"attention_mask": torch.ones(2 * PAIRS, 3)} | ({"margin": margin} if with_margin else {})
    theirs = trainer.compute_loss(LogitModel(scores), inputs)
    chosen, rejected = scores.squeeze(-1).chunk(2)
    config = RewardModelLoss(center_rewards_coefficient=coefficient or 0.0)
    label = torch.ones(PAIRS, dtype=torch.float64)
    ours = config.pair_losses(chosen, rejected, label, 0.0 if margin is None else margin).mean()
    assert_same(ours, theirs, scores)
