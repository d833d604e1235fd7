// The request panel: every request of this page and its answer, newest first, secrets masked before they are kept.
import { $, fromTemplate, h, preference } from "./dom.js";
import { exchanges } from "./api.js";
import { asCurl } from "./curl.js";
import { block, coloured, pretty } from "./json.js";

const KEPT = 100;
const TOLD = { "X-Served-By": "Replica", "X-Request-ID": "Request ID", "X-API-Version": "API version", "Cache-Status": "Cache", ETag: "ETag",
  "Retry-After": "Retry after", "Idempotency-Replayed": "Replayed", Location: "Location" };
const narrow = matchMedia("(max-width: 1099px)");

/** Start listening, and wire the panel's own buttons. */
export function startPanel() {
  exchanges.addEventListener("exchange", ({ detail }) => add(summarise(detail)));
  $("panel-toggle").addEventListener("click", () => open($("panel").dataset.open !== "true", true));
  $("panel-clear").addEventListener("click", clear);
  narrow.addEventListener("change", () => open(wanted()));
  open(wanted());
  recount();
}

const wanted = () => !narrow.matches && preference.get("walnut-panel") !== "closed";

function open(yes, byHand = false) {
  $("panel").dataset.open = document.documentElement.dataset.panel = String(yes);
  $("panel-toggle").setAttribute("aria-expanded", String(yes));
  if (byHand && !narrow.matches) preference.set("walnut-panel", yes ? "open" : "closed");
}

function clear() {
  $("panel-entries").replaceChildren();
  recount();
  $("panel-last").textContent = "";
  $("panel-toggle").focus();
}

/** What is kept of an exchange; nothing secret is. */
function summarise({ at, method, path, headers, body, answer }) {
  const told = Object.entries(TOLD).map(([name, label]) => [label, answer.header(name)]).filter(([, value]) => value);
  return { at, method, path, status: answer.status, ms: answer.ms, told, replica: answer.header("X-Served-By"), id: answer.header("X-Request-ID"),
    sent: body === undefined ? null : pretty(body), got: answer.failure ?? (answer.body === null ? null : pretty(answer.body)),
    condition: headers["If-Match"], streams: Boolean(answer.stream), curl: asCurl({ method, path, headers, body }) };
}

function add(entry) {
  const row = fromTemplate("entry-template");
  const put = (name, text) => { row.querySelector(name).textContent = text ?? ""; };
  put(".http-status", entry.status || "–");
  row.querySelector(".http-status").dataset.class = String(entry.status)[0];
  put(".entry-method", entry.method);
  put(".entry-path", entry.path);
  put(".entry-ms", milliseconds(entry.ms));
  put(".entry-replica", entry.replica);
  put(".entry-id", entry.id);
  row.querySelector("details").addEventListener("toggle", () => fill(row.querySelector(".entry-body"), entry), { once: true });
  $("panel-entries").prepend(row);
  while ($("panel-entries").children.length > KEPT) $("panel-entries").lastElementChild.remove();
  $("panel-last").textContent = `${entry.status || "no answer"} ${entry.method} ${entry.path.split("?")[0]} ${milliseconds(entry.ms)}`;
  recount();
}

const milliseconds = (ms) => `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`;

function recount() {
  const count = $("panel-entries").children.length;
  $("panel-count").textContent = count;
  $("panel-empty").hidden = count > 0;
  $("panel-clear").hidden = count === 0;
}

/** The inside of an entry, built when it is first opened. */
function fill(body, entry) {
  const facts = [["At", entry.at.toLocaleTimeString()], ...entry.told];
  if (entry.condition) facts.push(["If-Match", entry.condition]);
  const command = block("curl", entry.curl);
  const copied = h("span", { class: "hint", role: "status" });
  const copy = h("button", { type: "button", class: "quiet copy", onclick: async () => { copied.textContent = await toClipboard(entry.curl, command); } }, "Copy as curl");
  body.append(
    h("dl", { class: "facts" }, facts.map(([label, value]) => h("div", {}, h("dt", {}, label), h("dd", {}, String(value))))),
    entry.sent ? block("Request body", coloured(entry.sent)) : "",
    entry.got ? block("Answer", coloured(entry.got)) : h("p", { class: "hint" }, entry.streams ? "The answer goes on for as long as this page listens." : "The answer has no body."),
    command,
    h("p", { class: "row" }, copy, copied),
  );
}

/** Copy the text and say so; where the browser refuses (a page without TLS), select it so that one key does it. */
async function toClipboard(text, shown) {
  try {
    await navigator.clipboard.writeText(text);
    return "Copied";
  } catch {
    getSelection().selectAllChildren(shown.querySelector("code"));
    return "Selected: press Ctrl+C to copy";
  }
}
