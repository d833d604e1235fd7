// The people of this server, for admins: found by name or address, role and state (kept in the page's address), page by page.
import { $, h, state } from "./dom.js";
import { API, Problem, call } from "./api.js";
import { Pages } from "./pages.js";
import { session } from "./session.js";
import { say } from "./notices.js";
import { remember } from "./people.js";
import { editUser, startUserEditor } from "./user-editor.js";
import { ROLE, count, fromNow, fully } from "./words.js";

const LIMIT = 20;
const ONLY_ADMIN = "Only an admin may see and change the accounts of others. Your own is at Account.";
const form = $("people-filters");
const list = $("people-list");
const pages = new Pages({ name: "people", form, title: $("people-title"), load: () => loadUsers() });

let turn = 0;            // the newest load; older answers that arrive later are dropped
let tellChanged;         // called when one's own account was changed here

/** Wire the filters, the pager and the buttons. */
export function startUsers(changed) {
  tellChanged = changed;
  pages.start();
  $("reload-people").addEventListener("click", () => loadUsers());
  $("new-person").addEventListener("click", () => open(null));
  startUserEditor();
}

/** Show whom the page's address asks for. */
export async function showUsers({ query }) {
  for (const shown of [form, $("new-person"), $("reload-people")]) shown.hidden = !session.isAdmin;
  if (!session.isAdmin) { list.replaceChildren(state("Only for admins", ONLY_ADMIN)); return; }
  form.reset();
  for (const [name, value] of query) {
    const input = form.elements.namedItem(name);
    if (input) input.value = value;
  }
  pages.enter(query);
  await loadUsers();
}

/** Another part is shown: nobody stays. */
export function hideUsers() {
  turn += 1;
  list.replaceChildren();
  form.reset();
  $("people-count").textContent = "";
  pages.hide();
}

async function loadUsers({ focus } = {}) {
  const mine = ++turn;
  list.ariaBusy = "true";
  if (!list.firstElementChild) list.replaceChildren(...Array.from({ length: 3 }, () => h("div", { class: "skeleton", "aria-hidden": "true" })));
  try {
    const { body } = await call("GET", `${API}/users?${wanted()}`);
    if (mine !== turn) return;
    if (pages.isPastTheEnd(body)) { await loadUsers({ focus }); return; }
    show(body, focus);
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    if (mine === turn) showFailure(problem);
  } finally {
    if (mine === turn) list.ariaBusy = "false";
  }
}

/** What the filters say, as a query string; the page's own address says the same. */
function wanted() {
  const query = new URLSearchParams();
  for (const [name, value] of new FormData(form)) if (value.trim()) query.set(name, value.trim());
  if (pages.number > 1) query.set("page", pages.number);
  history.replaceState(null, "", String(query) ? `#/people?${query}` : "#/people");
  query.set("limit", LIMIT);
  return query;
}

const filtered = () => ["q", "role", "active"].some((name) => form.elements.namedItem(name).value.trim());

function clearFilters() {
  for (const name of ["q", "role", "active"]) form.elements.namedItem(name).value = "";
  pages.turnTo(1);
}

function show(body, focus) {
  const { items, total } = body;
  remember(items);
  $("people-count").textContent = count(total, "person", "people");
  pages.show(body);
  list.replaceChildren(items.length ? h("ul", { class: "tasks-list" }, items.map(row)) : emptiness());
  if (focus) (document.getElementById(`user-${focus}`)?.querySelector(".task-title") ?? $("people-title")).focus();
}

const emptiness = () => (filtered() ? state("Nobody matches", "Try fewer letters or another filter.", h("button", { type: "button", onclick: clearFilters }, "Clear filters"))
  : state("Nobody is here", "That cannot be: you are. Refresh the page."));

function showFailure(problem) {
  $("people-count").textContent = "";
  pages.hide();
  const id = problem.requestId ? h("p", { class: "hint" }, "Request ", h("code", {}, problem.requestId)) : null;
  const failed = state("The people could not be loaded", [problem.message, ...problem.errors.map((error) => error.detail)].join(" "), id, h("button", { type: "button", onclick: () => loadUsers() }, "Try again"),
    filtered() ? h("button", { type: "button", onclick: clearFilters }, "Clear filters") : null);
  failed.setAttribute("role", "alert");
  list.replaceChildren(failed);
}

function row(user) {
  return h("li", { class: "person-row", id: `user-${user.id}`, "data-active": String(user.active) },
    h("div", { class: "task-text" },
      h("h2", {}, h("button", { class: "task-title", type: "button", dir: "auto", onclick: () => open(user) }, user.username)),
      h("p", { class: "task-meta" }, meta(user))),
    h("button", { class: "quiet", type: "button", "aria-label": `Edit: ${user.username}`, onclick: () => open(user) }, "Edit"));
}

function meta(user) {
  return [
    h("span", { class: "address", dir: "auto" }, user.email),
    h("span", { class: "badge", "data-kind": user.role === "admin" ? "strong" : null }, ROLE[user.role] ?? user.role),
    user.active ? null : h("span", { class: "badge", "data-kind": "bad" }, "Deactivated"),
    user.email_confirmed_at ? null : h("span", { class: "badge" }, "Address not confirmed"),
    user.totp_enabled_at ? h("span", { class: "badge", "data-kind": "good" }, "Second factor") : null,
    user.id === session.user.id ? h("span", { class: "badge" }, "You") : null,
    h("time", { datetime: user.created_at, title: fully(user.created_at) }, `joined ${fromNow(user.created_at)}`),
  ];
}

async function open(user) {
  const done = await editUser(user);
  if (!done) return;
  say(done.said, "done");
  if (done.user?.id === session.user.id) {
    session.user = done.user;
    tellChanged();
    if (!session.isAdmin) { location.hash = "#/"; return; }
  }
  await loadUsers({ focus: done.user?.id ?? user?.id });
}
