// The list of tasks: filters (kept in the page's address, so that a reload or a link shows the same), sorting, pages, and what a row can do.
import { $, allow, fromTemplate, h, state } from "./dom.js";
import { API, Problem, call } from "./api.js";
import { Pages } from "./pages.js";
import { session } from "./session.js";
import { ask, say, sayProblem } from "./notices.js";
import { meet, offerPeople, person } from "./people.js";
import { PRIORITY, STATUS, fromNow, fully, isOverdue, quote } from "./words.js";
import { editTask } from "./editor.js";

const READ_ONLY = "Only an admin may create, change or delete tasks. You are signed in as a user, who may read them.";
const FILTERS = ["q", "status", "priority", "tag", "assignee_id"];
const FEWEST = 10;      // that can be shown at once
const pages = new Pages({ name: "page", form: $("filters"), title: $("tasks-title"), load: () => loadTasks() });

let turn = 0;      // the newest load; older answers that arrive later are dropped
const changing = new Set();      // ids of tasks with a change under way: a second click is not a second change

/** Wire the filters, the pager and the buttons. */
export function startTasks() {
  pages.start();
  $("page-limit").addEventListener("input", () => pages.first());
  $("reload-tasks").addEventListener("click", () => loadTasks());
  $("new-task").addEventListener("click", () => open(null));
}

/** Show the list for whoever signed in, as the page's address says. */
export function enterTasks() {
  const wanted = new URLSearchParams(location.search);
  offerAssignees(wanted.get("assignee_id") ?? "");
  for (const [name, value] of wanted) {
    const input = $("filters").elements.namedItem(name);
    if (input) input.value = value;
  }
  pages.enter(wanted);
  allow($("new-task"), session.isAdmin, READ_ONLY, "read-only");
  $("read-only").textContent = READ_ONLY;
  $("read-only").hidden = session.isAdmin;
  $("task-list").replaceChildren();
  return loadTasks();
}

/** Read the page of tasks that the filters ask for. `focus` is the id of the task to put the focus on afterwards. */
export async function loadTasks({ focus } = {}) {
  const mine = ++turn;
  const list = $("task-list");
  list.ariaBusy = "true";
  if (!list.querySelector(".tasks-list")) list.replaceChildren(...Array.from({ length: 4 }, () => h("div", { class: "skeleton", "aria-hidden": "true" })));
  try {
    const { body } = await call("GET", `${API}/tasks?${query()}`);
    if (mine !== turn) return;
    if (pages.isPastTheEnd(body)) { await loadTasks({ focus }); return; }
    show(body, focus);
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    if (mine === turn) showFailure(problem);
  } finally {
    if (mine === turn) list.ariaBusy = "false";
  }
}

/** What the filters say, as a query string; the page's own address is kept the same. */
function query() {
  const wanted = new URLSearchParams();
  for (const [name, value] of new FormData($("filters"))) if (value.trim()) wanted.set(name, value.trim());
  wanted.set("page", pages.number);
  history.replaceState(null, "", `?${wanted}${location.hash}`);
  return wanted;
}

const filtered = () => FILTERS.some((name) => $("filters").elements.namedItem(name).value.trim());

function clearFilters() {
  for (const name of FILTERS) $("filters").elements.namedItem(name).value = "";
  pages.turnTo(1);
}

const offerAssignees = (chosen) => offerPeople($("filter-assignee"), "Anyone", chosen);

function show(body, focus) {
  const { items, total } = body;
  meet(items);
  offerAssignees($("filter-assignee").value);
  $("tasks-count").textContent = total === 1 ? "1 task" : `${total} tasks`;
  pages.show(body, FEWEST);
  $("task-list").replaceChildren(...(items.length ? [h("ul", { class: "tasks-list" }, items.map(row))] : [emptiness()]));
  if (focus) (document.getElementById(`task-${focus}`)?.querySelector(".task-title") ?? $("tasks-title")).focus();
}

function emptiness() {
  if (filtered()) return state("No task matches", "Try fewer words or another filter.", h("button", { type: "button", onclick: clearFilters }, "Clear filters"));
  if (!session.isAdmin) return state("Nothing here yet", "As soon as an admin adds a task, you will see it here.");
  return state("Nothing to do yet", "Add the first task: a title is enough.", h("button", { type: "button", class: "primary", onclick: () => open(null) }, "Create the first task"));
}

function showFailure(problem) {
  $("tasks-count").textContent = "";
  pages.hide();
  const id = problem.requestId ? h("p", { class: "hint" }, "Request ", h("code", {}, problem.requestId)) : null;
  const failed = state("The tasks could not be loaded", [problem.message, ...problem.errors.map((error) => error.detail)].join(" "), id, h("button", { type: "button", onclick: () => loadTasks() }, "Try again"),
    filtered() ? h("button", { type: "button", onclick: clearFilters }, "Clear filters") : null);
  failed.setAttribute("role", "alert");
  $("task-list").replaceChildren(failed);
}

function row(task) {
  const item = fromTemplate("task-template");
  const [tick, title, edit, remove] = [".tick", ".task-title", ".edit", ".delete"].map((name) => item.querySelector(name));
  item.id = `task-${task.id}`;
  item.dataset.status = task.status;
  title.textContent = task.title;
  title.addEventListener("click", () => open(task));
  item.querySelector(".task-meta").append(...meta(task));

  tick.setAttribute("aria-label", task.status === "done" ? `Reopen: ${task.title}` : `Mark as done: ${task.title}`);
  tick.addEventListener("click", () => toggle(task));
  edit.setAttribute("aria-label", `Edit: ${task.title}`);
  edit.addEventListener("click", () => open(task));
  remove.setAttribute("aria-label", `Delete: ${task.title}`);
  remove.addEventListener("click", () => removeTask(task));
  for (const button of [tick, edit, remove]) allow(button, session.isAdmin, READ_ONLY, "read-only");
  return item;
}

function meta(task) {
  const parts = [
    h("span", { class: "badge", "data-status": task.status }, STATUS[task.status] ?? task.status),
    h("span", { class: "badge", "data-priority": task.priority }, `${task.priority} · ${PRIORITY[task.priority] ?? ""}`),
  ];
  if (task.due_at) {
    const late = isOverdue(task);
    parts.push(h("time", { class: "due", datetime: task.due_at, title: fully(task.due_at), "data-overdue": late }, `${late ? "Overdue ·" : "Due"} ${fromNow(task.due_at)}`));
  }
  if (task.assignee_id) parts.push(h("span", { class: "person" }, "for ", person(task.assignee_id)));
  for (const tag of task.tags) parts.push(h("button", { type: "button", class: "tag", dir: "auto", title: `Show only tasks tagged ${tag}`, onclick: () => only(tag) }, tag));
  return parts;
}

function only(tag) {
  $("filters").elements.tag.value = tag;
  pages.turnTo(1);
}

async function open(task) {
  const saved = await editTask(task, session.isAdmin ? null : READ_ONLY);
  if (!saved) return;
  if (saved.done) say(saved.done, "done");
  await loadTasks({ focus: saved.id ?? task?.id });
}

/** A change from the list itself: sent for the version that is shown, and never over somebody else's. */
async function change(task, send, done) {
  if (changing.has(task.id)) return;
  changing.add(task.id);
  try {
    await send({ "If-Match": `"${task.version}"` });
    say(done, "done");
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    if (problem.status === 412) say(`Someone else changed ${quote(task.title)} meanwhile, so nothing was done. This is how it is now.`, "error");
    else sayProblem(problem);
  } finally {
    changing.delete(task.id);
  }
  await loadTasks({ focus: task.id });
}

function toggle(task) {
  const status = task.status === "done" ? "todo" : "done";
  return change(task, (headers) => call("PATCH", `${API}/tasks/${task.id}`, { headers, body: { status } }), `${quote(task.title)} is ${STATUS[status].toLowerCase()}.`);
}

async function removeTask(task) {
  const sure = await ask({ title: "Delete this task?", text: `${quote(task.title)} will be gone for everybody.`, yes: "Delete" });
  if (sure) await change(task, (headers) => call("DELETE", `${API}/tasks/${task.id}`, { headers }), `${quote(task.title)} is deleted.`);
}
