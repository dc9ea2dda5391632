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
    text: article.textContent.toLowerCase(),
    found: article.dataset.found.split(" ").map((pair) => pair.split("@")),
  }));

  const pressed = (kind) =>
    toggles
      .filter((toggle) => toggle.dataset.kind === kind && toggle.getAttribute("aria-pressed") === "true")
      .map((toggle) => toggle.dataset.value);

  // A question may be typed as it is asked: words that every question has say nothing.
  const idle = new Set(
    ("a an and any are as at be by can did do does for from has have how i if in is it its of on or should than that " +
      "the then there this to true use was what when where which who why will with work works would").split(" "),
  );
  const asked = () =>
    search.value
      .toLowerCase()
      .split(/\s+/)
      .map((word) => word.replace(/^[^\p{L}\p{N}]+|[^\p{L}\p{N}]+$/gu, ""))
      .filter((word) => word && !idle.has(word));

  function filter() {
    const words = asked();
    const states = pressed("state");
    const settings = pressed("setting");
    // State and setting must be those of one row: "opposite" and "lm" finds what came out opposite on a language model.
    const fits = ([state, setting]) =>
      (!states.length || states.includes(state)) && (!settings.length || settings.includes(setting));
    let shown = 0;
    const matches = (claim) => (claim.found.some(fits) ? words.filter((word) => claim.text.includes(word)).length : -1);
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
  }

  function order() {
    const key = sort.value;
    const value = (claim) => Number(claim.article.dataset[key]);
    const sign = key === "order" ? 1 : -1;
    const sorted = claims
      .slice()
      .sort((a, b) => sign * (value(a) - value(b)) || a.article.dataset.order - b.article.dataset.order);
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
