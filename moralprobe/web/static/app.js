// The page: what is chosen becomes one request, and what comes back is shown as text, never as HTML.
import { copyOf } from "./copy.js";
import { differing } from "./differ.js";
import { drawMap, likenessRows } from "./map.js";
import { Sources } from "./sources.js";
import { stream, ask, hasToken, setToken } from "./wire.js";

const at = (id) => document.getElementById(id);
const SIDES = ["default", "steered"];
const NUMBERS = ["max_tokens", "temperature", "top_p", "seed"];
let about = null;
let sources = null;
let running = null;
let last = null;

function element(name, text, properties = {}) {
  const made = Object.assign(document.createElement(name), properties);
  made.textContent = text;
  return made;
}

function asked() {
  const found = { prompt: at("prompt").value, sources: sources.value(), positions: at("positions").value };
  if (about.chat) found.chat = at("chat").checked;
  for (const name of NUMBERS) found[name] = Number(at(name).value);
  return found;
}

function restore(state) {
  at("prompt").value = state.prompt ?? "";
  at("chat").checked = about.chat && state.chat !== false;
  at("positions").value = state.positions ?? "all";
  for (const name of NUMBERS) if (state[name] !== undefined) at(name).value = state[name];
  sources.set(state.sources ?? []);
}

function fail(error) {
  at("error").textContent = [error.what, error.why, error.instead].filter(Boolean).join(". ");
}

// What a request met: the server's own words, or that it gave none.
function failed(error) {
  fail(error.failure ?? { what: "the server can't be reached", why: String(error.message) });
}

function busy(now) {
  // A button that is disabled while it has the focus loses it.
  if (now && document.activeElement === at("run")) { at("stop").disabled = false; at("stop").focus(); }
  if (!now && document.activeElement === at("stop")) { at("run").disabled = false; at("run").focus(); }
  at("run").disabled = now;
  at("stop").disabled = !now;
}

function show(done) {
  const [one, two] = SIDES.map((side) => done[side].text);
  const parts = { default: differing(one, two), steered: differing(two, one) };
  for (const side of SIDES) {
    at(side).replaceChildren(...parts[side].map(([text, own]) => element(own ? "mark" : "span", text)));
    const said = done[side];
    const surprise = said.perplexity === null ? "" : `, perplexity ${said.perplexity.toFixed(1)} under the model as it is`;
    const edits = side === "steered" ? `, ${said.edits} edits of ${(100 * said.change).toFixed(1)} % of a state` : "";
    at(`of-${side}`).textContent = `${said.tokens} tokens${surprise}${edits}`;
  }
  const mean = done.kl.length ? done.kl.reduce((a, b) => a + b) / done.kl.length : 0;
  const differs = done.same ? "Both texts are the same to the token." : "Underlined: words that the other text doesn't have there.";
  at("said").replaceChildren(element("span", `${differs} KL ${mean.toFixed(3)} nats a token. `));
  for (const warning of done.warnings) at("said").append(element("strong", `${warning} `, { className: "warning" }));
}

function remember(request, done) {
  last = { request, done };
  const button = element("button", `${request.prompt.slice(0, 60)} / ${request.sources.length} sources, seed ${request.seed}`, { type: "button" });
  button.addEventListener("click", () => { restore(request); show(done); last = { request, done }; });
  const item = document.createElement("li");
  item.append(button);
  at("history").prepend(item);
}

async function run() {
  if (running !== null || about === null || !at("form").reportValidity()) return;
  const request = asked();
  running = new AbortController();
  busy(true);
  at("error").textContent = "";
  at("said").textContent = "Writing.";
  let ended = false;
  for (const side of SIDES) { at(side).textContent = ""; at(`of-${side}`).textContent = ""; }
  try {
    for await (const [name, value] of stream("/api/steer", request, running.signal)) {
      if (name === "piece") at(value.side).append(value.text);
      else if (name === "done") { ended = true; show(value); remember(request, value); }
      else { ended = true; at("said").textContent = ""; fail(value); }
    }
    if (!ended) { at("said").textContent = ""; fail({ what: "the texts broke off", why: "the server ended the connection" }); }
  } catch (error) {
    at("said").textContent = running.signal.aborted ? "Stopped." : "";
    if (!running.signal.aborted) failed(error);
  } finally {
    running = null;
    busy(false);
  }
}

async function whatFires() {
  at("error").textContent = "";
  try {
    const request = { text: at("prompt").value };
    if (about.chat) request.chat = at("chat").checked;
    const found = await ask("/api/fires", request);
    const spans = found.tokens.map((text, i) => element("span", text, { className: found.left_out[i] ? "out" : "" }));
    at("tokens").replaceChildren(...spans);
    const shade = (fired) => spans.forEach((span, i) => {
      const part = fired.largest ? Math.max(0, fired.activations[i]) / fired.largest : 0;
      span.style.backgroundColor = `rgba(var(--heat), ${(0.55 * part).toFixed(3)})`;
      span.title = fired.activations[i].toFixed(2);
    });
    const inWords = (fired) => {
      const most = fired.activations.map((value, i) => [value, found.tokens[i]]).filter(([value]) => value > 0).sort((a, b) => b[0] - a[0]).slice(0, 5);
      at("fired-said").textContent = `Feature ${fired.feature} is most active at ${most.map(([value, token]) => `"${token}" (${value.toFixed(2)})`).join(", ")}.`;
    };
    at("fired").replaceChildren(...found.features.map((fired, i) => {
      const choice = element("input", "", { type: "radio", name: "fired", checked: i === 0 });
      choice.addEventListener("change", () => { shade(fired); inWords(fired); });
      const add = element("button", "steer with it", { type: "button", ariaLabel: `steer with feature ${fired.feature}` });
      add.addEventListener("click", () => sources.add("features", { feature: fired.feature, offset: fired.largest }));
      const label = document.createElement("label");
      label.append(choice, ` ${fired.feature}${fired.pole ? ` (${fired.pole})` : ""}: ${fired.largest.toFixed(2)} `);
      const line = element("div", "", { className: "line" });
      line.append(label, add);
      return line;
    }));
    if (found.features.length) { shade(found.features[0]); inWords(found.features[0]); }
    else at("fired-said").textContent = "Nothing fires on it.";
    at("heat").hidden = false;
  } catch (error) {
    failed(error);
  }
}

let placed = null;

function showPlace() {
  const layer = Number(at("layer").value);
  at("layer-said").textContent = layer;
  const sink = placed.sink_ratio[layer];
  const share = placed.maps[layer].share;
  at("place-said").replaceChildren(
    element("span", `Centres of ${placed.texts} texts. The map holds ${Math.round(100 * share)} % of their directions. Token 0 is ${sink.toFixed(1)} times as large as the others here. `),
    ...placed.warnings.map((warning) => element("strong", `${warning} `, { className: "warning" })),
  );
  drawMap(at("map"), placed.maps[layer], placed.poles);
  const [head, ...rows] = likenessRows(placed, layer);
  const line = (cells, scope) => {
    const row = document.createElement("tr");
    row.append(...cells.map((cell, i) => (scope === "col" || i === 0 ? element("th", cell, { scope }) : element("td", cell))));
    return row;
  };
  at("likeness").tHead.replaceChildren(line(head, "col"));
  at("likeness").tBodies[0].replaceChildren(...rows.map((cells) => line(cells, "row")));
}

async function locate() {
  at("error").textContent = "";
  at("locate").disabled = true;
  try {
    placed = await ask("/api/place", { sentence: at("sentence").value, sources: sources.value() });
    at("layer").max = about.layers - 1;
    if (at("placed").hidden) at("layer").value = Math.floor(about.layers / 2);
    at("placed").hidden = false;
    showPlace();
  } catch (error) {
    failed(error);
  } finally {
    at("locate").disabled = false;
  }
}

let searches = 0;
let typing = null;

async function search() {
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
      const add = element("button", `feature ${one.feature}`, { type: "button" });
      add.addEventListener("click", () => sources.add("features", { feature: one.feature, offset: 5 }));
      const what = !one.chosen ? "not chosen" : one.holds ? `${one.pole}, and it holds on held-out texts` : `${one.pole}, which doesn't hold on held-out texts`;
      item.append(add, ` ${what}`, ...one.texts.slice(0, 3).map((text) => element("div", text, { className: "small" })));
      return item;
    }));
  } catch (error) {
    failed(error);
  }
}

async function begin() {
  try {
    about = await ask("/api/about");
  } catch (error) {
    at("token-line").hidden = error.status !== 401;
    at("about").textContent = "";
    failed(error);
    return;
  }
  at("error").textContent = "";
  at("token-line").hidden = true;
  at("about").textContent = `${about.model}, ${about.layers} layers of ${about.d_model}, ${about.dtype} on ${about.device}; moralprobe ${about.version}`;
  at("chat").disabled = !about.chat;
  at("chat").checked = about.chat;
  at("absent").replaceChildren(...about.absent.map((one) => element("li", `No ${one.what}: ${one.why}.`)));
  for (const button of document.querySelectorAll("[data-add]")) {
    const offered = { direction: about.targets.length, features: about.features, intervention: about.interventions.length };
    button.disabled = !offered[button.dataset.add];
    button.onclick = () => sources.add(button.dataset.add); // one, also after a token was asked for
  }
  at("fires").disabled = !about.features;
  at("place").hidden = about.table === null;
  at("search").hidden = about.absent.some((one) => one.what === "search over features");
  at("pole").replaceChildren(element("option", "any", { value: "" }), ...about.poles.map((one) => element("option", one)));
  sources = new Sources(at("sources"), about);
  for (const button of document.querySelectorAll("[data-copy], #export, #run")) button.disabled = false;
  if (fromLink()) return;
  if (about.targets.length) sources.add("direction");
  else if (about.interventions.length) sources.add("intervention");
}

function fromLink() {
  if (about === null || !location.hash.startsWith("#state=")) return false;
  try {
    restore(JSON.parse(decodeURIComponent(location.hash.slice(7))));
  } catch {
    fail({ what: "the link holds no state" });
  }
  return true;
}

addEventListener("hashchange", fromLink);
at("skip").addEventListener("click", (event) => { event.preventDefault(); at("texts").focus(); });
// A field that is wrong is of no use unseen.
at("form").addEventListener("invalid", (event) => { event.target.closest("details")?.setAttribute("open", ""); }, true);
at("form").addEventListener("submit", (event) => { event.preventDefault(); run(); });
at("stop").addEventListener("click", () => running?.abort());
at("fires").addEventListener("click", whatFires);
at("token").addEventListener("change", () => { setToken(at("token").value); begin(); });
at("locate").addEventListener("click", locate);
at("sentence").addEventListener("keydown", (event) => { if (event.key === "Enter" && !event.ctrlKey) locate(); });
at("layer").addEventListener("input", showPlace);
at("query").addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(search, 200); });
at("pole").addEventListener("change", search);
at("search").addEventListener("toggle", () => { if (at("search").open) search(); });
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); run(); }
  if (event.key === "Escape") running?.abort();
});
for (const button of document.querySelectorAll("[data-copy]")) {
  button.addEventListener("click", async () => {
    const text = copyOf(button.dataset.copy, asked(), hasToken());
    const what = button.textContent.replace("Copy ", "");
    try {
      await navigator.clipboard.writeText(text);
      at("copied").hidden = true;
      at("said").textContent = `Copied: ${what}.`;
    } catch { // beyond this machine a browser gives the clipboard to encrypted pages alone
      at("copied").textContent = text;
      at("copied").hidden = false;
      at("said").textContent = `Here it is: ${what}.`;
    }
  });
}
at("export").addEventListener("click", () => {
  const blob = new Blob([JSON.stringify({ about, ...(last ?? { request: asked() }) }, null, 1)], { type: "application/json" });
  const link = element("a", "", { href: URL.createObjectURL(blob), download: "steered.json" });
  link.click();
  URL.revokeObjectURL(link.href);
});
begin();
