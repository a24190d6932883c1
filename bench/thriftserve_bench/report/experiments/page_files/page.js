"use strict";
// What the page does: raw calls and derived rows in, charts, traces and the reader's case out.

const run = JSON.parse(document.getElementById("raw").textContent);
const told = JSON.parse(document.getElementById("derived").textContent);
const SIDE_NAMES = { ours: "ours", apache: "Apache" };
const cells = new Map();
for (const outcome of run.outcomes) {
  const calls = outcome.calls.map((call) => Object.fromEntries(run.call_fields.map((name, at) => [name, call[at]])));
  cells.set(outcome.cell, { ...outcome, calls });
}
const rows = new Map(told.rows.map((row) => [row.id, row]));

const chosen = (name) => document.querySelector(`input[name="${name}"]:checked`)?.value;
const elapsed = (cell) => (cell.failure || !cell.calls.length ? null : Math.max(...cell.calls.map((call) => call.end_s)));
const typeColour = (name) => `var(--t${Math.max(0, [...new Set(told.rows.map((row) => row.server_type))].indexOf(name)) % 7})`;
const rowOf = (cell) => rows.get(`${cell.pattern}/${cell.server_type}/${cell.workload}`);

function patternText(name) {
  const pattern = told.patterns[name];
  const each = `${pattern.calls_per_thread} call${pattern.calls_per_thread > 1 ? "s" : ""}`;
  if (pattern.threads === 1) return `1 client, ${each}`;
  return pattern.shared_client ? `${pattern.threads} threads × ${each}, one connection` : `${pattern.threads} clients × ${each}`;
}

function measuredMarks(row, unit) {
  const marks = [];
  for (const side of ["apache", "ours"]) {
    const cell = cells.get(row.cells[side]);
    const value = cell && elapsed(cell);
    if (!value) continue;
    const shift = side === "ours" ? -7 : 7;
    marks.push({ kind: side, value: value / unit, shift, cell: cell.cell, tip: `${row.server_type}, ${SIDE_NAMES[side]}: ${seconds(value)} measured\npress for its ${cell.calls.length} calls` });
  }
  return marks;
}

function drawHeadline(target) {
  const list = told.headline.map((id) => rows.get(id)).filter((row) => row.service_s > 0);
  const service = told.published_service_s;
  const drawn = list.map((row) => {
    const [low, high, text] = row.published;
    return {
      label: row.name,
      sub: `${patternText(row.pattern)} · ${row.name < "2" ? "any type" : row.server_type}`,
      marks: [
        { kind: "published", range: [low / service, high / service], tip: `published: ${text}` },
        { shape: "tick", value: row.ideal_s / row.service_s, tip: `ideal here: ${seconds(row.ideal_s)}, ${row.at_once} at a time` },
        { kind: "model", shape: "diamond", value: row.predicted_published_s / service, tip: `simulated for 64 cores: ${seconds(row.predicted_published_s)}` },
        ...measuredMarks(row, row.service_s),
      ],
    };
  });
  if (!drawn.length) return;
  const most = Math.max(...drawn.flatMap((row) => row.marks.map((mark) => mark.value || mark.range[1])));
  target.append(legend([["published", "published", "bar"], ["model", "simulated for the published machine", "dia"], ["ink", "ideal", "tick"], ["ours", "measured here: ours"], ["apache", "measured here: Apache"]]));
  lanes(target, drawn, { left: 390, from: 0.8, to: most * 1.2, dense: true, text: (value) => `${value} ×`, axis: "time of 100 calls, in times of one call", label: "published and measured", laneHeight: 38 });
}

function drawPanels(target) {
  const work = chosen("workload");
  const own = told.rows.filter((row) => row.workload === work);
  const values = own.flatMap((row) => [row.ideal_s, ...Object.values(row.cells).map((id) => elapsed(cells.get(id)))]).filter((value) => value > 0);
  if (!values.length) return;
  // All panels take their places first: their width is known only then.
  const later = [];
  for (const pattern of Object.keys(told.patterns)) {
    const list = own.filter((row) => row.pattern === pattern).sort(byType);
    if (!list.length) continue;
    const panel = html("div", { class: "panel" }, html("h3", {}, patternText(pattern)));
    target.append(panel);
    const drawn = list.map((row) => ({ label: row.server_type, marks: [
      { shape: "tick", value: row.ideal_s, tip: `ideal: ${seconds(row.ideal_s)}` },
      ...Object.entries(row.predicted_s).filter(([side, value]) => value && row.cells[side]).map(([side, value]) => ({ kind: "model", shape: "diamond", value, shift: side === "ours" ? -7 : 7, tip: `simulated, ${SIDE_NAMES[side]}: ${seconds(value)}`, cell: row.cells[side] })),
      ...measuredMarks(row, 1),
    ] }));
    later.push(() => lanes(panel, drawn, { left: 150, from: Math.min(...values) * 0.8, to: Math.max(...values) * 1.3, text: tickText, axis: "", label: pattern, laneHeight: 34, dense: false }));
  }
  for (const make of later) make();
  target.prepend(legend([["ours", "ours"], ["apache", "Apache"], ["ink", "ideal", "tick"], ["model", "simulated", "dia"]]));
  target.firstChild.style.gridColumn = "1 / -1";
}

function byType(one, other) {
  const order = ["TSimpleServer", "TThreadedServer", "TThreadPoolServer", "TNonblockingServer", "TForkingServer", "TProcessPoolServer", "TBatchingServer"];
  return order.indexOf(one.server_type) - order.indexOf(other.server_type);
}

function drawTimelines(target) {
  const work = chosen("workload");
  const side = chosen("side");
  const wanted = told.rows.filter((row) => row.workload === work && row.published && (row.name > "1b" || told.headline.includes(row.id)));
  const list = wanted.length ? wanted : told.rows.filter((row) => row.workload === work && row.pattern === "ten");
  const later = [];
  for (const row of list) {
    const cell = cells.get(row.cells[side]);
    if (!cell || !cell.calls.length || cell.failure) continue;
    const head = row.published && row.name < "2" ? patternText(row.pattern) : `${row.server_type}, ${patternText(row.pattern)}`;
    const panel = html("div", { class: "panel link", tabindex: 0, role: "button", "data-cell": cell.cell }, html("h3", {}, `${row.name} · ${head}`), html("p", {}, `${seconds(elapsed(cell))}, ideal ${seconds(row.ideal_s)}. ${row.why}`));
    target.append(panel);
    later.push(() => timeline(panel, cell));
  }
  for (const make of later) make();
  if (!target.children.length) target.append(html("p", { class: "note" }, "Nothing of this side was measured."));
}

function drawLatencies(target) {
  const work = chosen("workload");
  const pattern = chosen("latency-pattern");
  const list = told.rows.filter((row) => row.workload === work && row.pattern === pattern).sort(byType);
  const drawn = [];
  for (const row of list) {
    for (const [side, id] of Object.entries(row.cells)) {
      const cell = cells.get(id);
      if (cell.failure || !cell.calls.length) continue;
      drawn.push({ name: `${row.server_type}, ${SIDE_NAMES[side]}`, colour: typeColour(row.server_type), dashed: side === "apache", values: cell.calls.map((call) => call.end_s - call.start_s), cell: id });
    }
  }
  if (!drawn.length) return;
  target.append(legend([...list.map((row) => [null, row.server_type, "", typeColour(row.server_type)])]));
  target.firstChild.append(html("span", {}, "solid: ours, dashed: Apache"));
  distribution(target, drawn, { label: "distribution of latencies" });
}

function legend(entries) {
  const made = html("div", { class: "legend" });
  for (const [name, text, shape, colour] of entries) {
    const mark = html("b", { class: shape || "", style: `background:${colour || `var(--${name})`}${name === "published" ? ";opacity:.45" : ""}` });
    made.append(html("span", {}, mark, text));
  }
  return made;
}

const median = (list) => [...list].sort((a, b) => a - b)[Math.floor((list.length - 1) / 2)];

function drawForks(target) {
  if (!run.fork_costs.length) return target.append(html("p", { class: "note" }, "Not measured in this run."));
  const points = run.fork_costs.map((cost) => {
    const special = cost.filled_with === "tensorflow";
    const x = cost.resident_bytes / 2 ** 20;
    const y = median(cost.fork_s) * 1000;
    const tip = `${x.toFixed(0)} MiB (${cost.filled_with}): ${y.toFixed(2)} ms, the middle of ${cost.fork_s.length}\n${cost.fork_s.map((one) => (one * 1000).toFixed(2)).join(", ")} ms`;
    return { x, y, tip, r: special ? 8 : 5, colour: special ? "var(--apache)" : "var(--ours)", label: special ? "TensorFlow" : "" };
  });
  const most = (name) => Math.max(...points.map((point) => point[name])) * 1.15;
  scatter(target, points, { x: [0, most("x")], y: [0, most("y")], xText: (value) => `${value}`, yText: (value) => `${value}`, xAxis: "MiB resident in the parent", yAxis: "ms for one fork()", label: "fork cost", height: 300 });
}

function drawPredicted(target) {
  const points = [];
  for (const row of told.rows) {
    for (const [side, id] of Object.entries(row.cells)) {
      const measured = elapsed(cells.get(id));
      const predicted = row.predicted_s[side];
      if (!measured || !predicted) continue;
      const off = ((predicted / measured - 1) * 100).toFixed(1);
      points.push({ x: measured, y: predicted, cell: id, colour: Math.abs(predicted / measured - 1) <= 0.15 ? `var(--${side})` : "var(--bad)", tip: `${id}\nmeasured ${seconds(measured)}, simulated ${seconds(predicted)} (${off} %)` });
    }
  }
  if (!points.length) return target.append(html("p", { class: "note" }, "Nothing that could be simulated."));
  const every = points.flatMap((point) => [point.x, point.y]);
  const range = [Math.min(...every) / 1.4, Math.max(...every) * 1.4];
  target.append(legend([["ours", "ours"], ["apache", "Apache"], ["bad", "further off than 15 %"]]));
  scatter(target, points, { log: true, x: range, y: range, xText: tickText, yText: tickText, xAxis: "measured", yAxis: "simulated", label: "simulated against measured",
    under: (made, x, y) => {
      const [a, b] = range;
      const clip = (value) => Math.min(b, Math.max(a, value));
      made.append(svg("path", { d: `M${x(a)} ${y(clip(a * 0.85))}L${x(clip(b))} ${y(b * 0.85)}L${x(clip(b / 1.15))} ${y(b)}L${x(a)} ${y(a * 1.15)}Z`, fill: "var(--model)", opacity: 0.14 }));
      made.append(svg("line", { x1: x(a), y1: y(a), x2: x(b), y2: y(b), stroke: "var(--model)", "stroke-dasharray": "4 4" }));
    } });
}

// The reader's case.
function answer() {
  const key = ["work", "service_ms", "clients", "cores", "processes", "parent"].map(chosen).join("|");
  const [winner, size, reason, times] = told.advice.answers[key];
  const target = document.getElementById("answer");
  const bars = html("div", { class: "bars" });
  const most = Math.max(...times.filter((time) => time !== null));
  const order = times.map((time, at) => ({ time, name: told.advice.types[at] })).sort((a, b) => (a.time ?? 1e9) - (b.time ?? 1e9));
  for (const { time, name } of order) {
    const first = name === winner ? "first" : "";
    const bar = html("i", { class: first, style: `width:${time === null ? 0 : (time / most) * 100}%` });
    bars.append(html("span", { class: time === null ? "out" : first }, name), time === null ? html("span", { class: "out" }, "needs more processes than that") : bar, html("span", { class: first }, seconds(time)));
  }
  const name = html("p", { class: "winner" }, winner);
  if (size) name.append(html("code", { class: "size" }, size));
  target.replaceChildren(html("p", { class: "kicker" }, "Take"), name, html("p", {}, told.advice.reasons[reason]), bars, evidence());
}

function evidence() {
  const made = html("p", { class: "note" });
  const list = told.rows.filter((row) => row.workload === chosen("work") && row.pattern === chosen("clients") && row.cells.ours).sort(byType);
  const shown = list.filter((row) => elapsed(cells.get(row.cells.ours)));
  if (!shown.length) return html("p", { class: "note" }, "This kind of call was not measured in this run; the simulator speaks alone.");
  made.append(`Measured here with these clients and ${shown[0].service_s * 1000} ms a call: `);
  shown.forEach((row, at) => {
    const cell = cells.get(row.cells.ours);
    made.append(at ? ", " : "", `${row.server_type} `, html("button", { class: "trace", "data-cell": cell.cell, "data-kind": "elapsed", "data-value": elapsed(cell) }, seconds(elapsed(cell))));
  });
  made.append(".");
  return made;
}

// The calls behind a figure.
function open(id) {
  const cell = cells.get(id);
  const row = cell && rowOf(cell);
  const dialog = document.getElementById("cell");
  if (!row) return;
  const close = html("button", { class: "close" }, "Close");
  close.addEventListener("click", () => dialog.close());
  const value = elapsed(cell);
  const facts = html("ul");
  const pattern = told.patterns[cell.pattern];
  const fact = (text) => facts.append(html("li", {}, text));
  fact(`${SIDE_NAMES[cell.side]} ${cell.server_type}, ${patternText(cell.pattern)}; ${cell.workload} ${cell.service_ms} ms; workers ${cell.workers}, threads ${cell.threads}`);
  if (cell.failure) fact(`Not measured: ${cell.failure}`);
  if (value !== null) {
    fact(`Measured: the last of ${cell.calls.length} calls ended at ${value.toFixed(6)} s; the run recorded ${cell.elapsed_s.toFixed(6)} s`);
    fact(`Ideal: ${pattern.calls} calls, ${row.at_once} at a time, ${cell.service_ms} ms each = ${row.ideal_s.toFixed(3)} s; measured : ideal = ${(value / row.ideal_s).toFixed(3)}`);
    const predicted = row.predicted_s[cell.side];
    if (predicted) fact(`Simulated for this machine: ${predicted.toFixed(3)} s, ${((predicted / value - 1) * 100).toFixed(1)} % from measured`);
    const pids = new Set(cell.calls.map((call) => call.worker_pid).filter(Boolean));
    fact(`${pids.size || "unknown"} process${pids.size === 1 ? "" : "es"} answered; on average ${((cell.calls.length * cell.service_ms) / 1000 / value).toFixed(1)} calls were served at once`);
  }
  fact(`${run.machine.cpu}, ${run.machine.cores} cores; commit ${run.commit}; ${run.began}`);
  const picture = html("div", { class: "panel" });
  dialog.replaceChildren(close, html("h2", {}, id), facts, picture, callTable(cell));
  if (!dialog.open) dialog.showModal();
  if (value !== null) timeline(picture, cell, { height: 150 });
}

function callTable(cell) {
  const head = html("tr", {}, ...["#", "client thread", "start s", "end s", "took s", "outcome", "process"].map((text) => html("th", {}, text)));
  const body = html("tbody");
  cell.calls.forEach((call, at) => {
    const texts = [at + 1, call.thread, call.start_s.toFixed(6), call.end_s.toFixed(6), (call.end_s - call.start_s).toFixed(6), call.outcome, call.worker_pid || "unknown"];
    body.append(html("tr", {}, ...texts.map((text) => html("td", {}, String(text)))));
  });
  return html("div", { class: "wide" }, html("table", {}, html("thead", {}, head), body));
}

// Every figure in the tables once more, from the calls in this page.
function recheck() {
  const wrong = [];
  const seen = new Set();
  const figures = document.querySelectorAll("button.trace[data-value]");
  for (const figure of figures) {
    const cell = cells.get(figure.dataset.cell);
    seen.add(figure.dataset.cell);
    const row = cell && rowOf(cell);
    const value = cell && elapsed(cell);
    const expected = row && { elapsed: value, ratio: value / row.ideal_s, ideal: row.ideal_s, predicted: row.predicted_s[cell.side] }[figure.dataset.kind];
    if (!expected || Math.abs(expected - Number(figure.dataset.value)) > 1e-6) wrong.push(figure);
  }
  for (const figure of wrong) figure.classList.add("bad");
  const calls = [...seen].reduce((sum, id) => sum + (cells.get(id)?.calls.length || 0), 0);
  const note = document.getElementById("check");
  note.append(wrong.length ? ` ${wrong.length} figures of this page do not follow from its own calls; they are marked red.` : ` Your browser has just recomputed all ${figures.length} figures of the tables from ${calls.toLocaleString("en")} calls in this page: they agree.`);
  note.classList.toggle("bad", note.classList.contains("bad") || wrong.length > 0);
}

function patternChoice() {
  const target = document.getElementById("latency-pattern");
  const made = html("span", { class: "choice" });
  for (const name of Object.keys(told.patterns).filter((each) => told.rows.some((row) => row.pattern === each))) {
    const input = html("input", { type: "radio", name: "latency-pattern", value: name });
    input.checked = name === "hundred";
    made.append(html("label", {}, input, html("span", {}, patternText(name))));
  }
  target.append(made);
  if (!chosen("latency-pattern") && made.querySelector("input")) made.querySelector("input").checked = true;
}

const CHARTS = { headline: drawHeadline, panels: drawPanels, timelines: drawTimelines, latencies: drawLatencies, forks: drawForks, predicted: drawPredicted };

function draw() {
  for (const [id, make] of Object.entries(CHARTS)) {
    const target = document.getElementById(id);
    target.replaceChildren();
    make(target);
  }
  for (const row of document.querySelectorAll("table.full tr[data-workload]")) row.hidden = row.dataset.workload !== chosen("workload");
}

function showTip(event) {
  const tip = document.getElementById("tip");
  const text = event.target.dataset?.tip;
  tip.hidden = !text;
  if (!text) return;
  tip.textContent = text;
  tip.style.left = `${Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8)}px`;
  tip.style.top = `${Math.min(event.clientY + 16, innerHeight - tip.offsetHeight - 8)}px`;
}

function pressed(event) {
  const target = event.target.closest("[data-cell]");
  if (target && (event.type === "click" || event.key === "Enter") && !(event.type === "keydown" && target.tagName === "BUTTON")) open(target.dataset.cell);
}

patternChoice();
draw();
answer();
recheck();
document.addEventListener("click", pressed);
document.addEventListener("keydown", pressed);
document.addEventListener("pointermove", showTip);
document.addEventListener("change", (event) => (event.target.closest("#case") ? answer() : draw()));
let width = innerWidth;
addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; draw(); } });
if (location.hash.startsWith("#cell=")) open(decodeURIComponent(location.hash.slice(6)));
