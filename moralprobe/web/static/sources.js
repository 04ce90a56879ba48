// What steers: a list of sources, each with its strength as a slider, a number and a way back.
const RANGE = {
  add: [-0.5, 0.5, 0.01, 0.1],
  "project-out": [0, 1, 0.01, 1], // 1 takes all of it away
  cap: [0, 1, 0.01, 1], // 1 takes all away that is over the bound
  features: [-2, 2, 0.05, 1],
  intervention: [-2, 2, 0.05, 1],
};
let count = 0;

function field(line, label, made) {
  made.id = `source-${++count}`;
  const name = document.createElement("label");
  name.htmlFor = made.id;
  name.textContent = label;
  line.append(name, made);
  return made;
}

function choice(values) {
  const made = document.createElement("select");
  for (const value of values) made.append(Object.assign(document.createElement("option"), { textContent: value, value }));
  return made;
}

function number(value, properties) {
  return Object.assign(document.createElement("input"), { type: "number", step: "any", value, required: true, ...properties });
}

export class Sources {
  constructor(place, about, aboutFeature) {
    this.place = place;
    this.about = about;
    this.aboutFeature = aboutFeature;
    this.rows = [];
    place.replaceChildren();
  }

  add(kind, given = {}) {
    if (this.rows.length >= this.about.limits.sources) return false;
    const group = Object.assign(document.createElement("fieldset"), { className: "source" });
    const box = Object.assign(document.createElement("div"), { className: "grid" });
    const legend = document.createElement("legend");
    legend.textContent = { direction: "A direction", features: "Features", intervention: "A fitted intervention" }[kind];
    group.append(legend, box);
    let parts, method = null;
    const offers = []; // once the fields are on the page
    if (kind === "direction") {
      const target = field(box, "Direction to", choice(this.about.targets));
      if (given.target) target.value = given.target;
      const layer = field(box, "Layer", number(given.layer ?? Math.floor(this.about.layers / 2), { min: 0, max: this.about.layers - 1, step: 1 }));
      method = field(box, "Method", choice(["add", "project-out", "cap"]));
      if (given.method) method.value = given.method;
      const bound = field(box, "Bound, in its lengths", number(given.bound ?? 0, { min: -10, max: 10 }));
      const offer = () => {
        for (const one of [bound, ...bound.labels]) one.hidden = method.value !== "cap";
        bound.disabled = method.value !== "cap"; // what isn't seen mustn't be wrong
      };
      method.addEventListener("change", offer);
      offers.push(offer);
      parts = () => ({ target: target.value, layer: Number(layer.value), method: method.value, ...(method.value === "cap" ? { bound: Number(bound.value) } : {}) });
    } else if (kind === "features" && given.changes?.length > 1) {
      legend.textContent = `${given.changes.length} features`;
      parts = () => ({ changes: given.changes });
    } else if (kind === "features") {
      if (given.changes) Object.assign(given, given.changes[0]);
      const feature = field(box, "Feature", number(given.feature ?? 0, { min: 0, max: this.about.features - 1, step: 1 }));
      const scale = field(box, "times", number(given.scale ?? 1, {}));
      const offset = field(box, "plus", number(given.offset ?? 5, {}));
      const known = Object.assign(document.createElement("button"), { type: "button", textContent: "About it" });
      known.addEventListener("click", () => this.aboutFeature(Number(feature.value)));
      box.append(known, document.createElement("span"));
      parts = () => ({ changes: [{ feature: Number(feature.value), scale: Number(scale.value), offset: Number(offset.value) }] });
    } else {
      const name = field(box, "Intervention", choice(this.about.interventions));
      if (given.name) name.value = given.name;
      parts = () => ({ name: name.value });
    }
    const slider = field(box, "Strength", Object.assign(document.createElement("input"), { type: "range" }));
    const exact = field(box, "as a number", number(0, { min: -this.about.limits.strength, max: this.about.limits.strength }));
    const range = (strength) => {
      const [low, high, step, usual] = RANGE[method ? method.value : kind];
      Object.assign(slider, { min: low, max: high, step });
      exact.value = strength ?? usual;
      slider.value = exact.value;
    };
    range(given.strength);
    method?.addEventListener("change", () => range());
    slider.addEventListener("input", () => { exact.value = slider.value; });
    exact.addEventListener("input", () => { slider.value = exact.value; });
    const reset = Object.assign(document.createElement("button"), { type: "button", textContent: "Reset to 0" });
    reset.addEventListener("click", () => { exact.value = 0; slider.value = 0; });
    const remove = Object.assign(document.createElement("button"), { type: "button", textContent: "Remove" });
    const row = { value: () => ({ kind, ...parts(), strength: Number(exact.value) }) };
    remove.addEventListener("click", () => {
      this.rows = this.rows.filter((one) => one !== row);
      group.remove();
      document.querySelector("[data-add]:enabled")?.focus();
    });
    box.append(reset, remove);
    this.rows.push(row);
    this.place.append(group);
    for (const offer of offers) offer();
    return true;
  }

  value() {
    return this.rows.map((row) => row.value());
  }

  set(values) {
    this.rows = [];
    this.place.replaceChildren();
    for (const value of values) this.add(value.kind, { ...value });
  }
}
