"use strict";
// Drawing: plain SVG, in the page's own colours, at the width there is.

const SVG = "http://www.w3.org/2000/svg";

function svg(name, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function html(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function seconds(value) {
  if (value === null || value === undefined) return "–";
  if (value >= 10) return `${value.toFixed(1)} s`;
  if (value >= 1) return `${value.toFixed(2)} s`;
  return value >= 0.01 ? `${Math.round(value * 1000)} ms` : `${(value * 1000).toFixed(2)} ms`;
}

// On an axis: no zeros that say nothing.
function tickText(value) {
  return value === 0 ? "0" : seconds(value).replace(/(\.\d*?)0+ /, "$1 ").replace(". ", " ");
}

function linear(from, to, start, end) {
  return (value) => start + ((value - from) / (to - from || 1)) * (end - start);
}

function log(from, to, start, end) {
  const scale = linear(Math.log(from), Math.log(to), start, end);
  return (value) => scale(Math.log(Math.max(value, from)));
}

// Round numbers between the two: about so many of them.
function ticks(from, to, about) {
  const raw = (to - from) / Math.max(1, about);
  const size = 10 ** Math.floor(Math.log10(raw));
  const step = size * [1, 2, 5, 10].find((factor) => size * factor >= raw);
  const found = [];
  for (let at = Math.ceil(from / step) * step; at <= to + step * 1e-6; at += step) found.push(Number(at.toPrecision(10)));
  return found;
}

function logTicks(from, to, dense) {
  const found = [];
  for (let power = Math.floor(Math.log10(from)); power <= Math.log10(to); power += 1) {
    for (const factor of dense ? [1, 2, 5] : [1]) {
      const value = Number((factor * 10 ** power).toPrecision(6));
      if (value >= from * 0.999 && value <= to * 1.001) found.push(value);
    }
  }
  return found;
}

function vertical(canvas, marks, scale, top, bottom, text) {
  for (const mark of marks) {
    const x = scale(mark);
    canvas.append(svg("line", { x1: x, x2: x, y1: top, y2: bottom, class: "grid" }));
    canvas.append(svg("text", { x, y: bottom + 17, "text-anchor": "middle", class: "soft" }, text(mark)));
  }
}

function horizontal(canvas, marks, scale, left, right, text) {
  for (const mark of marks) {
    const y = scale(mark);
    canvas.append(svg("line", { x1: left, x2: right, y1: y, y2: y, class: "grid" }));
    canvas.append(svg("text", { x: left - 7, y: y + 4, "text-anchor": "end", class: "soft" }, text(mark)));
  }
}

function widthOf(target) {
  return Math.max(280, Math.floor(target.clientWidth));
}

function canvas(target, height, label) {
  const width = widthOf(target);
  const made = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
  target.append(made);
  return [made, width];
}

// A mark that tells what it is under the pointer, and opens a cell when pressed.
function marked(shape, tip, cell) {
  shape.dataset.tip = tip;
  if (cell) {
    shape.dataset.cell = cell;
    shape.classList.add("hit");
  }
  return shape;
}

function diamond(x, y, size, attributes) {
  return svg("path", { d: `M${x} ${y - size}L${x + size} ${y}L${x} ${y + size}L${x - size} ${y}Z`, ...attributes });
}

// Lanes with marks on one logarithmic axis. lane: {label, sub, marks: [{kind, value | range, tip, cell}]}
function lanes(target, rows, options) {
  const narrow = widthOf(target) < options.left + 230;
  const height = options.laneHeight || 34;
  const left = narrow ? 8 : options.left;
  const top = 6;
  const step = narrow ? height + 16 : height;
  const bottom = top + rows.length * step;
  const [made, width] = canvas(target, bottom + 42, options.label);
  const scale = log(options.from, options.to, left + 6, width - 14);
  vertical(made, logTicks(options.from, options.to, !narrow && options.dense), scale, top, bottom, options.text);
  made.append(svg("text", { x: (left + width) / 2, y: bottom + 37, "text-anchor": "middle", class: "soft" }, options.axis));
  rows.forEach((row, at) => {
    const y = top + at * step + (narrow ? step - height / 2 : step / 2);
    if (at) made.append(svg("line", { x1: 0, x2: width, y1: top + at * step, y2: top + at * step, class: "grid" }));
    const label = svg("text", narrow ? { x: 0, y: y - height / 2 + 2 } : { x: 0, y: y + 4 });
    label.append(svg("tspan", { "font-weight": 600 }, row.label));
    if (row.sub) label.append(svg("tspan", { class: "soft", dx: 7 }, row.sub));
    made.append(label);
    for (const mark of row.marks) made.append(laneMark(mark, scale, y));
  });
}

function laneMark(mark, scale, y) {
  const colour = `var(--${mark.kind})`;
  if (mark.range) {
    const [from, to] = mark.range.map(scale);
    const shape = svg("rect", { x: from - 4, width: Math.max(8, to - from + 8), y: y - 10, height: 20, rx: 5, fill: colour, opacity: 0.4 });
    return marked(shape, mark.tip);
  }
  const x = scale(mark.value);
  if (mark.shape === "tick") return marked(svg("rect", { x: x - 1.5, width: 3, y: y - 15, height: 30, fill: "var(--ink)" }), mark.tip);
  if (mark.shape === "diamond") {
    return marked(diamond(x, y + (mark.shift || 0), 8, { fill: "none", stroke: colour, "stroke-width": 2 }), mark.tip, mark.cell);
  }
  return marked(svg("circle", { cx: x, cy: y + (mark.shift || 0), r: 6, fill: colour, stroke: "var(--card)", "stroke-width": 1.5 }), mark.tip, mark.cell);
}

// A run's bars, stacked within a process where they overlap.
function timeline(target, cell, options = {}) {
  const calls = cell.calls.map((call, index) => ({ ...call, index }));
  const serving = cell.service_ms / 1000;
  for (const call of calls) {
    call.to = call.end_s;
    call.from = Math.max(call.start_s, call.to - serving);
  }
  const byPid = Map.groupBy ? Map.groupBy(calls, (call) => call.worker_pid) : grouped(calls, (call) => call.worker_pid);
  const packed = [];
  for (const [pid, own] of [...byPid].sort((a, b) => Math.min(...a[1].map((c) => c.from)) - Math.min(...b[1].map((c) => c.from)))) {
    const rows = [];
    if (cell.workload === "hold-gil") oneByOne(own, serving);
    for (const call of own.sort((a, b) => a.from - b.from)) {
      // A bar is drawn from its end backwards: rounding lets neighbours overlap by a hair.
      const free = rows.find((row) => row.at(-1).to <= call.from + Math.max(0.003, serving * 0.1));
      if (free) free.push(call);
      else rows.push([call]);
    }
    packed.push({ pid, rows });
  }
  const lines = packed.reduce((sum, one) => sum + one.rows.length, 0);
  const threads = new Set(calls.map((call) => call.thread)).size;
  const each = Math.max(1.6, Math.min(16, (options.height || 190) / lines));
  const gap = packed.length > 1 && each > 5 ? 2 : 0;
  const plot = Math.max(34, lines * each + packed.length * gap);
  const left = packed.length <= 16 ? 66 : 78;
  const [made, width] = canvas(target, plot + 42, `timeline of ${cell.cell}`);
  const end = Math.max(...calls.map((call) => call.end_s));
  const scale = linear(0, end, left, width - 10);
  vertical(made, ticks(0, end, width > 600 ? 8 : 5), scale, 0, plot + 4, tickText);
  made.append(svg("text", { x: 0, y: 11, class: "soft" }, packed.length === 1 ? "1 process" : packed.length > 16 ? String(packed.length) : ""));
  if (packed.length > 16) made.append(svg("text", { x: 0, y: 26, class: "soft" }, "processes"));
  let y = 0;
  for (const { pid, rows } of packed) {
    if (packed.length > 1 && packed.length <= 16) {
      made.append(svg("text", { x: left - 7, y: y + (rows.length * each) / 2 + 4, "text-anchor": "end", class: "soft" }, pid ? String(pid) : "unknown"));
    }
    for (const row of rows) {
      for (const call of row) made.append(bar(call, scale, y, each, threads, cell));
      y += each;
    }
    y += gap;
  }
}

// With one lock only one call runs at a time: an answer that left later than it was ready waited for the lock again.
function oneByOne(calls, serving) {
  let next = Infinity;
  for (const call of calls.sort((a, b) => b.end_s - a.end_s)) {
    call.to = Math.min(call.end_s, next);
    call.from = Math.max(call.start_s, call.to - serving);
    next = call.from;
  }
}

function grouped(list, key) {
  const found = new Map();
  for (const one of list) found.set(key(one), [...(found.get(key(one)) || []), one]);
  return found;
}

function bar(call, scale, y, height, threads, cell) {
  const x = scale(call.from);
  const wide = Math.max(2, scale(call.to) - x - 0.6);
  const hue = Math.round((call.thread / threads) * 330 + 205) % 360;
  const shade = call.outcome === "ok" ? `hsl(${hue} 58% ${call.index % 2 ? 50 : 57}%)` : "var(--bad)";
  const shape = svg("rect", { x, y: y + 0.3, width: wide, height: Math.max(1, height - 0.6), fill: shade });
  const took = seconds(call.end_s - call.start_s);
  return marked(shape, `client thread ${call.thread}: called at ${seconds(call.start_s)}, answered after ${took}\nprocess ${call.worker_pid || "unknown"}: ${call.outcome}`, cell.cell);
}

// Lines of "which part had its answer after so long". lines: {name, colour, dashed, values, cell}
function distribution(target, drawn, options) {
  const height = 300;
  const [made, width] = canvas(target, height, options.label);
  const every = drawn.flatMap((line) => line.values);
  const from = Math.min(...every) * 0.85;
  const to = Math.max(...every) * 1.15;
  const x = log(from, to, 44, width - 14);
  const y = linear(0, 1, height - 44, 10);
  const marks = logTicks(from, to, true);
  vertical(made, marks.length > 2 ? marks : ticks(from, to, 6), x, 10, height - 44, tickText);
  horizontal(made, [0, 0.25, 0.5, 0.75, 1], y, 44, width - 14, (value) => `${value * 100} %`);
  made.append(svg("text", { x: width / 2, y: height - 6, "text-anchor": "middle", class: "soft" }, "from call to answer"));
  for (const line of drawn) {
    const sorted = [...line.values].sort((a, b) => a - b);
    let path = `M${x(sorted[0])} ${y(0)}`;
    sorted.forEach((value, at) => { path += `H${x(value).toFixed(1)}V${y((at + 1) / sorted.length).toFixed(1)}`; });
    const tip = `${line.name}: half within ${seconds(sorted[Math.floor((sorted.length - 1) / 2)])}, all within ${seconds(sorted.at(-1))}`;
    made.append(svg("path", { d: path, fill: "none", stroke: line.colour, "stroke-width": 2, "stroke-dasharray": line.dashed ? "5 4" : "none" }));
    made.append(marked(svg("path", { d: path, fill: "none", stroke: "transparent", "stroke-width": 11 }), tip, line.cell));
  }
}

// Points on two axes. points: {x, y, colour, tip, cell, label}
function scatter(target, points, options) {
  const height = options.height || 340;
  const [made, width] = canvas(target, height, options.label);
  const kind = options.log ? log : linear;
  const x = kind(options.x[0], options.x[1], 58, width - 16);
  const y = kind(options.y[0], options.y[1], height - 46, 12);
  const marks = (range, about) => (options.log ? logTicks(range[0], range[1], true) : ticks(range[0], range[1], about));
  vertical(made, marks(options.x, 6), x, 12, height - 46, options.xText);
  horizontal(made, marks(options.y, 6), y, 58, width - 16, options.yText);
  made.append(svg("text", { x: (58 + width) / 2, y: height - 8, "text-anchor": "middle", class: "soft" }, options.xAxis));
  made.append(svg("text", { x: 0, y: 0, transform: `translate(12 ${height / 2 - 20}) rotate(-90)`, "text-anchor": "middle", class: "soft" }, options.yAxis));
  if (options.under) options.under(made, x, y);
  for (const point of points) {
    made.append(marked(svg("circle", { cx: x(point.x), cy: y(point.y), r: point.r || 5, fill: point.colour, "fill-opacity": 0.8, stroke: "var(--card)" }), point.tip, point.cell));
    if (point.label) {
      const nearEnd = x(point.x) > width - 110;
      made.append(svg("text", { x: x(point.x) + (nearEnd ? -10 : 10), y: y(point.y) + (nearEnd ? -10 : 4), "text-anchor": nearEnd ? "end" : "start", "font-weight": 600 }, point.label));
    }
  }
}
