// The page: what is chosen becomes one request, and what comes back is shown as text, never as HTML.
import { copyOf } from "./copy.js";
import { differing } from "./differ.js";
import { at, element, fail, failed, largest, shade } from "./dom.js";
import { aboutFeature, search, whatFires } from "./features.js";
import { choose, locate, showPlace } from "./place.js";
import { Sources } from "./sources.js";
import { Span } from "./span.js";
import { stream, ask, hasToken, setToken } from "./wire.js";

const SIDES = ["default", "steered"];
const NUMBERS = ["max_tokens", "temperature", "top_p", "seed"];
let about = null;
let sources = null;
let running = null;
let last = null;
let typing = null;
const span = new Span();

function asked() {
  const found = { prompt: at("prompt").value, sources: sources.value(), positions: at("positions").value };
  if (found.positions === "spans") found.span = span.value;
  if (about.chat) found.chat = at("chat").checked;
  for (const name of NUMBERS) found[name] = Number(at(name).value);
  return found;
}

function restore(state) {
  at("prompt").value = state.prompt ?? "";
  at("pick").value = "";
  at("chat").checked = about.chat && state.chat !== false;
  at("positions").value = state.positions ?? "all";
  span.set(state.span ?? null);
  for (const name of NUMBERS) if (state[name] !== undefined) at(name).value = state[name];
  sources.set(state.sources ?? []);
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
  const edited = done.edited === null ? "" : `Edited in the prompt: "${done.edited}". `;
  const differs = done.same ? "Both texts are the same to the token." : "Underlined: words that the other text doesn't have there.";
  at("said").replaceChildren(element("span", `${edited}${differs} KL ${mean.toFixed(3)} nats a token. `));
  const most = Math.max(0, ...done.kl);
  at("moved").hidden = most === 0;
  at("moved-most").textContent = largest(done.kl, done.kl_tokens);
  at("moved-tokens").replaceChildren(...done.kl_tokens.map((token, i) => {
    const made = element("span", token, { title: `${done.kl[i].toPrecision(2)} nats` });
    shade(made, Math.max(0, done.kl[i]) / Math.max(most, 0.1));
    return made;
  }));
  for (const warning of done.warnings) at("said").append(element("strong", `${warning} `, { className: "warning" }));
}

function remember(request, done) {
  last = { request, done };
  for (const button of document.querySelectorAll("[data-take]")) button.disabled = false;
  const button = element("button", `${request.prompt.slice(0, 60)} / ${request.sources.length} sources, seed ${request.seed}`, { type: "button" });
  button.addEventListener("click", () => { restore(request); show(done); last = { request, done }; });
  const item = document.createElement("li");
  item.append(button);
  at("history").prepend(item);
}

async function run() {
  if (running !== null || about === null || !at("form").reportValidity()) return;
  if (at("positions").value === "spans" && span.value === null) {
    fail({ what: "no words are chosen to be edited", instead: "select some in the prompt, and press the button beside" });
    return;
  }
  const request = asked();
  running = new AbortController();
  busy(true);
  at("error").textContent = "";
  at("said").textContent = "Writing.";
  at("moved").hidden = true;
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
  at("fires").disabled = !about.features || about.absent.some((one) => one.what === "what fires");
  at("pick").replaceChildren(element("option", "a prompt of the project's", { value: "" }), ...about.prompts.map((one) => element("option", `${one.foundation}: ${one.text.slice(0, 70)}`, { value: one.text })));
  at("study").hidden = about.study === null;
  at("study-name").textContent = about.study ? `What the study ${about.study.name} found` : "";
  at("caveats").replaceChildren(...(about.study?.caveats ?? []).map((one) => element("li", one)));
  at("findings").replaceChildren(...(about.study?.findings ?? []).map((one) => element("li", one)));
  at("place").hidden = about.table === null;
  at("search").hidden = about.absent.some((one) => one.what === "search over features");
  at("pole").replaceChildren(element("option", "any", { value: "" }), ...about.poles.map((one) => element("option", one)));
  sources = new Sources(at("sources"), about, aboutFeature);
  for (const button of document.querySelectorAll("[data-copy], #export, #run")) button.disabled = false;
  if (fromLink()) return;
  if (about.targets.length) sources.add("direction");
  else if (about.interventions.length) sources.add("intervention");
}

const steerWith = (feature, offset) => sources.add("features", { feature, offset });

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
at("pick").addEventListener("change", () => {
  if (!at("pick").value) return;
  at("prompt").value = at("pick").value;
  span.set(null);
});
at("prompt").addEventListener("input", () => { at("pick").value = ""; });
at("fires").addEventListener("click", () => whatFires(about, steerWith));
at("token").addEventListener("change", () => { setToken(at("token").value); begin(); });
const look = () => locate(about, sources.value());
at("locate").addEventListener("click", look);
at("sentence").addEventListener("keydown", (event) => { if (event.key === "Enter" && !event.ctrlKey) look(); });
at("layer").addEventListener("input", showPlace);
at("shown").addEventListener("input", choose);
for (const button of document.querySelectorAll("[data-take]")) {
  button.addEventListener("click", () => { at("sentence").value = last.done[button.dataset.take].text.slice(0, 1000); });
}
const find = () => search(steerWith);
at("query").addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(find, 200); });
at("pole").addEventListener("change", find);
at("search").addEventListener("toggle", () => { if (at("search").open) find(); });
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
