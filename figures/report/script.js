// Search, filter and sort. Without it the page is whole: it only hides and orders what is there.
"use strict";
(() => {
  const find = (selector) => Array.from(document.querySelectorAll(selector));
  const controls = document.getElementById("controls");
  if (!controls) return;
  controls.hidden = false;
  const search = document.getElementById("search");
  const sort = document.getElementById("sort");
  const count = document.getElementById("count");
  const clear = document.getElementById("clear");
  const toggles = find(".toggle");
  const claims = find(".claim").map((article) => ({
    article,
    line: find("[data-of]").find((row) => row.dataset.of === article.id),
    heading: article.querySelector("h3").textContent.toLowerCase(),
    text: own(article).toLowerCase(),
    found: article.dataset.found.split(" ").map((pair) => pair.split("@")),
  }));

  // What an article says of its claim: a sentence that stands in every one would be found for none.
  function own(article) {
    const copy = article.cloneNode(true);
    for (const everywhere of copy.querySelectorAll("[data-everywhere]")) everywhere.remove();
    return copy.textContent;
  }

  const pressed = (kind) =>
    toggles
      .filter((toggle) => toggle.dataset.kind === kind && toggle.getAttribute("aria-pressed") === "true")
      .map((toggle) => toggle.dataset.value);

  // A question may be typed as it is asked: words that every question has say nothing.
  const idle = new Set(
    ("a algorithm algorithms an and any are as at be best by can did do does enough for from has have how i if in is it " +
      "its of on or out really should suffice suffices than that the then there this to true use was what when where " +
      "which who why will with work works would").split(" "),
  );
  // Longer ones first, so that each mention is counted once.
  const alike = ["likelihood unlikely likely", "reusing reused reuse re-use", "beta β"].map((words) => words.split(" "));
  const pattern = (word) => {
    const words = alike.find((group) => group.includes(word)) || [word];
    return new RegExp(words.map((each) => each.replace(/[\\^$.*+?()[\]{}|]/g, "\\$&")).join("|"), "g");
  };
  const asked = () =>
    search.value
      .toLowerCase()
      .split(/\s+/)
      .map((word) => word.replace(/^[^\p{L}\p{N}]+|[^\p{L}\p{N}]+$/gu, ""))
      .filter((word) => word && !idle.has(word))
      .map(pattern);
  const has = (text, words) => words.filter((word) => text.search(word) >= 0).length;
  const mentions = (text, words) => words.reduce((sum, word) => sum + (text.match(word) || []).length, 0);

  function filter() {
    const words = asked();
    const states = pressed("state");
    const settings = pressed("setting");
    // State and setting must be those of one row: "opposite" and "lm" finds what came out opposite on a language model.
    const fits = ([state, setting]) =>
      (!states.length || states.includes(state)) && (!settings.length || settings.includes(setting));
    let shown = 0;
    const matches = (claim) => (claim.found.some(fits) ? has(claim.text, words) : -1);
    // Where no claim has all of the words, those that have most of them.
    const most = Math.max(...claims.map(matches));
    for (const claim of claims) {
      const show = matches(claim) === most && (most > 0 || (most === 0 && !words.length));
      claim.article.hidden = !show;
      if (claim.line) claim.line.hidden = !show;
      shown += show;
    }
    const filtered = words.length + states.length + settings.length > 0;
    const some = shown && most < words.length ? `, with ${most} of ${words.length} words: none has all` : "";
    count.textContent = filtered ? `${shown} of ${claims.length} claims${some}` : "";
    clear.hidden = !filtered;
    order();
  }

  // Of those found, the claims whose heading has the words, then those that mention them most.
  let laid = claims;
  function order() {
    const key = sort.value;
    const words = asked();
    const number = (claim) => Number(claim.article.dataset.order);
    const ranks = {
      match: (claim) => [has(claim.heading, words), mentions(claim.text, words)],
      order: () => [],
    };
    const rank = ranks[key] || ((claim) => [Number(claim.article.dataset[key])]);
    const ranked = claims.map((claim) => [claim, [...rank(claim), -number(claim)]]);
    const differ = (a, b) => b.map((value, i) => value - a[i]).find((difference) => difference) || 0;
    const sorted = ranked.sort((a, b) => differ(a[1], b[1])).map(([claim]) => claim);
    if (sorted.every((claim, i) => claim === laid[i])) return;
    laid = sorted;
    for (const claim of sorted) {
      claim.article.parentNode.append(claim.article);
      if (claim.line) claim.line.parentNode.append(claim.line);
    }
  }

  function reset() {
    search.value = "";
    for (const toggle of toggles) toggle.setAttribute("aria-pressed", "false");
    filter();
  }

  // A link to a claim that the filter hides shows it again.
  function reveal() {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (target && target.hidden) {
      reset();
      target.scrollIntoView();
    }
  }

  for (const toggle of toggles) {
    toggle.addEventListener("click", () => {
      toggle.setAttribute("aria-pressed", String(toggle.getAttribute("aria-pressed") !== "true"));
      filter();
    });
  }
  search.addEventListener("input", filter);
  sort.addEventListener("change", order);
  controls.addEventListener("submit", (event) => event.preventDefault());
  controls.addEventListener("reset", (event) => {
    event.preventDefault();
    reset();
  });
  window.addEventListener("hashchange", reveal);
  filter();
})();
