// The ten categories and a sentence in the plane of their directions, and the likeness in numbers.
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
