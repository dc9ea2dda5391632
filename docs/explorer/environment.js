// The environment: a line of 100 actions, a bump of reward on it, a reference policy, and who labels pairs.
// The same numbers as sims/environments/bandit.py and sims/exact/quantities.py. Classic scripts, not modules: a page
// opened from disk may not load modules. Distributions are Float64Array of length ACTIONS; everything is in nats.
"use strict";

globalThis.onoff = globalThis.onoff || {};

(function (onoff) {
  const ACTIONS = 100;
  const WIDTH = 10; // of the reward's bump, in actions
  const SPREAD = 8; // standard deviation of the Gaussian reference, in actions
  const PEAKS = { bandit_overlap: 70, bandit_r1: 70, bandit_r2: 20 };
  const UNSEEN_DRAWS = 100;

  function vector(value) {
    return Float64Array.from({ length: ACTIONS }, (_, a) => value(a));
  }

  function sum(x) {
    let total = 0;
    for (const each of x) total += each;
    return total;
  }

  // exp(-((a - peak) / width)²), in [0, 1].
  function bump(peak) {
    return vector((a) => Math.exp(-(((a - peak) / WIDTH) ** 2)));
  }

  // The histogram on [-1, 1] of tanh(Cauchy(-0.7, 0.4)), exactly: the data policy of Tajwar et al. 2024.
  function cauchyReference() {
    const below = (edge) => 0.5 + Math.atan((Math.atanh(edge) + 0.7) / 0.4) / Math.PI;
    const cumulative = (k) => (k === 0 ? 0 : k === ACTIONS ? 1 : below(-1 + (2 * k) / ACTIONS));
    return vector((a) => cumulative(a + 1) - cumulative(a));
  }

  function gaussian(centre) {
    const logMass = vector((a) => -0.5 * ((a - centre) / SPREAD) ** 2);
    const top = Math.max(...logMass);
    const mass = logMass.map((x) => Math.exp(x - top));
    const total = sum(mass);
    return mass.map((x) => x / total);
  }

  function massNear(distribution, peak) {
    let mass = 0;
    for (let a = 0; a < ACTIONS; a++) if (Math.abs(a - peak) <= WIDTH) mass += distribution[a];
    return mass;
  }

  // A Gaussian moved to the left of the peak until its mass within ±WIDTH of it is `overlap`: its centre, by bisection.
  function shiftedReference(peak, overlap) {
    let low = -2 * ACTIONS, high = peak;
    for (let k = 0; k < 80; k++) {
      const middle = 0.5 * (low + high);
      if (massNear(gaussian(middle), peak) < overlap) low = middle;
      else high = middle;
    }
    return gaussian(0.5 * (low + high));
  }

  function sigmoid(x) {
    return x >= 0 ? 1 / (1 + Math.exp(-x)) : Math.exp(x) / (1 + Math.exp(x));
  }

  // Probability that action i is preferred to action j, row i, column j: Bradley and Terry's, at temperature 0 the
  // better one with ties by halves; then flipped with probability `flip`.
  function labels(reward, temperature, flip) {
    const label = new Float64Array(ACTIONS * ACTIONS);
    for (let i = 0; i < ACTIONS; i++) {
      for (let j = 0; j < ACTIONS; j++) {
        const gap = reward[i] - reward[j];
        const won = temperature === 0 ? (Math.sign(gap) + 1) / 2 : sigmoid(gap / temperature);
        label[i * ACTIONS + j] = (1 - flip) * won + flip * (1 - won);
      }
    }
    return label;
  }

  // log π and π of logits, into arrays that are there already.
  function logSoftmax(logits, logp, p) {
    let top = -Infinity;
    for (let a = 0; a < ACTIONS; a++) top = Math.max(top, logits[a]);
    let total = 0;
    for (let a = 0; a < ACTIONS; a++) total += p[a] = Math.exp(logits[a] - top);
    const normaliser = top + Math.log(total);
    for (let a = 0; a < ACTIONS; a++) {
      logp[a] = logits[a] - normaliser;
      p[a] /= total;
    }
    return logp;
  }

  // log π*, π* = π_ref·exp(r/β)/Z: the maximum of E[r] - β·KL(π‖π_ref).
  function optimum(logReference, reward, beta) {
    const logits = vector((a) => logReference[a] + reward[a] / beta);
    return logSoftmax(logits, new Float64Array(ACTIONS), new Float64Array(ACTIONS));
  }

  // E_π[r], KL(π‖π_ref) and the entropy of π.
  function measures(logp, p, environment) {
    let score = 0, kl = 0, entropy = 0;
    for (let a = 0; a < ACTIONS; a++) {
      score += p[a] * environment.reward[a];
      kl += p[a] * (logp[a] - environment.logReference[a]);
      entropy -= p[a] * logp[a];
    }
    return { score, kl, entropy };
  }

  // The latest answer of a function to the same arguments: most sliders leave reference and labels as they are.
  function remembering(compute) {
    let key = null, answer;
    return (...given) => {
      if (String(given) !== key) [key, answer] = [String(given), compute(...given)];
      return answer;
    };
  }

  const referenceOf = remembering((environment, overlap) =>
    environment === "bandit_overlap" ? shiftedReference(PEAKS[environment], overlap) : cauchyReference(),
  );
  const labelsOf = remembering((peak, temperature, flip) => labels(bump(peak), temperature, flip));

  // All that the dynamics need to know of the settings' environment.
  function build(settings) {
    const peak = PEAKS[settings.environment];
    const reward = bump(peak);
    const reference = referenceOf(settings.environment, settings.overlap);
    const logReference = reference.map(Math.log);
    const label = labelsOf(peak, settings.temperature, settings.flip);
    const environment = { peak, reward, reference, logReference, label, overlap: massNear(reference, peak) };
    environment.byReward = Array.from(reward.keys()).sort((a, b) => reward[a] - reward[b]);
    environment.unseen = reference.map((p) => (1 - p) ** UNSEEN_DRAWS); // P(no draw of so many shows the action)
    environment.logOptimum = optimum(logReference, reward, settings.beta);
    environment.atOptimum = measures(environment.logOptimum, environment.logOptimum.map(Math.exp), environment);
    environment.atReference = measures(logReference, reference, environment);
    return environment;
  }

  Object.assign(onoff, { ACTIONS, WIDTH, UNSEEN_DRAWS, build, labels, logSoftmax, measures, optimum, sigmoid, vector });
})(globalThis.onoff);
