// Names for user ids. Admins may look them up: a hundred at once, the rest one by one, each once. To others, only their own name is
// known; the rest go by the end of their id. What an element shows is brought up to date when a name becomes known.
import { h } from "./dom.js";
import { API, Problem, call } from "./api.js";
import { session } from "./session.js";

const MANY = 100;
const GONE = "somebody who is gone";
const names = new Map();      // id: username, or null where nobody is any more
const seen = new Set();       // who is mentioned in tasks
const asked = new Set();
let all = null;               // the promise of the first hundred

/** Forget them: the next person may know others. */
export function forgetPeople() {
  for (const known of [names, seen, asked]) known.clear();
  all = null;
  for (const option of document.querySelectorAll("option[data-person]")) option.remove();
}

/** Remember accounts that were read anyway. */
export function remember(users) {
  for (const { id, username } of users) names.set(id, username);
  show();
}

/** Remember who is mentioned in these tasks, to offer them where somebody is chosen. */
export function meet(tasks) {
  for (const task of tasks) if (task.assignee_id) seen.add(task.assignee_id);
}

/** The name of a user, as far as it is known; null is somebody who is gone. */
export function nameOf(id) {
  if (!id || names.get(id) === null) return GONE;
  if (id === session.user?.id) return `${session.user.username} (you)`;
  return names.get(id) ?? `user …${id.slice(-6)}`;
}

/** The name of a user as an element, which shows the name also when it becomes known later. */
export function person(id) {
  if (id && id !== session.user?.id) lookUp(id);
  return h("bdi", { "data-person": id }, nameOf(id));
}

/** Fill a select with people: first the choice of nobody in particular, then oneself, then the others. */
export function offerPeople(select, nobody, chosen) {
  const others = [...new Set([...seen, ...names.keys(), chosen])].filter((id) => id && id !== session.user.id && names.get(id) !== null);
  others.sort((one, other) => nameOf(one).localeCompare(nameOf(other)));
  const ids = [session.user.id, ...others];
  if (chosen && !ids.includes(chosen)) ids.push(chosen);
  select.replaceChildren(h("option", { value: "" }, nobody), ...ids.map((id) => h("option", { value: id, "data-person": id }, nameOf(id))));
  select.value = chosen;
  for (const id of others) lookUp(id);
}

/** Read the names of the first hundred, if that is allowed, to offer them. */
export function knowPeople() {
  if (!session.isAdmin) return Promise.resolve();
  all ??= call("GET", `${API}/users?limit=${MANY}&sort=username`, { silent: true }).then(({ body }) => remember(body.items), (problem) => {
    if (!(problem instanceof Problem)) throw problem;      // without names it goes on, too
    all = null;
  });
  return all;
}

async function lookUp(id) {
  if (!session.isAdmin || names.has(id) || asked.has(id)) return;
  asked.add(id);
  await knowPeople();
  if (names.has(id)) return;
  try {
    remember([(await call("GET", `${API}/users/${encodeURIComponent(id)}`, { silent: true })).body]);
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    if (problem.status === 404) { names.set(id, null); show(); }
    else asked.delete(id);
  }
}

function show() {
  for (const element of document.querySelectorAll("[data-person]")) {
    const name = nameOf(element.dataset.person);
    if (element.textContent !== name) element.textContent = name;
  }
}
