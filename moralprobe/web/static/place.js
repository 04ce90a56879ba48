// Where a sentence lies: what was answered, at the layer and for the pole that are looked at.
import { at, element, failed } from "./dom.js";
import { drawCurves, drawMap, likenessRows } from "./map.js";
import { ask } from "./wire.js";

let placed = null;
let study = null;
let asked = null;
let chosen = false; // the pole, by hand

export function choose() {
  chosen = true;
  showPlace();
}

export function showPlace() {
  const layer = Number(at("layer").value);
  at("layer-said").textContent = layer;
  const sink = placed.sink_ratio[layer];
  const share = placed.maps[layer].share;
  const byStudy = study?.confounded.includes(layer) ? [`By the study ${study.name}, length explains what li2026 shows in this layer.`] : [];
  at("place-said").replaceChildren(
    element("span", `Of "${asked.sentence}", ${asked.sources.length ? `with ${asked.sources.length} that steer` : "with nothing that steers"}. Centres of ${placed.texts} texts. The map holds ${Math.round(100 * share)} % of their directions. Token 0 is ${sink.toFixed(1)} times as large as the others here. `),
    ...[...placed.warnings, ...byStudy].map((warning) => element("strong", `${warning} `, { className: "warning" })),
  );
  drawMap(at("map"), placed.maps[layer], placed.poles);
  drawCurves(at("curves"), placed, layer, placed.poles.indexOf(at("shown").value));
  const [head, ...rows] = likenessRows(placed, layer);
  const line = (cells, scope) => {
    const row = document.createElement("tr");
    row.append(...cells.map((cell, i) => (scope === "col" || i === 0 ? element("th", cell, { scope }) : element("td", cell))));
    return row;
  };
  at("likeness").tHead.replaceChildren(line(head, "col"));
  at("likeness").tBodies[0].replaceChildren(...rows.map((cells) => line(cells, "row")));
}

export async function locate(about, steers) {
  at("error").textContent = "";
  at("locate").disabled = true;
  try {
    const request = { sentence: at("sentence").value, sources: steers };
    placed = await ask("/api/place", request);
    asked = request;
    study = about.study;
    at("layer").max = about.layers - 1;
    if (at("placed").hidden) at("layer").value = Math.floor(about.layers / 2);
    if (at("placed").hidden) at("shown").replaceChildren(...placed.poles.map((pole) => element("option", pole)));
    if (!chosen) {
      const here = placed.before.audited[at("layer").value].map((value) => value ?? -Infinity);
      at("shown").selectedIndex = here.indexOf(Math.max(...here));
    }
    at("placed").hidden = false;
    showPlace();
  } catch (error) {
    failed(error);
  } finally {
    at("locate").disabled = false;
  }
}
