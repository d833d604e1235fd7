// The request panel: every request of this page and its answer, newest first, secrets masked before they are kept.
import { $, fromTemplate, h, preference } from "./dom.js";
import { exchanges } from "./api.js";
import { copyButton } from "./clipboard.js";
import { asCurl, secretsOf } from "./curl.js";
import { block, coloured, pretty } from "./json.js";

const KEPT = 100;
const TOLD = { "X-Served-By": "Replica", "X-Request-ID": "Request ID", "X-API-Version": "API version", "Cache-Status": "Cache", ETag: "ETag",
  "Retry-After": "Retry after", "Idempotency-Replayed": "Replayed", Location: "Location" };
const narrow = matchMedia("(max-width: 1099px)");

/** Start listening, and wire the panel's own buttons. */
export function startPanel() {
  exchanges.addEventListener("exchange", ({ detail }) => add(summarise(detail)));
  $("panel-toggle").addEventListener("click", () => open($("panel").dataset.open !== "true", true));
  $("panel-clear").addEventListener("click", () => { clearPanel(); $("panel-toggle").focus(); });
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

/** Forget all requests: what one person did is not for the next. */
export function clearPanel() {
  $("panel-entries").replaceChildren();
  recount();
  $("panel-last").textContent = "";
}

/** What is kept of an exchange; nothing secret is. */
function summarise({ at, method, path, headers, body, cookie, answer }) {
  const told = Object.entries(TOLD).map(([name, label]) => [label, answer.header(name)]).filter(([, value]) => value);
  return { at, method, path, status: answer.status, ms: answer.ms, told, replica: answer.header("X-Served-By"), id: answer.header("X-Request-ID"),
    sent: body === undefined ? null : pretty(body, secretsOf(path, true)),
    got: answer.failure ?? (answer.body === null ? null : pretty(answer.body, secretsOf(path, false))),
    condition: headers["If-Match"], streams: Boolean(answer.stream), curl: asCurl({ method, path, headers, body, cookie }) };
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
  body.append(
    h("dl", { class: "facts" }, facts.map(([label, value]) => h("div", {}, h("dt", {}, label), h("dd", {}, String(value))))),
    entry.sent ? block("Request body", coloured(entry.sent)) : "",
    entry.got ? block("Answer", coloured(entry.got)) : h("p", { class: "hint" }, entry.streams ? "The answer goes on for as long as this page listens." : "The answer has no body."),
    command,
    copyButton("Copy as curl", () => entry.curl, command),
  );
}
