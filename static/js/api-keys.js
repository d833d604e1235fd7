// API keys for programs: what they may do, until when; each is shown once, when it is made.
import { $, h, state } from "./dom.js";
import { API, Problem, call } from "./api.js";
import { session } from "./session.js";
import { copyButton } from "./clipboard.js";
import { clearProblem, codeOf, onSubmit } from "./forms.js";
import { block } from "./json.js";
import { ask, say, sayProblem } from "./notices.js";
import { SCOPE, SCOPES_OF_USERS, fromNow, fully, quote } from "./words.js";

const DAY_MS = 86_400_000;
const form = $("key-form");
const list = $("key-list");

/** Wire the form. */
export function startKeys() {
  onSubmit(form, create);
  $("key-done").addEventListener("click", () => { forgetKey(); $("keys-title").focus(); });
}

/** Read and show them, and offer what this person may let a key do. */
export async function enterKeys() {
  offerScopes();
  form.elements.email.value = session.user.email;
  if (!list.firstElementChild) list.replaceChildren(h("div", { class: "skeleton", "aria-hidden": "true" }));
  try {
    const { body } = await call("GET", `${API}/auth/api-keys`);
    show(Array.isArray(body) ? body : body.items);
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    list.replaceChildren(state("Your API keys could not be loaded", problem.message, h("button", { type: "button", onclick: enterKeys }, "Try again")));
  }
}

/** No key stays. */
export function leaveKeys() {
  forgetKey();
  form.reset();
  clearProblem(form);
  form.closest("details").open = false;
  list.replaceChildren();
  $("key-scopes").replaceChildren();
}

function forgetKey() {
  $("key-made").hidden = true;
  $("key-shown").replaceChildren();
}

function offerScopes() {
  const offered = session.isAdmin ? Object.keys(SCOPE) : SCOPES_OF_USERS;
  const shown = [...$("key-scopes").querySelectorAll("input")].map((input) => input.value);
  if (shown.join() === offered.join()) return;
  $("key-scopes").replaceChildren(...offered.map((scope) => h("label", {}, h("input", { type: "checkbox", name: "scopes", value: scope, checked: scope === "tasks:read" }),
    h("span", {}, h("strong", {}, SCOPE[scope]), " ", h("code", {}, scope)))));
}

function show(keys) {
  list.replaceChildren(keys.length ? h("ul", { class: "items" }, keys.map(row)) : h("p", { class: "hint" }, "None yet. A key lets a program use the API without your password. You choose what it may do."));
}

function row(key) {
  const over = key.expires_at && new Date(key.expires_at) < new Date();
  const facts = [
    h("code", {}, `${key.hint}…`),
    h("span", {}, key.scopes.map((scope) => SCOPE[scope] ?? scope).join(", ") || "May do nothing"),
    h("span", {}, key.last_used_at ? `used ${fromNow(key.last_used_at)}` : "never used"),
    key.expires_at ? h("time", { datetime: key.expires_at, title: fully(key.expires_at), "data-overdue": over }, `${over ? "expired" : "expires"} ${fromNow(key.expires_at)}`) : h("span", {}, "does not expire"),
  ];
  return h("li", { class: "item" },
    h("div", { class: "item-text" }, h("h3", {}, h("bdi", {}, key.name)), h("p", { class: "task-meta" }, facts)),
    h("button", { type: "button", class: "quiet", "aria-label": `Revoke: ${key.name}`, onclick: () => revoke(key) }, "Revoke"));
}

async function create() {
  const { name, expires_at: days, password } = form.elements;
  const scopes = [...form.querySelectorAll("[name=scopes]:checked")].map((input) => input.value);
  const expires = days.value && { expires_at: new Date(Date.now() + Number(days.value) * DAY_MS).toISOString() };
  const { body } = await call("POST", `${API}/auth/api-keys`, { body: { name: name.value.trim(), scopes, ...expires, password: password.value, ...codeOf(form) } });
  form.reset();
  form.closest("details").open = false;
  showKey(body);
  await enterKeys();
}

/** Show a new key, this once, and how it is used. */
function showKey({ key, name, scopes }) {
  const path = scopes.includes("tasks:read") ? "tasks" : scopes.includes("jobs:submit") ? "jobs" : "users/me";
  const example = `WALNUT_KEY=${key}\ncurl -H "Authorization: Bearer $WALNUT_KEY" ${location.origin}${API}/${path}`;
  const [shown, usage] = [block("The key", key), block("To try it", example)];
  $("key-made-title").textContent = `Your new key ${quote(name)}`;
  $("key-shown").replaceChildren(shown, copyButton("Copy the key", () => key, shown), usage, copyButton("Copy the example", () => example, usage));
  $("key-made").hidden = false;
  $("key-made-title").focus();
}

async function revoke(key) {
  if (!await ask({ title: "Revoke this key?", text: `Whatever uses ${quote(key.name)} is let in no longer, from its next request on.`, yes: "Revoke" })) return;
  try {
    await call("DELETE", `${API}/auth/api-keys/${encodeURIComponent(key.id)}`);
    say(`${quote(key.name)} is revoked.`, "done");
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    sayProblem(problem);
  }
  await enterKeys();
  $("keys-title").focus();
}
