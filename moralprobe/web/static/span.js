// The words of the prompt that are edited: a stretch of its characters.
import { at } from "./dom.js";

// A server counts characters; a browser counts those beyond the first 65,536 twice.
const characters = (text, end) => [...text.slice(0, end)].length;

export class Span {
  constructor() {
    this.value = null;
    at("positions").addEventListener("change", () => this.show());
    at("prompt").addEventListener("input", () => { if (this.value !== null) this.set(null); }); // what it named is gone
    at("take").addEventListener("click", () => {
      const { value, selectionStart, selectionEnd } = at("prompt");
      const some = value.slice(selectionStart, selectionEnd), words = some.trim();
      const first = selectionStart + some.indexOf(words);
      this.set(words ? [characters(value, first), characters(value, first + words.length)] : null);
    });
  }

  set(value) {
    this.value = value;
    this.show();
  }

  show() {
    at("span-line").hidden = at("positions").value !== "spans";
    const words = this.value === null ? null : [...at("prompt").value].slice(...this.value).join("");
    at("span-said").textContent = words === null ? "No words are chosen." : `Edited: "${words}"`;
  }
}
