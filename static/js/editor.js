// The dialog in which a task is written: create, change, or only read. Saving a change sends what was changed, with If-Match;
// when somebody else was faster, both versions are brought together without losing what was typed.
import { $, allow, h } from "./dom.js";
import { API, call } from "./api.js";
import { ask } from "./notices.js";
import { knowPeople, offerPeople, person } from "./people.js";
import { clearProblem, onSubmit, showAtField } from "./forms.js";
import { fromLocalInput, fromNow, quote, timeZone, toLocalInput } from "./words.js";

const FIELDS = ["title", "description", "status", "priority", "tags", "due_at", "assignee_id"];
const TO_TASK = {
  priority: Number,
  tags: (text) => text.split(",").map((tag) => tag.trim()).filter(Boolean),
  due_at: fromLocalInput,
  assignee_id: (id) => id || null,
};
const TO_TEXT = { tags: (tags) => tags.join(", "), due_at: toLocalInput, assignee_id: (id) => id ?? "" };

const form = $("editor-form");
let task = null;       // the task as it was last read; null while creating
let base = {};         // what the fields said then
let reason = null;     // why it may only be read; null when it may be changed
let attempt = null;    // {text, key}: the same creation sent twice is made once
let finish = null;     // ends editTask()

/** Wire the dialog. */
export function startEditor() {
  $("task-due-hint").textContent = `Your time: ${timeZone()}.`;
  onSubmit(form, save, refused);
  $("editor-close").addEventListener("click", leave);
  $("editor-cancel").addEventListener("click", leave);
  $("editor").addEventListener("cancel", (event) => { event.preventDefault(); leave(); });
  $("editor").addEventListener("close", () => finish(null));
  $("conflict-action").addEventListener("click", () => resolveConflict?.());
  form.addEventListener("keydown", (event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit(); });
  addEventListener("beforeunload", (event) => { if ($("editor").open && changed().length) event.preventDefault(); });
}

/** Open the dialog on a task, or on none to create one. Resolves when it closes: null, or {done, id} when something was saved. */
export function editTask(given, why) {
  reason = why;
  attempt = null;
  clearProblem(form);
  hideConflict();
  fill(given);
  $("editor-title").textContent = reason ? "Task" : task ? "Edit task" : "New task";
  $("editor-save").textContent = task ? "Save" : "Create task";
  $("editor-cancel").textContent = reason ? "Close" : "Cancel";
  $("task-tags-hint").hidden = Boolean(reason);
  allow($("editor-save"), !reason, reason, "editor-facts");
  for (const input of form.elements) if (FIELDS.includes(input.name)) input[input.tagName === "SELECT" ? "disabled" : "readOnly"] = Boolean(reason);
  $("editor").showModal();
  (reason ? $("editor-close") : form.elements.title).focus();
  return new Promise((resolve) => { finish = resolve; });
}

/** Put a task into the form; the fields named in `keep` stay as they were typed. */
function fill(given, keep = []) {
  task = given;
  const shown = { title: "", description: "", status: "todo", priority: 3, tags: [], due_at: null, assignee_id: null, ...given };
  const typed = read();
  offerPeople(form.elements.assignee_id, "Nobody", shown.assignee_id ?? "");
  if (!reason) offerMore();
  for (const name of FIELDS) form.elements[name].value = (TO_TEXT[name] ?? String)(shown[name]);
  base = read();
  for (const name of keep) form.elements[name].value = typed[name];
  $("editor-facts").replaceChildren(...(reason ? [reason] : task ? [`Version ${task.version}, changed ${fromNow(task.updated_at)}, made by `, person(task.created_by), "."] : []));
}

/** Offer the people who are not known yet, when they are; what is chosen stays chosen. */
function offerMore() {
  const { assignee_id: select } = form.elements;
  knowPeople().then(() => offerPeople(select, "Nobody", select.value));
}

const read = () => Object.fromEntries(FIELDS.map((name) => [name, form.elements[name].value]));

/** The names of the fields in which something was typed or chosen. */
const changed = () => Object.entries(read()).filter(([name, text]) => text !== base[name]).map(([name]) => name);

const body = (names) => Object.fromEntries(names.map((name) => [name, (TO_TASK[name] ?? String)(form.elements[name].value)]));

async function save() {
  if (reason) return;
  if (form.elements.due_at.validity.badInput) {
    showAtField(form, "due_at", "Give the whole date and the time, or clear it.");
    form.elements.due_at.focus();
    return;
  }
  if (task) await saveChange();
  else await create();
}

async function create() {
  const sent = body(FIELDS);
  const text = JSON.stringify(sent);
  if (attempt?.text !== text) attempt = { text, key: crypto.getRandomValues(new Uint32Array(4)).join("-") };
  const made = await call("POST", `${API}/tasks`, { body: sent, headers: { "Idempotency-Key": attempt.key } });
  close({ done: `${quote(sent.title)} is created.`, id: made.body.id });
}

async function saveChange() {
  const names = changed();
  if (names.length) await call("PATCH", `${API}/tasks/${task.id}`, { body: body(names), headers: { "If-Match": `"${task.version}"` } });
  close(names.length ? { done: `${quote(form.elements.title.value)} is saved.`, id: task.id } : null);
}

function close(saved) {
  finish(saved);
  $("editor").close();
}

async function leave() {
  const lost = !reason && changed().length > 0;
  if (!lost || await ask({ title: "Discard what you typed?", text: "It has not been saved.", yes: "Discard", no: "Keep writing" })) $("editor").close();
}

// ---- when somebody else was faster

let resolveConflict = null;

/** Take care of the refusals that mean: the task is not as it was. */
function refused(problem) {
  if (!task || ![404, 412].includes(problem.status)) return false;
  if (problem.status === 404) {
    showConflict("Someone else deleted this task.", "What you typed is still here.", "Save it as a new task", async () => { fill(null, FIELDS); hideConflict(); form.requestSubmit(); });
  } else {
    showConflict("Someone else changed this task while you were writing.", "Nothing you typed is lost. Load the newest version: your changes stay, the rest is brought up to date.", "Load the newest version", merge);
  }
  return true;
}

function showConflict(title, text, action, resolve) {
  $("conflict-title").textContent = title;
  $("conflict-text").textContent = text;
  $("conflict-action").textContent = action;
  $("conflict-action").hidden = !action;
  $("conflict").hidden = false;
  resolveConflict = resolve;
  if (action) $("conflict-action").focus();
}

function hideConflict() {
  $("conflict").hidden = true;
  for (const note of form.querySelectorAll(".theirs")) note.remove();
}

/** Read the newest version: fields not touched here take it over, touched ones keep what was typed and show the other value beside. */
async function merge() {
  const mine = changed();
  const before = base;
  try {
    const newest = (await call("GET", `${API}/tasks/${task.id}`)).body;
    hideConflict();
    fill(newest, mine);
  } catch (problem) {
    if (!problem.errors || !refused(problem)) showConflict("The newest version could not be read.", problem.message, "Try again", merge);
    return;
  }
  const both = mine.filter((name) => base[name] !== before[name] && base[name] !== form.elements[name].value);
  for (const name of both) offerTheirs(name);
  showConflict("This is the newest version, with your changes in it.", both.length ? "Where both of you changed something, yours is in the field and theirs below it." : "Look it over and save.", "", null);
  (both.length ? form.elements[both[0]] : $("editor-save")).focus();
}

function offerTheirs(name) {
  const input = form.elements[name];
  const text = input.tagName === "SELECT" ? [...input.options].find((option) => option.value === base[name])?.text : base[name];
  const note = h("p", { class: "theirs" }, "Theirs: ", h("q", { dir: "auto" }, text || "nothing"), " ",
    h("button", { type: "button", class: "quiet", onclick: () => { input.value = base[name]; note.remove(); input.focus(); } }, "Use theirs"));
  input.closest(".field").append(note);
}
