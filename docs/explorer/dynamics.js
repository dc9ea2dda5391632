// What each algorithm does on average, exactly: gradient descent on the logits of a table along the population gradient,
//
//     z ← z - η·g,   g_a = w_a - π_a·Σ_b w_b,   w_a = ∂E[L]/∂log π(a),
//
// where the pair (or the group) is drawn from the sampler μ: the policy as it was at the last sync. The weights w are
// those of sims/exact/population_*.py, in closed form for one prompt; tests/docs/test_explorer.py compares the two.
"use strict";

(function (onoff) {
  const N = onoff.ACTIONS;
  const LIMIT = 1e9; // nats: a log-probability below it means that a run has diverged

  // What a sampler μ fixes until the next sync: the part of w that the policy has no say in.
  const prepare = {
    // -μ(R - E_μ[R]) with R = r - β·log(μ/π_ref): the others' mean has expectation E_μ[R].
    rloo(state, settings, environment) {
      let mean = 0;
      for (let a = 0; a < N; a++) {
        state.fixed[a] = environment.reward[a] - settings.beta * (state.logMu[a] - environment.logReference[a]);
        mean += state.mu[a] * state.fixed[a];
      }
      for (let a = 0; a < N; a++) state.fixed[a] = -state.mu[a] * (state.fixed[a] - mean);
    },
    // The same with nothing subtracted.
    reinforce(state, settings, environment) {
      for (let a = 0; a < N; a++) {
        const gain = environment.reward[a] - settings.beta * (state.logMu[a] - environment.logReference[a]);
        state.fixed[a] = -state.mu[a] * gain;
      }
    },
    // P(a is preferred to a draw of μ).
    dpo: chanceToWin,
    ipo: chanceToWin,
    // -P(a is in the pair and preferred in it).
    pref_ft(state, settings, environment) {
      chanceToWin(state, settings, environment);
      for (let a = 0; a < N; a++) state.fixed[a] *= -2 * state.mu[a];
    },
    // -P(a is the best of n draws of μ), equally good draws sharing the win: by order statistics, from the least reward.
    best_of_n(state, settings, { reward, byReward }) {
      let below = 0;
      for (let first = 0, next; first < N; first = next) {
        let level = 0;
        for (next = first; next < N && reward[byReward[next]] === reward[byReward[first]]; next++) {
          level += state.mu[byReward[next]];
        }
        const win = (below + level) ** settings.n - below ** settings.n;
        for (let k = first; k < next; k++) {
          const a = byReward[k];
          state.fixed[a] = level > 0 ? (-state.mu[a] * win) / level : 0;
        }
        below += level;
      }
    },
  };

  // fixed_a = Σ_b μ_b·P(a ≻ b), with P(b ≻ a) = 1 - P(a ≻ b).
  function chanceToWin(state, settings, environment) {
    const { mu, fixed } = state, { label } = environment;
    for (let a = 0; a < N; a++) {
      const mass = mu[a];
      let total = mass * label[a * N + a];
      for (let b = 0; b < a; b++) {
        const wins = label[a * N + b];
        total += mu[b] * wins;
        fixed[b] += mass * (1 - wins);
      }
      fixed[a] = total;
    }
  }

  // w of the policy as it is now.
  const weigh = {
    rloo: copyFixed,
    reinforce: copyFixed,
    pref_ft: copyFixed,
    best_of_n: copyFixed,
    // -2βμ_a·Σ_b μ_b·(P(a ≻ b) - σ(β(ρ_a - ρ_b))), ρ = log(π/π_ref); both slots of a pair are alike, hence the 2.
    dpo(state, settings, environment) {
      believed(state, settings.beta, environment);
      for (let a = 0; a < N; a++) {
        state.weight[a] = -2 * settings.beta * state.mu[a] * (state.fixed[a] - state.work[a]);
      }
    },
    // 4μ_a·(ρ_a - E_μ[ρ] - (2P(a ≻ μ) - 1)/(2β)), from the slope 2(h - 1/(2β)) of the square.
    ipo(state, settings, environment) {
      let mean = 0;
      for (let a = 0; a < N; a++) {
        state.work[a] = state.logp[a] - environment.logReference[a];
        mean += state.mu[a] * state.work[a];
      }
      for (let a = 0; a < N; a++) {
        const aim = (2 * state.fixed[a] - 1) / (2 * settings.beta);
        state.weight[a] = 4 * state.mu[a] * (state.work[a] - mean - aim);
      }
    },
  };

  function copyFixed(state) {
    state.weight.set(state.fixed);
  }

  // work_a = Σ_b μ_b·σ(β(ρ_a - ρ_b)), the chance to win that the policy's own log-ratios state. With e = exp(βρ),
  // σ(β(ρ_a - ρ_b)) = e_a/(e_a + e_b): one division a pair, and no exponential.
  function believed(state, beta, environment) {
    const { work, mu, logp, exponent } = state;
    let low = Infinity, high = -Infinity;
    for (let a = 0; a < N; a++) {
      exponent[a] = beta * (logp[a] - environment.logReference[a]);
      low = Math.min(low, exponent[a]);
      high = Math.max(high, exponent[a]);
    }
    if (!(high - low < 600)) {
      for (let a = 0; a < N; a++) {
        work[a] = 0;
        for (let b = 0; b < N; b++) work[a] += mu[b] * onoff.sigmoid(exponent[a] - exponent[b]);
      }
      return;
    }
    const middle = 0.5 * (low + high);
    for (let a = 0; a < N; a++) {
      exponent[a] = Math.exp(exponent[a] - middle);
      work[a] = 0.5 * mu[a];
    }
    for (let a = 1; a < N; a++) {
      const own = exponent[a], mass = mu[a];
      let total = work[a];
      for (let b = 0; b < a; b++) {
        const wins = own / (own + exponent[b]);
        total += mu[b] * wins;
        work[b] += mass * (1 - wins);
      }
      work[a] = total;
    }
  }

  function emptyState() {
    const state = {};
    for (const name of ["logits", "logp", "p", "mu", "logMu", "fixed", "weight", "work", "exponent", "gradient"]) {
      state[name] = new Float64Array(N);
    }
    return state;
  }

  function sync(state, settings, environment) {
    state.logMu.set(state.logp);
    state.mu.set(state.p);
    prepare[settings.algorithm](state, settings, environment);
  }

  // The chain rule of a softmax: g_a = w_a - π_a·Σ_b w_b.
  function gradient(state, settings, environment) {
    weigh[settings.algorithm](state, settings, environment);
    let total = 0;
    for (let a = 0; a < N; a++) total += state.weight[a];
    for (let a = 0; a < N; a++) state.gradient[a] = state.weight[a] - state.p[a] * total;
    return state.gradient;
  }

  // The whole trajectory from the reference: log π after 0, 1, ..., `updates` updates, one row of ACTIONS each, and
  // what is measured on the way. Where a learning rate is so large that it diverges it ends early: `updates` says how far
  // it came.
  function simulate(given) {
    const settings = onoff.complete(given);
    const environment = onoff.build(settings);
    const state = emptyState();
    const wanted = settings.updates;
    const logp = new Float64Array((wanted + 1) * N);
    const trace = { score: [], kl: [], entropy: [], chosen: [], rejected: [], unseen: [] };
    const pairs = pairsOfReference(environment);
    let done = 0, diverged = false;
    state.logits.set(environment.logReference);
    for (let t = 0; t <= wanted; t++) {
      onoff.logSoftmax(state.logits, state.logp, state.p);
      if (!state.logp.every((x) => x > -LIMIT)) {
        diverged = true;
        break;
      }
      done = t;
      logp.set(state.logp, t * N);
      record(trace, state, environment, pairs);
      if (t === wanted) break;
      if (t % settings.sync === 0) sync(state, settings, environment); // t % Infinity is 0 at t = 0 alone
      const step = gradient(state, settings, environment);
      for (let a = 0; a < N; a++) state.logits[a] -= settings.rate * step[a];
    }
    return { settings, environment, updates: done, diverged, actions: N, logp: logp.subarray(0, (done + 1) * N), ...trace };
  }

  // How often an action is the chosen, and the rejected, of a pair of the reference's draws.
  function pairsOfReference(environment) {
    const state = { mu: environment.reference, fixed: new Float64Array(N) };
    chanceToWin(state, null, environment);
    return {
      chosen: onoff.vector((a) => 2 * environment.reference[a] * state.fixed[a]),
      rejected: onoff.vector((a) => 2 * environment.reference[a] * (1 - state.fixed[a])),
    };
  }

  function record(trace, { logp, p }, environment, pairs) {
    const { score, kl, entropy } = onoff.measures(logp, p, environment);
    let chosen = 0, rejected = 0, unseen = 0;
    for (let a = 0; a < N; a++) {
      chosen += pairs.chosen[a] * logp[a];
      rejected += pairs.rejected[a] * logp[a];
      unseen += p[a] * environment.unseen[a];
    }
    trace.score.push(score);
    trace.kl.push(kl);
    trace.entropy.push(entropy);
    trace.chosen.push(chosen);
    trace.rejected.push(rejected);
    trace.unseen.push(unseen);
  }

  function policyAt(run, update) {
    return run.logp.subarray(update * N, (update + 1) * N);
  }

  function samplerAt(run, update) {
    const period = run.settings.sync;
    return policyAt(run, Number.isFinite(period) ? update - (update % period) : 0);
  }

  function assume(state, logp) {
    state.logp.set(logp);
    state.p.set(logp.map(Math.exp));
  }

  // -η·g after `update` updates: what the next one adds to each logit.
  function nextStep(run, update) {
    const state = emptyState();
    assume(state, samplerAt(run, update));
    sync(state, run.settings, run.environment);
    assume(state, policyAt(run, update));
    return gradient(state, run.settings, run.environment).map((g) => -run.settings.rate * g);
  }

  Object.assign(onoff, { simulate, policyAt, samplerAt, nextStep });
})(globalThis.onoff);
