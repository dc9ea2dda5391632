// Search, filter and sort. Without it the page is whole: it only hides and orders what is there.
"use strict";
(() => {
  const find = (selector) => Array.from(document.querySelectorAll(selector));
  const controls = document.getElementById("controls");
  if (!controls) return;
  controls.hidden = false;
  // On a phone the first answer comes first.
  document.getElementById("filters").open = !matchMedia("(max-width: 46rem)").matches;
  // On a phone a row is laid out as a block, which alone would take from tables what they are to a screen reader.
  const roles = { TABLE: "table", THEAD: "rowgroup", TBODY: "rowgroup", TR: "row", TD: "cell" };
  for (const table of find(".answers, .forest")) {
    for (const part of [table, ...table.querySelectorAll("thead, tbody, tr, th, td")]) {
      part.setAttribute("role", roles[part.tagName] || (part.scope === "col" ? "columnheader" : "rowheader"));
    }
  }
  const search = document.getElementById("search");
  const sort = document.getElementById("sort");
  const count = document.getElementById("count");
  const clear = document.getElementById("clear");
  const pictures = document.getElementById("pictures");
  const untested = document.getElementById("untested-found");
  const toggles = find(".toggle");
  const claims = find(".claim").map((article) => ({
    article,
    line: find("[data-of]").find((row) => row.dataset.of === article.id),
    heading: article.querySelector("h3").textContent.toLowerCase(),
    text: own(article).toLowerCase(),
    rows: rowsOf(article),
    found: article.dataset.found.split(" ").map((pair) => pair.split("@")),
  }));

  // What an article says of its claim: a sentence that stands in every one would be found for none.
  function own(article) {
    const copy = article.cloneNode(true);
    for (const everywhere of copy.querySelectorAll("[data-everywhere]")) everywhere.remove();
    return copy.textContent;
  }

  // A figure's caption stands where it is drawn first: with the first claim that it tests, or beside its name.
  function captionOf(article) {
    const caption = document.querySelector(`[data-caption="${article.dataset.name}"]`);
    return caption ? caption.textContent : "";
  }

  // Its rows, with the measure that a row shares with the one above, and its setting in words.
  function rowsOf(article) {
    const settings = { bandit: "table", mlp: "network", token: "sequences transformer", lm: "language model" };
    let measure = "";
    return Array.from(article.querySelectorAll(".forest tbody tr:not(.wording)")).map((row, i) => {
      row.id = `${article.id}-row-${i + 1}`;
      measure = (row.querySelector(".measure:not(.gate)") || { textContent: measure }).textContent;
      const setting = settings[row.querySelector(".setting").textContent] || "";
      const text = `${row.textContent} ${measure} ${setting}`.toLowerCase();
      return { row, text, state: row.querySelector(".word").textContent };
    });
  }
  const drawn = find(".figure").map((article) => ({
    id: article.id,
    title: article.querySelector("h3").firstChild.textContent.trim(),
    text: `${own(article)} ${captionOf(article)}`.toLowerCase(),
  }));

  const pressed = (kind) =>
    toggles
      .filter((toggle) => toggle.dataset.kind === kind && toggle.getAttribute("aria-pressed") === "true")
      .map((toggle) => toggle.dataset.value);

  const FEW = 3; // headings that have a word which tells claims apart

  // A question may be typed as it is asked: words that every question has say nothing.
  const idle = new Set(
    ("a algorithm algorithms allowed an and any are as at be best better between both by can compute computes correct " +
      "did do does enough for from good happen happens has have help helps how hurt hurts i if in instead is it its many matter " +
      "matters me more most much must my need needed needs of often on or our out over really result results right same should " +
      "suffice suffices than that the then there this to true us use was we what when where which who why will with " +
      "work works worse would you your").split(" "),
  );
  // Longer ones first, so that each mention is counted once.
  const alike = [
    "likelihood unlikely likely",
    "reusing reused reuse re-use epochs epoch",
    "beta β",
    "epsilon ε",
    "sensitive sweep",
    "outside absent unseen lack lacks lacking missing",
    "transfer carry predict predicts tell tells",
    "semi-online sync syncs synced",
    "llms llm lm language",
    "rollouts rollout samples",
    "rounds round cycles cycle",
    "collapse collapses falls fall drops",
    "noisy noise flipped flips",
    "exploits exploit exploited hacks hack hacked",
    "fixes fix fixed repairs repair removes remove removed cures cure",
    "1,000 thousand",
    "over-optimisation overoptimisation over-optimization overoptimization hacking",
    "before first",
    "judge judges judged judgement judgements",
    "data pairs",
    "larger smaller bigger size sizes large small", // of which a claim has one, and its question often another
  ].map((words) => words.split(" "));
  // Of the same root: "replayed" finds "replaying", and "learned" not "learns".
  const root = (word) => word.replace(/^(\p{L}{6,}?)(?:ing|ed|es|s)$/u, "$1").replace(/^(over-?optimi)[sz].*/, "$1sation");
  // A word is found where one begins: "ppo" is not in "supported".
  const pattern = (word) => {
    const words = alike.find((group) => group.includes(word) || group.includes(root(word))) || [root(word)];
    const plain = words.map((each) => each.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&").replace(/i[sz](?=ation|e|ing)/g, "i[sz]"));
    return new RegExp(`(?<![\\p{L}\\p{N}])(?:${plain.join("|")})`, "gu");
  };
  const asked = () =>
    search.value
      .toLowerCase()
      .split(/\s+/)
      .map((word) => word.replace(/^[^\p{L}\p{N}]+|[^\p{L}\p{N}]+$/gu, "").replace(/['’]s$/, ""))
      .filter((word, i, all) => word && !idle.has(word) && all.indexOf(word) === i)
      .map((word) => ({ word, pattern: pattern(word) }));
  const says = (text, { pattern }) => text.search(pattern) >= 0;
  const has = (text, words) => words.filter((word) => says(text, word)).length;
  const mentions = (text, words) => words.reduce((sum, { pattern }) => sum + (text.match(pattern) || []).length, 0);

  // Of the words, those that tell a claim's rows apart: the rows that have most of them are marked, and counted beside
  // the claim's answer.
  function mark(claim, words) {
    const telling = words.filter((word) => {
      const having = claim.rows.filter(({ text }) => says(text, word)).length;
      return having > 0 && having < claim.rows.length;
    });
    const most = Math.max(0, ...claim.rows.map(({ text }) => has(text, telling)));
    const marked = claim.rows.filter(({ text }) => most > 0 && has(text, telling) === most);
    for (const { row } of claim.rows) row.classList.toggle("asked", marked.some((each) => each.row === row));
    if (!claim.line) return;
    claim.line.querySelectorAll(".rows-asked").forEach((element) => element.remove());
    const sampled = otherwise(words, claim.rows, marked.length ? marked : claim.rows);
    if (!marked.length) {
      if (sampled) add(claim, claim.rows[0], `All rows are ${sampled}`);
      return;
    }
    const quoted = telling.filter((word) => marked.some(({ text }) => says(text, word))).map(({ word }) => `“${word}”`);
    const states = marked.map(({ state }) => state);
    const counted = [...new Set(states)].map((state) => `${states.filter((each) => each === state).length} ${state}`);
    const all = sampled && `; all are ${sampled}`;
    add(claim, marked[0], `Rows with ${quoted.join(" and ")}: ${counted.join(", ")}${all}`);
  }

  // Beside a claim's answer, a link to one of its rows.
  function add(claim, { row }, text) {
    const link = document.createElement("a");
    link.className = "rows-asked";
    link.href = `#${row.id}`;
    link.textContent = text;
    claim.line.querySelector("th").append(link);
  }

  // Of a question about the one sampler where all rows have the other: "on-policy, none off-policy"; else "".
  function otherwise(words, rows, of) {
    const asks = (name) => words.some(({ word }) => word === name) && !rows.some(({ text }) => text.includes(name));
    const pairs = [["on-policy", "off-policy"], ["off-policy", "on-policy"]];
    const pair = pairs.find(([other, name]) => asks(name) && of.length && of.every(({ text }) => text.includes(other)));
    return pair ? `${pair[0]}, none ${pair[1]}` : "";
  }

  // How much the words of a heading say: a word that few headings have says more than one that many have.
  const headingsWith = (word) => claims.filter(({ heading }) => says(heading, word)).length;
  const weight = (heading, words) =>
    words.reduce((sum, word) => sum + (says(heading, word) ? 1 / headingsWith(word) : 0), 0);

  // How many of the words stand in the claim's heading and one of its rows together.
  const nearest = ({ heading, rows }, words) =>
    Math.max(has(heading, words), ...rows.map(({ text }) => has(`${heading} ${text}`, words)));

  // What a question asks and no row answers, in words; "" where a row has all of it, with its claim's heading.
  function unanswered(words) {
    const tested = claims.filter(({ line }) => line);
    const missing = words.filter((word) => !tested.some(({ text }) => says(text, word)));
    if (missing.length) return `. No tested claim speaks of ${missing.map(({ word }) => `“${word}”`).join(" or ")}`;
    return words.length < 2 || tested.some((claim) => nearest(claim, words) === words.length) ? "" : ". No row has all of this: nearest first";
  }

  // Claims that are catalogued, and not tested, whose heading has a word that few have.
  function listUntested(words, rare) {
    const found = words.length ? claims.filter(({ line, article }) => !line && !article.hidden) : [];
    const named = found.filter(({ heading }) => has(heading, rare) > 0).slice(0, FEW);
    links(untested, "Catalogued, and not tested yet: ", named.map(({ article }) => [article.id, article.querySelector("h3").textContent]));
  }

  // Figures that have all of the words, also those of which no claim is tested.
  function list(words) {
    const found = words.length ? drawn.filter(({ text }) => has(text, words) === words.length) : [];
    links(pictures, "Figures that speak of it: ", found.map(({ id, title }) => [id, title]));
  }

  // A line of links to places of the page; none is no line.
  function links(line, opening, found) {
    line.hidden = !found.length;
    line.replaceChildren(opening);
    found.forEach(([id, title], i) => {
      const link = document.createElement("a");
      link.href = `#${id}`;
      link.textContent = title;
      line.append(i ? " · " : "", link);
    });
  }

  function filter() {
    const words = asked();
    const states = pressed("state");
    const settings = pressed("setting");
    // State and setting must be those of one row: "opposite" and "lm" finds what came out opposite on a language model.
    const fits = ([state, setting]) =>
      (!states.length || states.includes(state)) && (!settings.length || settings.includes(setting));
    let shown = 0;
    const matches = (claim) => (claim.found.some(fits) ? has(claim.text, words) : -1);
    // Where no claim has all of the words, those that have most of them, if half at least; and always those whose heading
    // has more than half, or a third with a word that few headings have.
    const rare = words.filter((word) => headingsWith(word) <= FEW);
    const most = Math.max(...claims.map(matches));
    for (const claim of claims) {
      const found = matches(claim);
      const best = found === most && found >= words.length / 2;
      const named = has(claim.heading, words) / words.length;
      const show = best || (found > 0 && (named > 1 / 2 || (named >= 1 / 3 && has(claim.heading, rare) > 0)));
      claim.article.hidden = !show;
      mark(claim, show ? words : []);
      if (claim.line) claim.line.hidden = !show;
      shown += show;
    }
    const filtered = words.length + states.length + settings.length > 0;
    list(words);
    const tested = shown && !claims.some((claim) => claim.line && !claim.line.hidden) ? ", none of them tested" : "";
    const some = shown && most < words.length ? `, with ${most} of ${words.length} words: none has all` : "";
    const without = words.length ? unanswered(words) : "";
    listUntested(words, rare);
    count.textContent = filtered ? `${shown} of ${claims.length} claims${some}${tested}${without}` : "";
    clear.hidden = !filtered;
    order();
  }

  // Of those found, the claims of which one row has most of the words, beside a heading that has what few headings have,
  // then those that mention the words most.
  let laid = claims;
  function order() {
    const key = sort.value;
    const words = asked();
    const number = (claim) => Number(claim.article.dataset.order);
    const ranks = {
      match: (claim) => {
        const telling = weight(claim.heading, words);
        return [nearest(claim, words) + telling, telling, mentions(claim.text, words)];
      },
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
  window.addEventListener("beforeprint", () => find("details.more").forEach((details) => (details.open = true)));
  filter();
})();
