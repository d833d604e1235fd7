// The dialog for one account: make one, or change its name, address, role and whether it may be used; or delete it.
import { $ } from "./dom.js";
import { API, Problem, call } from "./api.js";
import { session } from "./session.js";
import { clearProblem, onSubmit, tell } from "./forms.js";
import { ask } from "./notices.js";
import { fully, quote } from "./words.js";

const FIELDS = ["username", "email", "role", "active"];
const dialog = $("user");
const form = $("user-form");
let user = null;        // as it was last read; null while creating
let attempt = null;     // {text, key}: the same creation sent twice is made once
let finish = () => {};

/** Wire the dialog. */
export function startUserEditor() {
  onSubmit(form, save, refused);
  for (const id of ["user-close", "user-cancel"]) $(id).addEventListener("click", leave);
  dialog.addEventListener("cancel", (event) => { event.preventDefault(); leave(); });
  dialog.addEventListener("close", () => { finish(null); form.reset(); user = null; $("user-facts").textContent = ""; });
  $("user-delete").addEventListener("click", remove);
}

/** Open the dialog on an account, or on none to make one. Resolves when it closes: null, or {said, user} when something was done. */
export function editUser(given) {
  attempt = null;
  clearProblem(form);
  form.reset();
  fill(given);
  $("user-title").textContent = given ? "Edit person" : "New person";
  $("user-save").textContent = given ? "Save" : "Create person";
  form.elements.password.closest(".field").hidden = Boolean(given);
  form.elements.active.closest(".field").hidden = !given;
  $("user-delete").hidden = !given || given.id === session.user.id;
  dialog.showModal();
  form.elements.email.readOnly = given?.id === session.user.id;      // that takes one's password: in Account
  form.elements.username.focus();
  return new Promise((resolve) => { finish = resolve; });
}

function fill(given) {
  user = given;
  if (!user) return;
  for (const name of FIELDS) form.elements[name].value = String(user[name]);
  const own = user.id === session.user.id ? "This is you: your address and password are changed at Account. " : "";
  $("user-facts").textContent = `${own}Version ${user.version}, joined ${fully(user.created_at)}.`;
}

const value = (name) => (name === "active" ? form.elements.active.value === "true" : form.elements[name].value.trim());

/** What was typed or chosen differently. */
const changes = () => Object.fromEntries(FIELDS.filter((name) => value(name) !== (user ? user[name] : { role: "user", active: true }[name] ?? "")).map((name) => [name, value(name)]));

async function save() {
  if (!user) return create();
  const body = changes();
  if (!Object.keys(body).length) return close(null);
  const answer = await call("PATCH", `${API}/users/${user.id}`, { body, headers: { "If-Match": `"${user.version}"` } });
  return close({ said: `${quote(answer.body.username)} is saved.`, user: answer.body });
}

async function create() {
  const password = form.elements.password.value;
  const body = { username: value("username"), email: value("email"), role: value("role"), ...(password && { password }) };
  const text = JSON.stringify(body);
  if (attempt?.text !== text) attempt = { text, key: crypto.getRandomValues(new Uint32Array(4)).join("-") };
  const answer = await call("POST", `${API}/users`, { body, headers: { "Idempotency-Key": attempt.key } });
  close({ said: password ? `${quote(body.username)} is made.` : `${quote(body.username)} is made, and gets a mail with a link to choose a password.`, user: answer.body });
}

async function remove() {
  const { id, username, version } = user;
  if (!await ask({ title: "Delete this account?", text: `${quote(username)} is signed out everywhere and gone for good. The person’s jobs go, too; tasks stay, without the name.`, yes: "Delete" })) return;
  try {
    await call("DELETE", `${API}/users/${id}`, { headers: { "If-Match": `"${version}"` } });
    close({ said: `${quote(username)} is deleted.` });
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    if (!(await refused(problem))) tell(form, problem.message);
  }
}

/** Somebody else was faster: take over the newest version, keep what was typed, and let it be looked over. */
function refused(problem) {
  if (!user || problem.status !== 412) return false;
  bringUpToDate();
  return true;
}

async function bringUpToDate() {
  const mine = changes();
  try {
    fill((await call("GET", `${API}/users/${user.id}`)).body);
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    tell(form, problem.message);
    return;
  }
  for (const [name, typed] of Object.entries(mine)) form.elements[name].value = String(typed);
  tell(form, "Someone else changed this account meanwhile. This is the newest version, with your changes in it: look it over and save again.", "info");
  $("user-save").focus();
}

function close(done) {
  finish(done);
  dialog.close();
}

async function leave() {
  const lost = Object.keys(changes()).length > 0 || form.elements.password.value;
  if (!lost || await ask({ title: "Discard what you typed?", text: "It has not been saved.", yes: "Discard", no: "Keep writing" })) dialog.close();
}
