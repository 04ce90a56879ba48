// Elements by their id, and made; what failed, in words.
export const at = (id) => document.getElementById(id);

export function element(name, text, properties = {}) {
  const made = Object.assign(document.createElement(name), properties);
  made.textContent = text;
  return made;
}

// The largest five of the tokens' values, in words.
export function largest(values, tokens) {
  const most = values.map((value, i) => [value, tokens[i]]).filter(([value]) => value > 0).sort((a, b) => b[0] - a[0]).slice(0, 5);
  return most.map(([value, token]) => `"${token}" (${value.toPrecision(2)})`).join(", ");
}

// Shade an element by a part of the whole, 0 to 1.
export function shade(one, part) {
  one.style.backgroundColor = `rgba(var(--heat), ${(0.55 * part).toFixed(3)})`;
}

export function fail(error) {
  at("error").textContent = [error.what, error.why, error.instead].filter(Boolean).join(". ");
}

// What a request met: the server's own words, or that it gave none.
export function failed(error) {
  fail(error.failure ?? { what: "the server can't be reached", why: String(error.message) });
}
