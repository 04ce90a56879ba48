// The ten categories and a sentence: in the plane of their directions, as curves over layers, in numbers.
const SVG = "http://www.w3.org/2000/svg";
const MODES = ["audited", "li2026"];

function shape(name, attributes, text = "") {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  return made;
}

export function drawMap(svg, map, poles) {
  const [x, y] = [(point) => point[0], (point) => -point[1]];
  const parts = [
    shape("line", { x1: -1.1, x2: 1.1, y1: 0, y2: 0, class: "axis" }),
    shape("line", { y1: -1.1, y2: 1.1, x1: 0, x2: 0, class: "axis" }),
  ];
  map.poles.forEach((point, i) => {
    if (point === null) return;
    parts.push(shape("circle", { cx: x(point), cy: y(point), r: 0.018 }));
    const end = x(point) > 0.75;
    parts.push(shape("text", { x: x(point) + (end ? -0.03 : 0.03), y: y(point) + 0.02, "text-anchor": end ? "end" : "start" }, poles[i]));
  });
  if (map.before && map.after) parts.push(shape("line", { x1: x(map.before), y1: y(map.before), x2: x(map.after), y2: y(map.after), class: "way" }));
  for (const when of ["before", "after"]) {
    if (!map[when]) continue;
    const point = shape("circle", { cx: x(map[when]), cy: y(map[when]), r: 0.03, class: when });
    point.append(shape("title", {}, when === "before" ? "the sentence as it is" : "the sentence, steered"));
    parts.push(point);
  }
  svg.replaceChildren(svg.querySelector("title"), ...parts);
}

const PANEL = 150, TOP = 14, BOTTOM = 112; // of the curves' 320 by 132

// A panel a mode: every pole's likeness by layer, the one that is marked before and after.
export function drawCurves(svg, placed, layer, marked) {
  const last = placed.sink_ratio.length - 1;
  const times = placed.after ? ["before", "after"] : ["before"];
  const values = times.flatMap((when) => MODES.flatMap((mode) => placed[when][mode].flat())).filter((value) => value !== null);
  const most = Math.max(0.1, ...values.map(Math.abs));
  const parts = [];
  MODES.forEach((mode, panel) => {
    const left = 10 + panel * (PANEL + 8);
    const x = (at) => left + (PANEL - 8) * (last ? at / last : 0.5);
    const y = (value) => (TOP + BOTTOM) / 2 - value / most * (BOTTOM - TOP) / 2;
    const line = (when, pole, name) => {
      const points = placed[when][mode].map((row) => row[pole]);
      const begins = (at) => at === 0 || points[at - 1] === null; // a line doesn't bridge what is missing
      const d = points.map((value, at) => (value === null ? "" : `${begins(at) ? "M" : "L"}${x(at).toFixed(1)} ${y(value).toFixed(1)}`)).join("");
      if (d) parts.push(shape("path", { d, class: name }));
    };
    const half = (PANEL - 8) / Math.max(1, last) / 2;
    for (const at of placed.sinks) parts.push(shape("rect", { x: x(at) - half, y: BOTTOM, width: 2 * half, height: 3, class: "sink" }));
    parts.push(shape("line", { x1: left, x2: left + PANEL - 8, y1: y(0), y2: y(0), class: "axis" }));
    parts.push(shape("line", { x1: x(layer), x2: x(layer), y1: TOP, y2: BOTTOM, class: "axis" }));
    placed.poles.forEach((_, pole) => { if (pole !== marked) line("before", pole, "other"); });
    if (marked >= 0) for (const when of times) line(when, marked, when);
    parts.push(shape("text", { x: left, y: 9 }, `${mode}: ${placed.poles[marked] ?? ""}, ${(-most).toFixed(2)} to ${most.toFixed(2)}`));
    parts.push(shape("text", { x: left, y: 124 }, "layer 0"), shape("text", { x: left + PANEL - 8, y: 124, "text-anchor": "end" }, `${last}`));
  });
  svg.replaceChildren(svg.querySelector("title"), ...parts);
}

// A head and a row a pole: likeness before and, where something steers, after, in both modes.
export function likenessRows(placed, layer) {
  const times = placed.after ? ["before", "after"] : ["before"];
  const columns = MODES.flatMap((mode) => times.map((when) => [mode, when]));
  const said = (value) => value === null ? "no text" : value.toFixed(2);
  return [
    ["pole", ...columns.map(([mode, when]) => placed.after ? `${mode}, ${when}` : mode)],
    ...placed.poles.map((pole, i) => [pole, ...columns.map(([mode, when]) => said(placed[when][mode][layer][i]))]),
  ];
}
