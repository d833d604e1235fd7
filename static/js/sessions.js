// Where one is signed in: each sign-in with its device, to be ended one by one or all but this.
import { $, h, state } from "./dom.js";
import { API, Problem, call } from "./api.js";
import { ask, say, sayProblem } from "./notices.js";
import { deviceOf } from "./device.js";
import { count, fromNow, fully } from "./words.js";

const list = $("session-list");
let items = [];

/** Wire the button. */
export function startSessions() {
  $("end-others").addEventListener("click", endOthers);
}

/** Read and show them. */
export async function enterSessions() {
  if (!items.length) list.replaceChildren(h("div", { class: "skeleton", "aria-hidden": "true" }));
  try {
    const { body } = await call("GET", `${API}/auth/sessions?limit=100`);
    show(body.items);
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    items = [];
    list.replaceChildren(state("Your sessions could not be loaded", problem.message, h("button", { type: "button", onclick: enterSessions }, "Try again")));
  }
}

/** Nothing of them stays. */
export function leaveSessions() {
  items = [];
  list.replaceChildren();
  $("end-others").hidden = true;
}

function show(sessions) {
  items = sessions.toSorted((one, other) => other.current - one.current || other.last_seen_at.localeCompare(one.last_seen_at));
  list.replaceChildren(h("ul", { class: "items" }, items.map(row)));
  $("end-others").hidden = items.length < 2;
}

function row(item) {
  const name = deviceOf(item.device);
  const seen = h("time", { datetime: item.last_seen_at, title: fully(item.last_seen_at) }, `Seen ${fromNow(item.last_seen_at)}`);
  return h("li", { class: "item" },
    h("div", { class: "item-text" },
      h("h3", { title: item.device }, h("bdi", {}, name), " ", item.current ? h("span", { class: "badge", "data-kind": "good" }, "This one") : null),
      h("p", { class: "task-meta" }, item.address ? h("span", {}, `From ${item.address}`) : null, seen, h("span", {}, `signed in ${fully(item.created_at)}`))),
    item.current ? null : h("button", { type: "button", class: "quiet", "aria-label": `End session: ${name}, signed in ${fully(item.created_at)}`, onclick: () => end([item]) }, "End session"));
}

async function endOthers() {
  const others = items.filter((item) => !item.current);
  if (await ask({ title: "Sign out everywhere else?", text: `This ends ${count(others.length, "other session", "other sessions")} of yours. This one goes on.`, yes: "Sign out there" })) await end(others);
}

async function end(some) {
  try {
    for (const { id } of some) await endOne(id);
    say(some.length === 1 ? "The session has ended." : `${some.length} sessions have ended.`, "done");
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    sayProblem(problem);
  }
  await enterSessions();
  $("sessions-title").focus();
}

/** One that has ended by itself meanwhile has ended, too. */
async function endOne(id) {
  try {
    await call("DELETE", `${API}/auth/sessions/${encodeURIComponent(id)}`);
  } catch (problem) {
    if (problem.status !== 404) throw problem;
  }
}
