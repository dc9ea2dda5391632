// Settings to start from: the lessons of the notebooks, and claims of which an exact table can show something.
// run: settings, defaults for the rest; compare: what differs in the run that is drawn beside it. answer: what to see, its
// numbers read off the two runs. holds: what the answer says, as a condition on the runs; a test asks it of every lesson.
"use strict";

(function (onoff) {
  const end = (values) => values.at(-1);
  const f = onoff.format;
  const halfway = (run) => run.score.findIndex((score) => score > 0.5 * run.environment.atOptimum.score);
  const likeliest = (run, update) => onoff.policyAt(run, update).reduce((best, x, a, logp) => (x > logp[best] ? a : best), 0);
  const largestGap = (a, b) => Math.max(...a.map((x, k) => Math.abs(x - b[k])));

  // By the number that a group begins with.
  onoff.NOTEBOOKS = {
    1: "01_one_prompt", 2: "02_following_the_gradient", 3: "03_from_reward_to_preference", 4: "04_a_family_portrait",
    5: "05_on_and_off_policy", 6: "06_proxy_reward", 7: "07_a_transformer", 8: "08_five_bugs", 9: "09_why",
    10: "10_monday_to_monday",
  };

  onoff.LESSONS = [
    {
      id: "optimum", group: "1 · One prompt, a hundred answers", title: "The optimum is the reference, tilted",
      run: { overlap: 0.3, updates: 500 },
      question: "If every nat of distance from the reference costs β, which policy is best? Drag β: where does the dashed " +
        "optimum go, and does the policy get there?",
      answer: (a) => `The optimum multiplies the reference by exp(r/β) and normalises. With a small β it lies on the reward's ` +
        `peak, with a large one on the reference. The policy gradient ends on it: score ${f(end(a.score))}, the optimum's ` +
        `${f(a.environment.atOptimum.score)}.`,
      limits: "Exact expectations and a table: nothing here says how many samples this takes.",
      holds: (a) => Math.abs(end(a.score) - a.environment.atOptimum.score) < 0.01,
    },
    {
      id: "price", group: "1 · One prompt, a hundred answers", title: "Too high a β learns nothing (C51)",
      run: { environment: "bandit_r2", beta: 1 }, compare: { beta: 0.1 },
      question: "β = 1 against β = 0.1, all else equal. Which scores more? And does an ever smaller β do harm?",
      answer: (a, b) => `With β = 1 the run stops at ${f(end(a.score))}, with 0.1 at ${f(end(b.score))}: each has reached its ` +
        `own optimum. Drag β down: here nothing collapses.`,
      limits: "The half of the claim that says “too low collapses” needs noise or a wrong reward, and there is neither here.",
      holds: (a, b) => end(a.score) < 0.6 && end(b.score) > 0.9,
    },
    {
      id: "slow", group: "2 · Following the gradient", title: "What is unlikely learns slowly",
      run: { overlap: 0.01, rate: 30, updates: 300 }, compare: { overlap: 0.3 }, at: 30, scale: "log",
      question: "The same reward and learning rate, but the reference has 1 % of its mass near the reward, and not 30 %. How " +
        "much longer does it take to earn half of what the optimum earns?",
      answer: (a, b) => `${halfway(a)} updates, and not ${halfway(b)}: the step of a logit is π(a)·(R(a) − E[R]), and π(a) ` +
        `is small where the reward is. Watch the bars below start small, and grow.`,
      limits: "Plain gradient descent. Adam rescales small gradients, and the noise of few samples counts besides.",
      holds: (a, b) => halfway(a) > 10 * halfway(b),
    },
    {
      id: "baseline", group: "2 · Following the gradient", title: "A baseline changes nothing in the mean",
      run: { algorithm: "reinforce", environment: "bandit_r2" }, compare: { algorithm: "rloo" },
      question: "REINFORCE without a baseline against leave-one-out. How do the two runs differ? Then move the sync period " +
        "to ∞.",
      answer: (a, b) => `On-policy not at all: the scores differ by ${f(largestGap(a.score, b.score))} at most, as ` +
        `E[∇log π] = 0. On stale samples that expectation is another, and the runs part.`,
      limits: "What a baseline is for, less variance, cannot be seen where nothing is sampled.",
      holds: (a, b) => largestGap(a.score, b.score) < 1e-9,
    },
    {
      id: "derived", group: "3 · From reward to preference", title: "DPO finds the optimum, from Bradley–Terry labels",
      run: { algorithm: "dpo", environment: "bandit_r2", beta: 0.3, temperature: 1, sync: Infinity, rate: 100 },
      question: "Offline pairs of the reference, labelled with P(i ≻ j) = σ(rᵢ − rⱼ). DPO never sees a reward: where does it end?",
      answer: (a) => `On the very optimum of reward minus β·KL: score ${f(end(a.score))}, the optimum's ` +
        `${f(a.environment.atOptimum.score)}. Now change the label temperature T: DPO goes to the optimum of β·T.`,
      limits: "Every pair counts here, however rare. With a finite set of pairs most actions are in none.",
      holds: (a) => Math.abs(end(a.score) - a.environment.atOptimum.score) < 0.01,
    },
    {
      id: "noiseless", group: "3 · From reward to preference", title: "Labels without noise have no optimum (C22)",
      run: { algorithm: "dpo", environment: "bandit_r2", sync: Infinity, rate: 100 },
      question: "The better response of a pair always wins. Where does DPO stop? And what happens to the log-probability of " +
        "the chosen?",
      answer: (a) => `Nowhere: each pair wants an infinite margin. KL is ${f(end(a.kl))} and grows; the optimum's is ` +
        `${f(a.environment.atOptimum.kl)}. The chosen first rise, then fall from ${f(a.chosen[0])} to ${f(end(a.chosen))}; the ` +
        `rejected fall faster.`,
      limits: "Most actions of this table are chosen in some pairs and rejected in others; C22 is tested on recorded pairs.",
      holds: (a) => end(a.kl) > 1.5 * a.environment.atOptimum.kl && end(a.chosen) < a.chosen[0] - 1 &&
        Math.max(...a.chosen) > a.chosen[0] && end(a.rejected) < end(a.chosen),
    },
    {
      id: "unseen", group: "3 · From reward to preference", title: "Responses that no data show (C03)",
      run: { algorithm: "dpo", overlap: 0.05, sync: Infinity, rate: 100, updates: 1000 },
      question: "Offline DPO on the reference's pairs. Does it raise the mass of actions that 100 draws of the reference would " +
        "most likely miss?",
      answer: (a) => `First it falls, from ${f(a.unseen[0])} to ${f(Math.min(...a.unseen))}, then rises to ` +
        `${f(end(a.unseen))}: where a run is stopped decides the sign.`,
      limits: "Here even rare pairs pull, by their probability; in a data set they are absent, and only the normaliser moves them.",
      holds: (a) => Math.min(...a.unseen) < a.unseen[0] - 0.02 && end(a.unseen) > a.unseen[0] + 0.05,
    },
    {
      id: "imitation", group: "4 · A family portrait", title: "Imitation stops, a negative gradient goes on (C27)",
      run: { algorithm: "pref_ft", environment: "bandit_r2", sync: Infinity, rate: 1 }, compare: { algorithm: "dpo", rate: 10 },
      question: "SFT on the preferred response of each of the reference's pairs, against DPO on the same pairs. Who gets further?",
      answer: (a, b) => `SFT copies the distribution of winners, 2μ(a)·P(a ≻ μ), and rests there with a score of ` +
        `${f(end(a.score))}. DPO pushes losers down without end, and has ${f(end(b.score))}.`,
      limits: "Getting further is better only because these labels are right. Flip some, and compare the KL.",
      holds: (a, b) => end(a.score) < 0.65 && end(b.score) > 0.9,
    },
    {
      id: "first-step", group: "4 · A family portrait", title: "On-policy DPO begins as imitation (C71)",
      run: { algorithm: "dpo", environment: "bandit_r2", rate: 10 }, compare: { algorithm: "pref_ft", rate: 1 }, at: 30,
      question: "Fresh pairs for both, and β·η of DPO equals η of SFT on the preferred. How long do they go together?",
      answer: (a, b) => `Their first steps are the same, and their scores never differ by more than ` +
        `${f(largestGap(a.score, b.score))}. In the mean the negative half of DPO adds nothing at the reference.`,
      limits: "In the mean only. On few samples the negative half changes the noise, and that is where C27 is tested.",
      holds: (a, b) => Math.abs(a.score[1] - b.score[1]) < 1e-12 && largestGap(a.score, b.score) < 0.1,
    },
    {
      id: "negative", group: "4 · A family portrait", title: "A negative gradient on stale samples",
      run: { overlap: 0.5, sync: Infinity }, compare: { algorithm: "pref_ft", rate: 1 },
      question: "The sampler stays the reference. What happens to responses whose advantage is negative, under the policy " +
        "gradient and under imitation?",
      answer: (a, b) => `The policy gradient pushes them down at a constant rate, for ever: the rejected are at ` +
        `${f(end(a.rejected))} nats, under imitation at ${f(end(b.rejected))}. No fresh sample tells it to stop, not even ` +
        `its KL, which is measured on the sampler.`,
      limits: "PPO's clipping, and importance weights, are made against this; this policy gradient has neither.",
      holds: (a, b) => end(a.rejected) < 5 * end(b.rejected),
    },
    {
      id: "far", group: "5 · On-policy, off-policy, in between", title: "Reward far: freshness matters (C25)",
      run: { algorithm: "ipo", overlap: 0.05, rate: 1 }, compare: { sync: Infinity },
      question: "5 % of the reference lies near the reward. Fresh pairs, or the reference's pairs for ever: what is the " +
        "difference after 300 updates?",
      answer: (a, b) => `${f(end(a.score))} against ${f(end(b.score))}: fresh pairs move with the policy to where the reward ` +
        `differs. Open the next lesson, or drag the overlap up.`,
      limits: "In the limit of many samples. With few, the pairs near the reward are not only rare but missing.",
      holds: (a, b) => end(a.score) > end(b.score) + 0.2,
    },
    {
      id: "near", group: "5 · On-policy, off-policy, in between", title: "Reward near: offline suffices (C25, C31)",
      run: { algorithm: "ipo", overlap: 0.5, rate: 1 }, compare: { sync: Infinity },
      question: "Half of the reference lies near the reward. Fresh pairs, or the reference's pairs for ever: what is the " +
        "difference now?",
      answer: (a, b) => `${f(end(a.score))} against ${f(end(b.score))}: none that matters at the end. On the way, fresh pairs ` +
        `are ahead.`,
      limits: "One reward, one learning rate. The phase map in the README has more of both, and samples.",
      holds: (a, b) => Math.abs(end(a.score) - end(b.score)) < 0.05,
    },
    {
      id: "semi", group: "5 · On-policy, off-policy, in between", title: "Semi-online is nearly online (C32)",
      run: { environment: "bandit_r1", sync: 10 }, compare: { sync: 1 },
      question: "The sampler is renewed only every 10 updates. What does that cost?",
      answer: (a, b) => `${f(end(a.score))} against ${f(end(b.score))}: almost nothing, as a policy moves little in 10 updates.`,
      limits: "How many updates are few depends on the learning rate: raise it, and 10 is many.",
      holds: (a, b) => Math.abs(end(a.score) - end(b.score)) < 0.02,
    },
    {
      id: "behind", group: "5 · On-policy, off-policy, in between", title: "Offline falls behind semi-online (C33)",
      run: { algorithm: "ipo", environment: "bandit_r1", rate: 1, sync: 10 }, compare: { sync: Infinity },
      question: "The sampler is renewed every 10 updates, or never. The reward is far: which is ahead, when, and by how much?",
      answer: (a, b) => `${f(end(a.score))} against ${f(end(b.score))}. The first 10 updates are the same; after 50 it is ` +
        `${f(a.score[50])} against ${f(b.score[50])}. Never renewed, the pairs are of responses that the policy has left.`,
      limits: "Semi-online overshoots first: look at its KL. The claim's size, at equal samples, is not tested here.",
      holds: (a, b) => end(a.score) > end(b.score) + 0.2 && largestGap(a.score.slice(0, 11), b.score) < 1e-12 &&
        a.score[50] > b.score[50] + 0.5,
    },
    {
      id: "stale", group: "5 · On-policy, off-policy, in between", title: "Too stale: past the optimum",
      run: { environment: "bandit_r1", sync: 100 }, compare: { sync: 1 },
      question: "The sampler is renewed only every 100 updates. Look at the score, and then at the KL.",
      answer: (a, b) => `The score is higher, ${f(end(a.score))} against ${f(end(b.score))}, and it is no success: the KL is ` +
        `${f(end(a.kl))}, the optimum's ${f(a.environment.atOptimum.kl)}. Between syncs nothing pulls the policy back.`,
      limits: "Score minus β·KL, in the table of numbers, is what was asked for.",
      holds: (a, b) => end(a.score) > end(b.score) && end(a.kl) > a.environment.atOptimum.kl + 1,
    },
    {
      id: "ranks", group: "5 · On-policy, off-policy, in between", title: "On-policy is not enough: who wins is not by how much",
      run: { algorithm: "dpo", environment: "bandit_r1", rate: 20, updates: 300 }, compare: { temperature: 0.1 }, at: 100,
      question: "On-policy DPO with noiseless labels, and with labels of temperature 0.1. Which finds the far reward first?",
      answer: (a, b) => `The noisy ones. After 100 updates the scores are ${f(a.score[100])} and ${f(b.score[100])}; the ` +
        `reference had ${f(a.score[0])}. Noiseless labels say who wins, not by how much: action ${likeliest(a, 100)}, where the ` +
        `reference has a spike, earns next to nothing, but beats the bulk of the reference by a hair, and takes over.`,
      limits: "It escapes later, if the learning rate is kept up. Noise helps here because it carries the size of a difference.",
      holds: (a, b) => a.score[100] < a.score[0] && b.score[100] > a.score[0] && likeliest(a, 100) === 99,
    },
    {
      id: "best-of-n", group: "6 · A reward model is not the reward", title: "Pushing harder: best of n",
      run: { algorithm: "best_of_n", environment: "bandit_r2", sync: Infinity, rate: 1, n: 4 }, compare: { n: 64 },
      question: "Offline, on the reference's samples: n = 4 against n = 64. How far can imitation go, and at what KL?",
      answer: (a, b) => `Scores ${f(end(a.score))} and ${f(end(b.score))}, at a KL of ${f(end(a.kl))} and ${f(end(b.kl))}. It ends ` +
        `on the distribution of the best of n, whatever β is.`,
      limits: "The reward that picks is the true one, so nothing turns: a learned reward, whose errors a large n finds, is in " +
        "the notebook alone. And n samples per update are not free.",
      holds: (a, b) => end(b.score) > end(a.score) + 0.1 && end(b.kl) > end(a.kl),
    },
    {
      id: "reach", group: "7 · The same code, a transformer", title: "As far as the shortest response",
      run: { algorithm: "dpo", overlap: 1e-5 }, compare: { overlap: 0.27 }, scale: "log",
      question: "The notebook asks a language model for responses of 9 tokens, which 27 % of its samples are near, and of none, " +
        "which one in 100,000 is near. A table with the same overlaps, and online DPO: how far does each get?",
      answer: (a, b) => `Where 27 % are near, to ${f(end(b.score))}; where one in 100,000 is, to ${f(end(a.score))}: that one is in ` +
        `next to no pair, and the table stays. The language model came to 0.8: see there why one overlap is not one difficulty.`,
      limits: "There is no language model in this page. A length falls evenly, and a bump is flat where the reference is.",
      holds: (a, b) => end(a.score) < 0.01 && end(b.score) > 0.9,
    },
    {
      id: "sampler", group: "8 · Five bugs", title: "A sampler that is not the policy",
      run: { algorithm: "reinforce", environment: "bandit_r2", sync: Infinity }, compare: { sync: 1 },
      question: "The sampler is never given the new weights; beside it, always. Would you see the bug in the curve, if it were " +
        "all that you had?",
      answer: (a, b) => `Hardly: it rises smoothly, from ${f(a.score[0])} to ${f(end(a.score))}, as one does whose learning rate is ` +
        `low. Only beside the right run, at ${f(end(b.score))}, or beside the exact optimum, is it wrong.`,
      limits: "One bug of five, in another form: the notebook's sampler has a temperature. Masks, denominators and padding need " +
        "sequences, which a table has not.",
      holds: (a, b) => end(a.score) > a.score[0] + 0.3 && end(b.score) > end(a.score) + 0.15 &&
        a.score.every((x, k) => k === 0 || x >= a.score[k - 1]),
    },
    {
      id: "falls", group: "9 · Why?", title: "Chosen log-probs fall, and nothing is wrong (C22)",
      run: { algorithm: "dpo", environment: "bandit_r2", beta: 0.3, temperature: 1, sync: Infinity, rate: 100 },
      question: "The score rises, and the mean log-probability of the chosen falls. Is it a bug? Look where the run ends.",
      answer: (a) => `It ends on the exact optimum, score ${f(end(a.score))} of ${f(a.environment.atOptimum.score)}, with the chosen ` +
        `at ${f(end(a.chosen))}, from ${f(a.chosen[0])}. The chosen of the reference's pairs are spread like the reference; the ` +
        `optimum is not.`,
      limits: "In a network a fall can have another cause besides, shared parameters: see the notebook.",
      holds: (a) => Math.abs(end(a.score) - a.environment.atOptimum.score) < 0.01 && end(a.chosen) < a.chosen[0] - 0.3,
    },
    {
      id: "week", group: "10 · Monday to Monday", title: "Pairs of last week's model",
      run: { algorithm: "dpo", overlap: 0.1, temperature: 0.25, sync: 50 }, compare: { sync: 1 },
      question: "In a loop of weeks the labelled pairs are of the model that was live when they were logged: here 50 updates go by " +
        "before it is replaced. What does that cost after six weeks, against fresh pairs for every update?",
      answer: (a, b) => `${f(end(a.score))} against ${f(end(b.score))}: less than one might fear. Set the sync period to ∞, a model ` +
        `that is never replaced, to see what the weekly exchange is worth.`,
      limits: "Users ask the same for ever here, labels are right in the mean, and no gate refuses a week: drift, a wrong answer " +
        "key and the rollback are in the notebook alone.",
      holds: (a, b) => end(b.score) > end(a.score) && end(b.score) - end(a.score) < 0.1,
    },
    {
      id: "flips", group: "Claims besides", title: "Wrong labels bound the margin",
      run: { algorithm: "dpo", environment: "bandit_r2", flip: 0.2, sync: Infinity, rate: 100, updates: 1000 }, compare: { flip: 0 },
      question: "One label in five is flipped, or none. Which run ends further from the reference? Does it score less?",
      answer: (a, b) => `KL ${f(end(a.kl))} against ${f(end(b.kl))}: with labels that are sometimes wrong an infinite margin costs ` +
        `infinitely much, so there is an optimum. The scores hardly differ: ${f(end(a.score))} and ${f(end(b.score))}.`,
      limits: "With every pair and exact expectations, flips average out. From few pairs they are learned by heart.",
      holds: (a, b) => end(a.kl) < end(b.kl) - 0.5 && Math.abs(end(a.score) - end(b.score)) < 0.02,
    },
    {
      id: "absent", group: "Claims besides", title: "Nothing is added that the reference lacks (C64, C49)",
      run: { overlap: 1e-6, beta: 0.05, rate: 100, updates: 1000 }, scale: "log",
      question: "One millionth of the reference lies near the reward, and the optimum at this β is well worth reaching. Will " +
        "1,000 on-policy updates get there?",
      answer: (a) => `Not in sight: the score is ${f(end(a.score))}, the optimum's ${f(a.environment.atOptimum.score)}. An action's ` +
        `logit moves in proportion to its probability; drag the overlap up until it wakes.`,
      limits: "In a table. A network can reach an action through its neighbours.",
      holds: (a) => end(a.score) < 0.01 && a.environment.atOptimum.score > 0.5,
    },
  ];

  // The state of the page, as in settings.js, in which a lesson opens.
  onoff.lessonState = (lesson) => {
    const run = onoff.complete(lesson.run);
    const compare = lesson.compare ? onoff.complete({ ...lesson.run, ...lesson.compare }) : null;
    return { run, compare, at: lesson.at ?? run.updates, scale: lesson.scale ?? "linear", lesson: lesson.id };
  };
})(globalThis.onoff);
