// The page: its state, which the address bar holds, and what is drawn from it.
"use strict";

(function (onoff) {
  const PLAY_SECONDS = 6; // for a whole run
  const find = (id) => document.getElementById(id);
  const { element, format } = onoff;

  let state; // {run, compare, at, scale, lesson}
  let run, other; // trajectories: what `simulate` returns; `other` is null without a comparison
  let showControls;
  let playing = null; // {frame, from, since} while playing
  const redraws = []; // milliseconds of the latest redraws

  // Computes what the settings ask for, then draws all. Everything that changes `state` ends here.
  function recompute() {
    const since = performance.now();
    if (state.compare) state.compare.updates = state.run.updates;
    run = onoff.simulate(state.run);
    other = state.compare && comparison(state.compare);
    state.at = Math.min(state.at, state.run.updates);
    showControls(state.run);
    find("at").max = state.run.updates;
    draw();
    redraws.push(performance.now() - since);
    if (redraws.length > 200) redraws.shift();
  }

  // It stays as it is while the sliders of the other run move.
  function comparison(settings) {
    const same = other && Object.keys(settings).every((name) => settings[name] === other.settings[name]);
    return same ? other : onoff.simulate(settings);
  }

  function draw() {
    drawMain();
    drawTrends();
    drawNumbers();
    find("at").value = state.at;
    find("at-value").textContent = `${state.at} of ${state.run.updates}`;
    find("play").textContent = playing ? "Pause" : "Play";
    find("back").disabled = find("first").disabled = state.at === 0;
    find("forward").disabled = find("last").disabled = state.at === state.run.updates;
    document.querySelectorAll("input[name=scale]").forEach((each) => (each.checked = each.value === state.scale));
    find("compare-note").textContent = other
      ? `Compared with: ${onoff.describe(state.compare, state.run)}.`
      : "Keep this run, then change a control: both are drawn.";
    find("drop").hidden = find("swap").hidden = !other;
    document.body.classList.toggle("comparing", Boolean(other));
    document.body.classList.toggle("stale", state.run.sync > 1);
    rememberAddress();
  }

  const within = (trajectory) => Math.min(state.at, trajectory.updates);

  function drawMain() {
    const at = within(run);
    const { environment } = run;
    const curves = [
      { name: "reference", p: environment.reference, filled: true },
      { name: "optimum", p: environment.logOptimum.map(Math.exp) },
    ];
    if (other) curves.push({ name: "other", p: onoff.policyAt(other, within(other)).map(Math.exp) });
    if (state.run.sync > 1) curves.push({ name: "sampler", p: onoff.samplerAt(run, at).map(Math.exp) });
    curves.push({ name: "policy", p: onoff.policyAt(run, at).map(Math.exp) });
    onoff.drawPolicies(find("policies"), state.scale, environment, curves);
    const steps = onoff.nextStep(run, at);
    onoff.drawSteps(find("steps"), steps);
    describePictures(at, steps);
  }

  function drawTrends() {
    const { environment } = run;
    const both = (name) => [...(other ? [{ name: "other", values: other[name] }] : []), { name: "policy", values: run[name] }];
    const likelihoods = [{ name: "rejected", values: run.rejected }, { name: "chosen", values: run.chosen }];
    const trend = (id, curves, levels) => onoff.drawCurves(find(id), state.run.updates, state.at, curves, levels);
    trend("score", both("score"), [environment.atOptimum.score]);
    trend("kl", both("kl"), [environment.atOptimum.kl]);
    trend("likelihoods", likelihoods, []);
    trend("unseen", both("unseen"), []);
  }

  function drawNumbers() {
    const at = within(run);
    const { environment } = run;
    const columns = [
      ["policy", run.score[at], run.kl[at], run.entropy[at]],
      ...(other ? [["comparison", ...["score", "kl", "entropy"].map((name) => other[name][within(other)])]] : []),
      ["optimum", ...["score", "kl", "entropy"].map((name) => environment.atOptimum[name])],
      ["reference", ...["score", "kl", "entropy"].map((name) => environment.atReference[name])],
    ];
    find("numbers").replaceChildren(
      ...columns.map(([name, score, kl, entropy]) =>
        element(
          "tr", {}, element("th", { scope: "row" }, name),
          ...[score, kl, score - state.run.beta * kl, entropy].map((x) => element("td", {}, format(x))),
        ),
      ),
    );
    find("overlap-mass").textContent = `${format(100 * environment.overlap)} %`;
    const stopped = [run, other].filter((each) => each && each.diverged);
    find("diverged").hidden = !stopped.length;
    find("diverged").textContent = stopped.length
      ? `The run diverges after ${stopped[0].updates} updates: this learning rate is too large.`
      : "";
  }

  // Alternative text: what the eye would read off.
  function describePictures(at, steps) {
    const likeliest = (p) => p.reduce((best, x, a) => (x > p[best] ? a : best), 0);
    const policy = onoff.policyAt(run, at), { environment } = run;
    const label = (id, words) => find(id).setAttribute("aria-label", words);
    label("policies", `After ${at} updates the policy is largest at action ${likeliest(policy)} with probability ` +
      `${format(Math.exp(Math.max(...policy)))}; the reference at ${likeliest(environment.reference)}, the optimum at ` +
      `${likeliest(environment.logOptimum)}; the reward peaks at action ${environment.peak}.`);
    label("steps", `The next update raises the logit of action ${likeliest(steps)} most, by ${format(Math.max(...steps))}, ` +
      `and lowers that of action ${likeliest(steps.map((x) => -x))} most, by ${format(-Math.min(...steps))}.`);
    const course = (name) => `from ${format(run[name][0])} to ${format(run[name].at(-1))}`;
    label("score", `Expected reward over ${run.updates} updates, ${course("score")}; the optimum's is ` +
      `${format(environment.atOptimum.score)}.`);
    label("kl", `KL to the reference over ${run.updates} updates, ${course("kl")} nats; the optimum's is ` +
      `${format(environment.atOptimum.kl)}.`);
    label("likelihoods", `Mean log-probability of the chosen, ${course("chosen")}, and of the rejected, ` +
      `${course("rejected")}.`);
    label("unseen", `Mass on actions that ${onoff.UNSEEN_DRAWS} draws of the reference miss, ${course("unseen")}.`);
  }

  // The address bar is written when the hand rests: browsers allow few changes a second.
  let writing = null;
  function rememberAddress() {
    clearTimeout(writing);
    writing = setTimeout(writeAddress, 200);
  }

  function writeAddress() {
    clearTimeout(writing);
    const address = onoff.toAddress(state);
    if (location.hash !== address) history.replaceState(null, "", address);
  }

  function readAddress() {
    const { state: read, faults } = onoff.fromAddress(location.hash);
    state = read;
    find("address-faults").hidden = !faults.length;
    find("address-faults").textContent = faults.length ? `In the address: ${faults.join("; ")}.` : "";
    showLesson();
    recompute();
  }

  function change(name, value) {
    state.run = { ...state.run, [name]: value };
    if (name === "algorithm") state.run.rate = onoff.USUAL_RATE[value];
    if (name === "updates") state.at = value;
    recompute();
  }

  function moveTo(update) {
    state.at = Math.min(Math.max(update, 0), state.run.updates);
    draw();
  }

  function pause() {
    if (playing) cancelAnimationFrame(playing.frame);
    playing = null;
  }

  function play() {
    const from = state.at === state.run.updates ? 0 : state.at;
    playing = { from, since: performance.now() };
    const next = (now) => {
      const passed = Math.max(now - playing.since, 0) / 1000;
      const at = Math.floor(from + (state.run.updates * passed) / PLAY_SECONDS);
      if (at >= state.run.updates) pause();
      else playing.frame = requestAnimationFrame(next);
      moveTo(at);
    };
    playing.frame = requestAnimationFrame(next);
    moveTo(from);
  }

  function openLesson(id) {
    const lesson = onoff.LESSONS.find((each) => each.id === id);
    if (!lesson) return;
    pause();
    state = onoff.lessonState(lesson);
    showLesson();
    recompute();
  }

  // A lesson's two runs as it was written, whatever the sliders say now.
  function lessonRuns({ run: settings, compare }) {
    return [onoff.simulate(settings), compare ? onoff.simulate({ ...settings, ...compare }) : null];
  }

  function showLesson() {
    const place = onoff.LESSONS.findIndex((each) => each.id === state.lesson);
    const lesson = onoff.LESSONS[place];
    find("lesson").value = lesson ? lesson.id : "";
    find("lesson-text").hidden = !lesson;
    find("lesson-previous").disabled = place <= 0;
    find("lesson-next").disabled = place === onoff.LESSONS.length - 1;
    if (!lesson) return;
    find("lesson-question").textContent = lesson.question;
    find("lesson-answer").textContent = lesson.answer(...lessonRuns(lesson));
    find("lesson-limits").textContent = lesson.limits;
    showMore(lesson);
    find("lesson-reveal").open = false;
  }

  // Where there is more about a lesson: its notebook, and its claims in the report.
  function showMore({ group, title }) {
    const more = find("lesson-more");
    const { notebook, claim } = more.dataset;
    const number = Number.parseInt(group, 10);
    const parts = [];
    if (number in onoff.NOTEBOOKS) {
      parts.push(["In full: ", element("a", { href: notebook.replace("NAME", onoff.NOTEBOOKS[number]) }, `notebook ${number}`), ". "]);
    }
    const claims = title.match(/C\d\d/g) ?? [];
    const links = claims.map((id) => element("a", { href: claim.replace("ID", id) }, id));
    if (links.length) parts.push(["In the report: ", ...links.flatMap((link, k) => (k ? [", ", link] : [link])), "."]);
    more.replaceChildren(...parts.flat());
    more.hidden = !parts.length;
  }

  function buildLessons() {
    const list = find("lesson");
    for (const group of new Set(onoff.LESSONS.map((lesson) => lesson.group))) {
      const options = onoff.LESSONS.filter((lesson) => lesson.group === group);
      list.append(element("optgroup", { label: group }, ...options.map(({ id, title }) => element("option", { value: id }, title))));
    }
    list.addEventListener("change", () => openLesson(list.value));
    const neighbour = (by) => {
      const place = onoff.LESSONS.findIndex((each) => each.id === state.lesson) + by;
      if (onoff.LESSONS[place]) openLesson(onoff.LESSONS[place].id);
    };
    find("lesson-previous").addEventListener("click", () => neighbour(-1));
    find("lesson-next").addEventListener("click", () => neighbour(1));
  }

  function buildTransport() {
    const press = (id, action) => find(id).addEventListener("click", action);
    press("play", () => {
      if (playing) pause();
      else return play();
      draw();
    });
    const jump = (id, where) => press(id, () => {
      pause();
      moveTo(where());
    });
    jump("first", () => 0);
    jump("back", () => state.at - 1);
    jump("forward", () => state.at + 1);
    jump("last", () => state.run.updates);
    find("at").addEventListener("input", () => {
      pause();
      moveTo(Number(find("at").value));
    });
    for (const id of ["score", "kl", "likelihoods", "unseen"]) {
      find(id).addEventListener("click", (event) => {
        pause();
        moveTo(find(id).updateAt(event));
      });
    }
  }

  function buildComparison() {
    const press = (id, action) => find(id).addEventListener("click", () => {
      action();
      recompute();
    });
    press("keep", () => (state.compare = { ...state.run }));
    press("drop", () => (state.compare = null));
    press("swap", () => ([state.run, state.compare] = [state.compare, state.run]));
    find("copy").addEventListener("click", async () => {
      writeAddress();
      let said = "Link copied.";
      try {
        await navigator.clipboard.writeText(location.href);
      } catch {
        said = "The address bar has the link."; // a browser may keep pages on disk from the clipboard
      }
      find("copied").textContent = said;
      setTimeout(() => (find("copied").textContent = ""), 3000);
    });
  }

  function start() {
    showControls = onoff.buildControls(find("controls"), change);
    buildLessons();
    buildTransport();
    buildComparison();
    document.querySelectorAll("input[name=scale]").forEach((each) =>
      each.addEventListener("change", () => {
        state.scale = each.value;
        draw();
      }),
    );
    window.addEventListener("hashchange", () => {
      if (location.hash !== onoff.toAddress(state)) readAddress();
    });
    if (location.hash.length > 1) readAddress();
    else openLesson(onoff.LESSONS[0].id);
    new ResizeObserver(draw).observe(find("policies"));
  }

  Object.assign(onoff, { redraws, openLesson, lessonRuns, state: () => structuredClone(state) });
  start();
})(globalThis.onoff);
