// The chip that says how the server is, from GET /health: every 15 seconds, only while the page is visible, and not shown in the request panel.
import { $, h } from "./dom.js";
import { call } from "./api.js";

const EVERY_MS = 15_000;
const WORDS = { ok: "Healthy", degraded: "Degraded", down: "Down", unreachable: "No answer" };

let timer;

/** Begin to look, and go on. */
export function startStatus() {
  document.addEventListener("visibilitychange", look);
  $("server-details").addEventListener("beforetoggle", (event) => { if (event.newState === "open") look(); });
  look();
}

async function look() {
  clearTimeout(timer);
  if (document.hidden) return;
  const answer = await call("GET", "/health", { anonymous: true, silent: true }).catch((problem) => problem);
  clearTimeout(timer);
  timer = setTimeout(look, EVERY_MS);
  show(answer);
}

function show({ status, body, ms, message }) {
  const state = status === 200 ? (body?.status === "ok" ? "ok" : "degraded") : status ? "down" : "unreachable";
  $("server-chip").dataset.state = state;
  if ($("server-state").textContent !== WORDS[state]) $("server-state").textContent = WORDS[state];
  const facts = body ? { ...body, answered_in: `${Math.round(ms)} ms` } : { status: message };
  $("server-facts").replaceChildren(...flat(facts).map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
}

/** {a: {b: 1}} as [["a b", "1"]]. */
function flat(value, name = "") {
  if (value === null || typeof value !== "object") return [[name, readable(name, value)]];
  return Object.entries(value).flatMap(([key, inner]) => flat(inner, `${name} ${key}`.trim().replaceAll("_", " ")));
}

const readable = (name, value) => (typeof value === "number" && /bytes/.test(name) ? `${(value / 1_048_576).toFixed(1)} MiB` : String(value));
