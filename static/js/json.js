// JSON for people: indented, coloured, and in a block that can be scrolled by keyboard.
import { h } from "./dom.js";
import { asJson, masked } from "./curl.js";

const LONGEST = 30_000;
const PARTS = /("(?:\\.|[^"\\])*")(\s*:)?|(-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)|\b(true|false|null)\b/g;

/** A JSON value as indented text without its secrets (`isSecret` tells their names), cut where it gets too long to look at. Text
 *  stays as it is. */
export function pretty(value, isSecret) {
  const text = typeof value === "string" ? value : asJson(masked(value, { isSecret }), 2);
  return text.length > LONGEST ? `${text.slice(0, LONGEST)}\n… ${text.length - LONGEST} more characters` : text;
}

/** A named block of code. */
export const block = (label, content) => h("div", { class: "block" }, h("h3", {}, label), h("pre", { tabindex: "0", role: "region", "aria-label": label }, h("code", {}, content)));

/** JSON text as coloured spans: names, strings, numbers and words. */
export function coloured(text) {
  const out = [];
  let from = 0;
  for (const found of text.matchAll(PARTS)) {
    const [whole, string, colon, number] = found;
    out.push(text.slice(from, found.index));
    out.push(h("span", { class: string ? (colon ? "json-name" : "json-text") : number ? "json-number" : "json-word" }, string ?? whole), colon ?? "");
    from = found.index + whole.length;
  }
  return [...out, text.slice(from)];
}
