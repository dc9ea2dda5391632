// The controls: a labelled slider or list for each setting, with its value in words.
"use strict";

(function (onoff) {
  const NAMES = {
    algorithm: {
      rloo: "Policy gradient (RLOO)",
      reinforce: "REINFORCE, no baseline",
      dpo: "DPO",
      ipo: "IPO",
      pref_ft: "SFT on the preferred",
      best_of_n: "SFT on the best of n",
    },
    environment: {
      bandit_overlap: "Gaussian, by overlap",
      bandit_r1: "Cauchy R1: reward far",
      bandit_r2: "Cauchy R2: reward near",
    },
  };
  const percent = (x) => `${onoff.format(100 * x)} %`;
  const counted = (x, word) => `${x} ${word}${x === 1 ? "" : "s"}`;

  // group: the heading that a control stands under. say: the value in words. help: what it does, in a sentence.
  const CONTROLS = [
    { name: "algorithm", group: "Algorithm", label: "Algorithm" },
    { name: "beta", group: "Algorithm", label: "β, pull to the reference", say: (x) => onoff.format(x) },
    { name: "n", group: "Algorithm", label: "n, responses", say: (x) => String(x) },
    {
      name: "sync", group: "Sampler", label: "Sync period",
      say: (x) => (x === 1 ? "1: on-policy" : x === Infinity ? "∞: offline" : `${x} updates`),
      help: "The sampler is the policy as it was at the last sync.",
    },
    { name: "environment", group: "Environment", label: "Reward and reference" },
    {
      name: "overlap", group: "Environment", label: "Overlap", say: percent,
      help: "Mass of the reference within ±10 of the reward's peak.",
    },
    {
      name: "temperature", group: "Labels", label: "Label temperature",
      say: (x) => (x === 0 ? "0: noiseless" : onoff.format(x)),
      help: "P(i ≻ j) = σ((rᵢ − rⱼ)/temperature)",
    },
    { name: "flip", group: "Labels", label: "Flipped labels", say: percent },
    { name: "rate", group: "Optimisation", label: "Learning rate η", say: (x) => onoff.format(x) },
    { name: "updates", group: "Optimisation", label: "Updates", say: (x) => counted(x, "update") },
  ];

  function element(name, attributes = {}, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  function nearest(stops, value) {
    const place = (x) => (x === Infinity ? 1e6 : Math.log(Math.max(x, 1e-9)));
    let best = 0;
    stops.forEach((stop, k) => {
      if (Math.abs(place(stop) - place(value)) < Math.abs(place(stops[best]) - place(value))) best = k;
    });
    return best;
  }

  // Builds every control into `parent`; change(name, value) is called as they move. Returns show(run), which sets them.
  function buildControls(parent, change) {
    const shown = [];
    const groups = {};
    for (const control of CONTROLS) {
      groups[control.group] ??= parent.appendChild(element("fieldset", {}, element("legend", {}, control.group)));
      const { choices } = onoff.RUN[control.name];
      shown.push((choices ? buildList : buildSlider)(groups[control.group], control, change));
    }
    return (run) => shown.forEach((show) => show(run));
  }

  function buildList(parent, { name, label }, change) {
    const id = `set-${name}`;
    const list = element("select", { id, name });
    for (const choice of onoff.RUN[name].choices) list.append(element("option", { value: choice }, NAMES[name][choice]));
    list.addEventListener("change", () => change(name, list.value));
    parent.append(element("div", { class: "control" }, element("label", { for: id }, label), list));
    return (run) => (list.value = run[name]);
  }

  function buildSlider(parent, { name, label, say, help }, change) {
    const id = `set-${name}`;
    const { stops } = onoff.RUN[name];
    const slider = element("input", { id, name, type: "range", min: 0, max: stops.length - 1, step: 1 });
    const value = element("output", { for: id });
    const row = element("div", { class: "row" }, element("label", { for: id }, label), value);
    const control = element("div", { class: "control" }, row, slider);
    if (help) {
      control.append(element("p", { id: `${id}-help`, class: "help" }, help));
      slider.setAttribute("aria-describedby", `${id}-help`);
    }
    slider.addEventListener("input", () => change(name, stops[Number(slider.value)]));
    parent.append(control);
    return (run) => {
      const unread =
        onoff.UNUSED[run.algorithm].includes(name) || (name === "overlap" && run.environment !== "bandit_overlap");
      slider.value = nearest(stops, run[name]);
      slider.disabled = unread;
      control.classList.toggle("unread", unread);
      value.textContent = unread ? "not used here" : say(run[name]);
      slider.setAttribute("aria-valuetext", value.textContent);
    };
  }

  // What tells a run from another, in words.
  function describe(run, other) {
    const names = CONTROLS.map(({ name }) => name).filter((name) => run[name] !== other[name]);
    const words = names.map((name) => {
      if (NAMES[name]) return NAMES[name][run[name]];
      const { label, say } = CONTROLS.find((control) => control.name === name);
      return `${label.split(",")[0]} ${say(run[name])}`;
    });
    return words.join(", ") || "the same settings";
  }

  Object.assign(onoff, { NAMES, element, buildControls, describe });
})(globalThis.onoff);
