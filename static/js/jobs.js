// The list of jobs: by status (kept in the page's address), the newest first, and brought up to date as they change.
import { $, fromTemplate, h, state } from "./dom.js";
import { API, Problem, call } from "./api.js";
import { session } from "./session.js";
import { forget, happenings, listen, rest } from "./events.js";
import { closeJob, openJob, startJob } from "./job.js";
import { enterSubmit, followJob, startSubmit } from "./submit.js";
import { person } from "./people.js";
import { JOB_STATUS, PRIORITY, between, clock, fully, shortId } from "./words.js";

const LIMIT = 20;
const PAUSE_MS = 600;      // between two looks that events ask for: a thousand jobs are not a thousand requests
const LIVE = {
  live: ["Live", "Changes appear as they happen: the page listens to GET /events."],
  connecting: ["Connecting", "Asking for GET /events."],
  waiting: ["No connection", "The server could not be reached. It is tried again after growing pauses."],
  asking: ["Every 5 seconds", "The server does not stream at the moment, so the list is asked for every 5 seconds."],
  ended: ["Not live", "Your session has ended. Refresh asks you to sign in again."],
  resting: ["", ""],
};

let status = "";
let page = 1;
let turn = 0;              // the newest load; older answers that arrive later are dropped
let entered = false;       // whether this is the first look of whoever signed in
let items = [];            // what is shown
let looked = 0;
let looking = null;
const rows = new Map();    // id: the element, kept so that the focus stays where it is
const heard = new Map();   // id: {status, at} of an event that is newer than the list

/** Wire the list, the form and the dialog. */
export function startJobs() {
  startSubmit(() => loadJobs({ silent: true }));
  startJob(() => loadJobs({ silent: true }), () => history.replaceState(null, "", address()));
  $("reload-jobs").addEventListener("click", () => { listen(); loadJobs(); });
  happenings.addEventListener("connection", ({ detail }) => showLive(detail));
  happenings.addEventListener("anew", lookSoon);
  happenings.addEventListener("job", ({ detail }) => hear(detail));
}

/** Show what the page's address asks for: `id` opens a job, `query` has the status and the page. */
export async function showJobs({ id, query }) {
  const isNew = !entered;
  entered = true;
  if (isNew) enterSubmit();
  listen();
  if (id) openJob(id);
  else closeJob();
  if (id && !isNew) return;
  const before = page;
  status = Object.hasOwn(JOB_STATUS, query.get("status")) ? query.get("status") : "";
  page = Math.max(1, Number.parseInt(query.get("page") ?? "1", 10) || 1);
  if (page !== before && document.activeElement.closest("#jobs-pager")) $("jobs-title").focus();
  await loadJobs();
}

/** Another part is shown: nobody listens. */
export function hideJobs() {
  closeJob();
  rest();
}

/** Forget everything about whoever was signed in. */
export function leaveJobs() {
  entered = false;
  turn += 1;
  clearTimeout(looking);
  items = [];
  for (const known of [rows, heard]) known.clear();
  for (const id of ["job-list", "statuses", "newest"]) $(id).replaceChildren();
  closeJob();
  forget();
}

/** The address of the list, or of another status or page of it. */
function address(wanted = { status, page }) {
  const query = new URLSearchParams();
  if (wanted.status) query.set("status", wanted.status);
  if (wanted.page > 1) query.set("page", wanted.page);
  return query.size ? `#/jobs?${query}` : "#/jobs";
}

/** Read the list. `silent`: because of an event, so neither the request panel nor the screen reader is told. */
async function loadJobs({ silent = false } = {}) {
  const mine = ++turn;
  const list = $("job-list");
  clearTimeout(looking);
  looking = null;
  if (!silent) list.ariaBusy = "true";
  if (!list.firstElementChild) list.replaceChildren(...Array.from({ length: 3 }, () => h("div", { class: "skeleton", "aria-hidden": "true" })));
  try {
    const query = new URLSearchParams({ ...(status && { status }), page, limit: LIMIT });
    const { body } = await call("GET", `${API}/jobs?${query}`, { silent });
    if (mine === turn) show(body);
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    if (mine === turn && !(silent && items.length)) showFailure(problem);
  } finally {
    looked = performance.now();
    if (mine === turn) list.ariaBusy = "false";
  }
}

function lookSoon() {
  looking ??= setTimeout(() => loadJobs({ silent: true }), Math.max(30, looked + PAUSE_MS - performance.now()));
}

/** Something happened to a job: its row says so at once, the rest follows. */
function hear({ request_id, status: now, at }) {
  heard.set(request_id, { status: now, at });
  const item = items.find((one) => one.request_id === request_id);
  if (item) showRow(brought(item));
  followJob({ request_id, status: now });
  lookSoon();
}

/** An item of the list, with the status of an event that came after it was read. */
function brought(item) {
  const later = heard.get(item.request_id);
  if (later && later.at > item.updated_at) return { ...item, status: later.status };
  heard.delete(item.request_id);
  return item;
}

function show(body) {
  items = body.items;
  for (const id of heard.keys()) if (!items.some((item) => item.request_id === id)) heard.delete(id);
  showCounts(body.counts);
  showPages(body.total);
  if (items.length) showRows(items.map(brought));
  else $("job-list").replaceChildren(emptiness(body.total));
  for (const item of items) followJob(item);
}

function showCounts(counts) {
  const all = Object.values(counts).reduce((sum, count) => sum + count, 0);
  const link = (name, words, count) => h("a", { href: address({ status: name }), "data-status": name || null, "aria-current": name === status && "true" },
    words, " ", h("span", { class: "number" }, String(count)));
  const links = [link("", "All", all), ...Object.entries(JOB_STATUS).map(([name, words]) => link(name, words, counts[name]))];
  const at = [...$("statuses").children].indexOf(document.activeElement);
  $("statuses").replaceChildren(...links);
  links[at]?.focus();
}

function showPages(total) {
  const from = (page - 1) * LIMIT;
  $("jobs-pager").hidden = total <= LIMIT && page === 1;
  $("jobs-range").textContent = `${Math.min(from + 1, total)}–${Math.min(from + LIMIT, total)} of ${total}`;
  turnable($("jobs-before"), page > 1, page - 1);
  turnable($("jobs-after"), from + LIMIT < total, page + 1);
}

/** A link to a page; one that leads nowhere is no link. */
function turnable(link, possible, number) {
  if (possible) link.href = address({ status, page: number });
  else link.removeAttribute("href");
  link.ariaDisabled = possible ? null : "true";
}

/** Put the rows in order without touching those that stand right: a row that is moved would lose the focus. */
function showRows(wanted) {
  const list = $("job-list").querySelector(".jobs-list") ?? h("ul", { class: "tasks-list jobs-list" });
  wanted.map(showRow).forEach((row, index) => { if (list.children[index] !== row) list.insertBefore(row, list.children[index] ?? null); });
  while (list.children.length > wanted.length) list.lastElementChild.remove();
  for (const id of rows.keys()) if (!wanted.some((item) => item.request_id === id)) rows.delete(id);
  if (!list.parentElement) $("job-list").replaceChildren(list);
}

function showRow(item) {
  const row = rows.get(item.request_id) ?? fromTemplate("job-template");
  rows.set(item.request_id, row);
  row.dataset.status = item.status;
  const link = row.querySelector(".job-link");
  link.href = `#/jobs/${item.request_id}`;
  link.replaceChildren(item.vendor_type ?? item.kind, " ", h("code", {}, shortId(item.request_id)));
  row.querySelector(".task-meta").replaceChildren(...meta(item));
  return row;
}

function meta(item) {
  const parts = [
    h("span", { class: "badge", "data-status": item.status }, JOB_STATUS[item.status] ?? item.status),
    h("time", { datetime: item.created_at, title: fully(item.created_at) }, clock(item.created_at)),
  ];
  if (item.finished_at) parts.push(h("span", {}, `in ${between(item.created_at, item.finished_at)}`));
  if (item.attempts > 1) parts.push(h("span", {}, `${item.attempts} attempts`));
  if (item.priority !== 3) parts.push(h("span", { class: "badge", "data-priority": item.priority }, `${item.priority} · ${PRIORITY[item.priority] ?? ""}`));
  if (item.owner_id !== session.user?.id) parts.push(h("span", { class: "person" }, "by ", item.owner_id ? person(item.owner_id) : "the server"));
  if (item.error) parts.push(h("span", { class: "job-error", dir: "auto" }, item.error));
  return parts;
}

function emptiness(total) {
  if (total) return state("There is nothing on this page", "The list is shorter than that.", h("a", { class: "button", href: address({ status, page: 1 }) }, "To the first page"));
  if (status) return state(`No job is ${JOB_STATUS[status].toLowerCase()}`, "", h("a", { class: "button", href: "#/jobs" }, "Show all"));
  return state("No jobs yet", "Submit the first one above: the example will do.");
}

function showFailure(problem) {
  const id = problem.requestId ? h("p", { class: "hint" }, "Request ", h("code", {}, problem.requestId)) : null;
  const failed = state("The jobs could not be loaded", problem.message, id, h("button", { type: "button", onclick: () => loadJobs() }, "Try again"));
  failed.setAttribute("role", "alert");
  items = [];
  $("job-list").replaceChildren(failed);
}

function showLive(now) {
  const [words, why] = LIVE[now];
  if ($("live").textContent !== words) $("live").textContent = words;
  Object.assign($("live").dataset, { state: now });
  $("live").title = why;
}
