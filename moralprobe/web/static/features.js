// Features: which fire on a text, which are found by their texts, and what is known of one.
import { at, element, failed, largest, shade } from "./dom.js";
import { ask } from "./wire.js";

export async function whatFires(about, steerWith) {
  at("error").textContent = "";
  try {
    const request = { text: at("prompt").value };
    if (about.chat) request.chat = at("chat").checked;
    const found = await ask("/api/fires", request);
    const spans = found.tokens.map((text, i) => element("span", text, { className: found.left_out[i] ? "out" : "" }));
    at("tokens").replaceChildren(...spans);
    const shadeBy = (fired) => spans.forEach((span, i) => {
      shade(span, fired.largest ? Math.max(0, fired.activations[i]) / fired.largest : 0);
      span.title = fired.activations[i].toFixed(2);
    });
    const inWords = (fired) => {
      at("fired-said").textContent = `Feature ${fired.feature} is most active at ${largest(fired.activations, found.tokens)}.`;
    };
    at("fired").replaceChildren(...found.features.map((fired, i) => {
      const choice = element("input", "", { type: "radio", name: "fired", checked: i === 0 });
      choice.addEventListener("change", () => { shadeBy(fired); inWords(fired); });
      const add = element("button", "steer with it", { type: "button", ariaLabel: `steer with feature ${fired.feature}` });
      add.addEventListener("click", () => steerWith(fired.feature, fired.largest));
      const label = document.createElement("label");
      label.append(choice, ` ${fired.feature}${fired.pole ? ` (${fired.pole})` : ""}: ${fired.largest.toFixed(2)} `);
      const line = element("div", "", { className: "line" });
      line.append(label, add, aboutIt(fired.feature));
      return line;
    }));
    if (found.features.length) { shadeBy(found.features[0]); inWords(found.features[0]); }
    else at("fired-said").textContent = "Nothing fires on it.";
    at("heat").hidden = false;
  } catch (error) {
    failed(error);
  }
}

let searches = 0;

export async function search(steerWith) {
  const mine = ++searches;
  const chosen = new URLSearchParams({ query: at("query").value, most: 30 });
  if (at("pole").value) chosen.set("pole", at("pole").value);
  try {
    const found = await ask(`/api/features?${chosen}`);
    if (mine !== searches) return; // a later question has been asked
    at("error").textContent = "";
    at("found-said").textContent = `${found.features.length} of ${found.of} features.`;
    at("found").replaceChildren(...found.features.map((one) => {
      const item = document.createElement("li");
      const add = element("button", `steer with ${one.feature}`, { type: "button" });
      add.addEventListener("click", () => steerWith(one.feature, 5));
      const what = !one.chosen ? "not chosen" : one.holds ? `${one.pole}, and it holds on held-out texts` : `${one.pole}, which doesn't hold on held-out texts`;
      item.append(add, " ", aboutIt(one.feature), ` ${what}`, ...one.texts.slice(0, 3).map((text) => element("div", text, { className: "small" })));
      return item;
    }));
  } catch (error) {
    failed(error);
  }
}

function aboutIt(feature) {
  const made = element("button", "about it", { type: "button", ariaLabel: `about feature ${feature}` });
  made.addEventListener("click", () => aboutFeature(feature));
  return made;
}

export async function aboutFeature(feature) {
  at("error").textContent = "";
  try {
    const found = await ask("/api/feature", { feature });
    const tokens = (name, some) => element("p", `${name}: ${some.map((one) => JSON.stringify(one)).join(", ")}`);
    at("feature-name").textContent = found.pole ? `Feature ${found.feature}: ${found.pole}` : `Feature ${found.feature}`;
    at("feature-said").textContent = found.said ?? "No table of features was given: only its direction is known.";
    at("feature-numbers").tBodies[0].replaceChildren(...found.numbers.map(({ name, value }) => {
      const row = document.createElement("tr");
      row.append(element("th", name, { scope: "row" }), element("td", value));
      return row;
    }));
    at("feature-tokens").replaceChildren(tokens("Promotes", found.raised), tokens("Demotes", found.lowered));
    at("feature-texts").replaceChildren(...found.texts.map((text) => element("li", text)));
    at("feature").hidden = false;
    at("feature-name").focus();
  } catch (error) {
    failed(error);
  }
}
