// What can be set, what is valid, and how all of it stands in the address bar.
"use strict";

(function (onoff) {
  const DECADE = [1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8];

  // 10 stops a decade, from the first to the last value.
  function logarithmic(least, most) {
    const stops = [];
    for (let power = Math.floor(Math.log10(least)); power <= Math.log10(most); power++) {
      for (const digit of DECADE) stops.push(Number(`${digit}e${power}`));
    }
    return stops.filter((stop) => stop >= least && stop <= most);
  }

  function number(least, most, stops) {
    const valid = (x) => Number.isFinite(x) && x >= least && x <= most;
    return { stops, parse: Number, valid, rule: `a number from ${least} to ${most}` };
  }

  function whole(least, most, stops) {
    const valid = (x) => Number.isInteger(x) && x >= least && x <= most;
    return { stops, parse: Number, valid, rule: `a whole number from ${least} to ${most}` };
  }

  function choice(...choices) {
    return { choices, parse: String, valid: (x) => choices.includes(x), rule: `one of ${choices.join(", ")}` };
  }

  // Of one run. The order is that of the address bar.
  const RUN = {
    algorithm: choice("rloo", "reinforce", "dpo", "ipo", "pref_ft", "best_of_n"),
    environment: choice("bandit_overlap", "bandit_r1", "bandit_r2"),
    overlap: number(1e-6, 0.7, [...logarithmic(1e-6, 0.6), 0.7]),
    beta: number(0.001, 10, logarithmic(0.001, 10)),
    sync: {
      stops: [1, 2, 3, 5, 10, 20, 30, 50, 100, 200, 300, Infinity],
      parse: (x) => (x === "inf" || x === null ? Infinity : Number(x)),
      valid: (x) => x === Infinity || (Number.isInteger(x) && x >= 1),
      rule: "a whole number of updates, at least 1, or inf",
    },
    temperature: number(0, 2, [0, ...logarithmic(0.01, 2)]),
    flip: number(0, 0.5, Array.from({ length: 51 }, (_, k) => k / 100)),
    n: whole(2, 64, [2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64]),
    rate: number(0.01, 1000, logarithmic(0.01, 1000)),
    updates: whole(1, 1000, [10, 20, 30, 50, 100, 150, 200, 300, 400, 500, 700, 1000]),
  };
  const DEFAULTS = {
    algorithm: "rloo", environment: "bandit_overlap", overlap: 0.05, beta: 0.1, sync: 1, temperature: 0, flip: 0, n: 4,
    rate: 10, updates: 300,
  };
  // Of the page, beside the run.
  const VIEW = { at: whole(0, 1000), scale: choice("linear", "log"), lesson: { parse: String, valid: () => true } };
  const VIEW_DEFAULTS = { at: 300, scale: "linear", lesson: "" };
  // Learning rates at which each algorithm is quick and does not overshoot at β = 0.1.
  const USUAL_RATE = { rloo: 10, reinforce: 10, dpo: 10, ipo: 1, pref_ft: 1, best_of_n: 1 };
  // Settings that an algorithm does not read: β still defines the optimum that is drawn.
  const UNUSED = {
    rloo: ["temperature", "flip", "n"],
    reinforce: ["temperature", "flip", "n"],
    dpo: ["n"],
    ipo: ["n"],
    pref_ft: ["n"],
    best_of_n: ["temperature", "flip"],
  };

  function checked(fields, name, given) {
    const value = fields[name].parse(given);
    if (!fields[name].valid(value) || given === "") throw new RangeError(`${name} = ${given}: must be ${fields[name].rule}`);
    return value;
  }

  // A run's settings with defaults for what is left out; RangeError names a field that is unknown or out of range.
  function complete(given) {
    const settings = { ...DEFAULTS };
    for (const [name, value] of Object.entries(given)) {
      if (!(name in RUN)) throw new RangeError(`${name}: no such setting; there are ${Object.keys(RUN).join(", ")}`);
      settings[name] = checked(RUN, name, value);
    }
    return settings;
  }

  function text(value) {
    return value === Infinity ? "inf" : String(value);
  }

  // {run, compare (or null), at, scale, lesson} as the part of an address behind #. Of the run that is compared with,
  // only what differs is written.
  function toAddress(state) {
    const parts = Object.keys(RUN).map((name) => [name, text(state.run[name])]);
    if (state.compare) {
      const differing = Object.keys(RUN).filter((name) => state.compare[name] !== state.run[name]);
      parts.push(["compare", differing.map((name) => `${name}:${text(state.compare[name])}`).join(",") || "same"]);
    }
    parts.push(...Object.keys(VIEW).filter((name) => state[name] !== "").map((name) => [name, text(state[name])]));
    return "#" + parts.map(([name, value]) => `${name}=${encodeURIComponent(value)}`).join("&");
  }

  // The state that an address holds, and a line for each part of it that could not be read.
  function fromAddress(hash) {
    const state = { run: { ...DEFAULTS }, compare: null, ...VIEW_DEFAULTS };
    const faults = [];
    const attempt = (action) => {
      try {
        action();
      } catch (error) {
        faults.push(error.message);
      }
    };
    const given = new URLSearchParams(hash.replace(/^#/, ""));
    let opened;
    // A lesson without settings, as other pages link to it, is the lesson as it was written.
    if (given.has("lesson") && [...given.keys()].every((name) => name in VIEW)) {
      opened = onoff.LESSONS.find((each) => each.id === given.get("lesson"));
      if (opened) Object.assign(state, onoff.lessonState(opened));
      else faults.push(`lesson = ${given.get("lesson")}: must be one of ${onoff.LESSONS.map((x) => x.id).join(", ")}`);
    }
    for (const [name, value] of given) {
      if (name in RUN) attempt(() => (state.run[name] = checked(RUN, name, value)));
      else if (name in VIEW) attempt(() => (state[name] = checked(VIEW, name, value)));
      else if (name !== "compare") faults.push(`${name}: no such setting`);
    }
    if (!given.has("at") && !opened) state.at = state.run.updates;
    if (given.has("compare")) {
      const differing = given.get("compare").split(",").filter((part) => part && part !== "same");
      const pairs = differing.map((part) => [part.slice(0, part.indexOf(":")), part.slice(part.indexOf(":") + 1)]);
      attempt(() => (state.compare = complete({ ...state.run, ...Object.fromEntries(pairs) })));
    }
    state.at = Math.min(state.at, state.run.updates);
    return { state, faults };
  }

  Object.assign(onoff, { RUN, DEFAULTS, USUAL_RATE, UNUSED, complete, toAddress, fromAddress });
})(globalThis.onoff);
