// The pictures, in SVG: the policy among what it is compared with, the next update's step, and curves over updates.
// Colours and line styles are classes of style.css, so that the dark has its own.
"use strict";

(function (onoff) {
  const N = onoff.ACTIONS;
  const MARGIN = { left: 54, right: 12, top: 10, bottom: 22 };
  const LEAST = 1e-12; // of a logarithmic axis of probabilities

  function node(name, attributes, text) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    return made;
  }

  // Three significant digits, as people write them.
  function format(x) {
    if (x === Infinity) return "∞";
    if (!Number.isFinite(x)) return "–";
    const size = Math.abs(x);
    if (size < 1e-15) return "0";
    const digits = size >= 10000 || size < 1e-3 ? x.toExponential(1) : String(Number(x.toPrecision(3)));
    const [mantissa, power] = digits.split("e");
    const raised = power === undefined ? "" : "·10" + superscript(Number(power));
    return (mantissa.replace(/\.0$/, "") + raised).replace("-", "−");
  }

  function superscript(x) {
    return String(x).replace(/./g, (c) => (c === "-" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[c]));
  }

  // About `count` round numbers from low to high.
  function ticks(low, high, count) {
    const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
    const step = power * [1, 2, 5, 10].find((m) => m * power >= rough);
    const found = [];
    for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k++) found.push(k * step);
    return found;
  }

  // An empty chart as large as its element: scales x and y, and axes with the given ticks.
  function frame(svg, { x, y, xTicks, yTicks }) {
    const width = Math.max(svg.clientWidth, 120), height = Math.max(svg.clientHeight, 60);
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.replaceChildren();
    const right = width - MARGIN.right, bottom = height - MARGIN.bottom;
    const chart = {
      svg, right, bottom, left: MARGIN.left, top: MARGIN.top,
      x: (value) => MARGIN.left + ((value - x[0]) / (x[1] - x[0])) * (right - MARGIN.left),
      y: (value) => bottom - ((value - y[0]) / (y[1] - y[0])) * (bottom - MARGIN.top),
    };
    for (const [value, words] of yTicks) {
      const at = chart.y(value);
      svg.append(node("line", { class: "grid", x1: MARGIN.left, x2: right, y1: at, y2: at }));
      svg.append(node("text", { class: "tick", x: MARGIN.left - 6, y: at + 4, "text-anchor": "end" }, words));
    }
    for (const value of xTicks) {
      svg.append(node("text", { class: "tick", x: chart.x(value), y: bottom + 15, "text-anchor": "middle" }, format(value)));
    }
    svg.append(node("line", { class: "axis", x1: MARGIN.left, x2: right, y1: bottom, y2: bottom }));
    return chart;
  }

  function line(chart, values, className, xOf = (k) => k) {
    let path = "";
    for (let k = 0; k < values.length; k++) {
      path += `${k ? "L" : "M"}${chart.x(xOf(k)).toFixed(1)},${chart.y(values[k]).toFixed(1)}`;
    }
    chart.svg.append(node("path", { class: className, d: path }));
  }

  function area(chart, values, floor, className) {
    let path = `M${chart.x(0)},${chart.y(floor)}`;
    for (let k = 0; k < values.length; k++) path += `L${chart.x(k).toFixed(1)},${chart.y(values[k]).toFixed(1)}`;
    chart.svg.append(node("path", { class: className, d: `${path}L${chart.x(values.length - 1)},${chart.y(floor)}Z` }));
  }

  const ACTION_TICKS = [0, 20, 40, 60, 80, 99];

  // Distributions over the actions; the reward lies behind them on a scale of its own, 0 to 1 over the whole height.
  function drawPolicies(svg, scale, environment, curves) {
    const log = scale === "log";
    const place = log ? (p) => Math.log10(Math.max(p, LEAST)) : (p) => p;
    const top = log ? 0 : 1.06 * Math.max(...curves.map((curve) => Math.max(...curve.p)));
    const floor = log ? Math.log10(LEAST) : 0;
    const yTicks = log
      ? [0, -3, -6, -9, -12].map((power) => [power, power ? "10" + superscript(power) : "1"])
      : ticks(0, top, 4).map((p) => [p, format(p)]);
    const chart = frame(svg, { x: [-0.5, N - 0.5], y: [floor, top], xTicks: ACTION_TICKS, yTicks });
    area(chart, environment.reward.map((r) => floor + r * (top - floor)), floor, "reward");
    for (const curve of curves) {
      const values = Array.from(curve.p, place);
      if (curve.filled) area(chart, values, floor, `${curve.name} filled`);
      else line(chart, values, curve.name);
    }
  }

  // A bar an action: what the next update adds to its logit.
  function drawSteps(svg, steps) {
    const low = Math.min(...steps, 0), high = Math.max(...steps, 0), most = Math.max(high, -low) || 1;
    const y = [low - 0.08 * most, high + 0.08 * most];
    const yTicks = ticks(...y, 3).map((value) => [value, format(value)]);
    const chart = frame(svg, { x: [-0.5, N - 0.5], y, xTicks: ACTION_TICKS, yTicks });
    svg.append(node("line", { class: "axis", x1: chart.left, x2: chart.right, y1: chart.y(0), y2: chart.y(0) }));
    const wide = 0.8 * (chart.x(1) - chart.x(0));
    for (let a = 0; a < N; a++) {
      const top = chart.y(Math.max(steps[a], 0)), height = Math.max(chart.y(Math.min(steps[a], 0)) - top, 0.01);
      const bar = { x: chart.x(a) - wide / 2, y: top, width: wide, height };
      svg.append(node("rect", { class: steps[a] >= 0 ? "up" : "down", ...bar }));
    }
  }

  // Curves over updates, with level lines (of the optimum) and a cursor. curves: [{values, name}], levels: numbers.
  function drawCurves(svg, updates, at, curves, levels) {
    let low = Infinity, high = -Infinity;
    for (const values of [...curves.map((curve) => curve.values), levels]) {
      for (const value of values) {
        low = Math.min(low, value);
        high = Math.max(high, value);
      }
    }
    const room = 0.06 * (high - low || 1);
    const y = [low - room, high + room];
    const xTicks = ticks(0, updates, 3);
    const chart = frame(svg, { x: [0, updates], y, xTicks, yTicks: ticks(...y, 3).map((v) => [v, format(v)]) });
    for (const level of levels) line(chart, [level, level], "optimum", (k) => k * updates);
    for (const curve of curves) {
      const every = Math.max(1, Math.floor(curve.values.length / 300));
      const kept = [];
      for (let k = 0; k < curve.values.length; k += every) kept.push(k);
      if (kept.at(-1) !== curve.values.length - 1) kept.push(curve.values.length - 1);
      line(chart, kept.map((k) => curve.values[k]), curve.name, (k) => kept[k]);
    }
    const x = chart.x(at);
    svg.append(node("line", { class: "cursor", x1: x, x2: x, y1: chart.top, y2: chart.bottom }));
    for (const { values, name } of curves) {
      if (at < values.length) svg.append(node("circle", { class: `${name} dot`, cx: x, cy: chart.y(values[at]), r: 3.5 }));
    }
    // Which update a pointer is over.
    svg.updateAt = (event) => {
      const box = svg.getBoundingClientRect();
      const share = (event.clientX - box.left - MARGIN.left) / (chart.right - MARGIN.left);
      return Math.round(Math.min(Math.max(share, 0), 1) * updates);
    };
  }

  Object.assign(onoff, { format, drawPolicies, drawSteps, drawCurves });
})(globalThis.onoff);
