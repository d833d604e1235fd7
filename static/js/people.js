// Names for user ids. Nobody may list the users yet, so the only name known is one's own; others go by the end of their id.
import { h } from "./dom.js";
import { session } from "./session.js";

const seen = new Set();

/** Remember who is mentioned in these tasks, to offer them where somebody is chosen. */
export function meet(tasks) {
  for (const task of tasks) if (task.assignee_id) seen.add(task.assignee_id);
}

/** The name of a user, as far as it is known; null is somebody who is gone. */
export function nameOf(id) {
  if (!id) return "somebody who is gone";
  return id === session.user?.id ? `${session.user.username} (you)` : `user …${id.slice(-6)}`;
}

/** Fill a select with people: first the choice of nobody in particular, then oneself, then the others. */
export function offerPeople(select, nobody, chosen) {
  const ids = new Set([session.user.id, ...seen, chosen].filter(Boolean));
  select.replaceChildren(h("option", { value: "" }, nobody), ...[...ids].map((id) => h("option", { value: id }, nameOf(id))));
  select.value = chosen;
}
