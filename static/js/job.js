// One job, opened: how it stands, what happened to it and when, and what came of it. Brought up to date as it changes.
import { $, allow, h } from "./dom.js";
import { API, Problem, call } from "./api.js";
import { session } from "./session.js";
import { happenings } from "./events.js";
import { ask } from "./notices.js";
import { person } from "./people.js";
import { block, coloured, pretty } from "./json.js";
import { JOB_STATUS, PRIORITY, between, clock, fully } from "./words.js";

const ENDED = ["complete", "failed", "cancelled"];
const ONLY_ADMIN = "Only an admin may retry a job. Submit it anew instead.";

const dialog = $("job");
let id = null;             // of the job that is open
let shown = null;          // the job as it was last read
let reading = false;
let again = false;         // something happened while it was being read

/** Wire the dialog. `changed()` is called when something was done here, `closed()` when it has been closed. */
export function startJob(changed, closed) {
  $("job-close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => { if (id) { id = null; closed(); } });
  $("job-cancel").addEventListener("click", async () => { if (await cancel()) changed(); });
  $("job-retry").addEventListener("click", async () => { if (await act("retry")) changed(); });
  happenings.addEventListener("job", ({ detail }) => { if (detail.request_id === id) readJob({ silent: true }); });
  happenings.addEventListener("anew", () => { if (id && !ENDED.includes(shown?.status)) readJob({ silent: true }); });
}

/** Open a job. */
export async function openJob(wanted) {
  if (id === wanted) return;
  empty();
  id = wanted;
  $("job-status").textContent = "Loading";
  if (!dialog.open) dialog.showModal();
  await readJob();
}

/** Close whatever job is open, without a word to the address. */
export function closeJob() {
  empty();
  if (dialog.open) dialog.close();
}

/** Nothing of one job is left for the next one, or for the next person. */
function empty() {
  id = shown = null;
  tell("");
  $("job-title").textContent = "Job";
  delete $("job-status").dataset.status;
  for (const part of ["job-status", "job-facts", "job-outcome", "job-timeline"]) $(part).replaceChildren();
  $("job-foot").hidden = true;
}

async function readJob({ silent = false } = {}) {
  if (reading && silent) { again = true; return; }
  const mine = id;
  reading = true;
  try {
    const { body } = await call("GET", `${API}/jobs/${encodeURIComponent(mine)}`, { silent });
    if (mine === id) { tell(""); show(body); }
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    if (mine === id && !silent) { tell(problem.message); $("job-status").textContent = ""; }
  } finally {
    reading = false;
  }
  if (again && id) { again = false; await readJob({ silent: true }); }
}

function tell(text) {
  $("job-problem").textContent = text;
  $("job-problem").hidden = !text;
}

function show(job) {
  shown = job;
  $("job-title").textContent = job.vendor_type ? `Job for ${job.vendor_type}` : `Job of the server: ${job.kind}`;
  $("job-status").dataset.status = job.status;
  const words = JOB_STATUS[job.status] ?? job.status;
  if ($("job-status").textContent !== words) $("job-status").replaceChildren(h("span", { class: "mark", "aria-hidden": "true" }), h("strong", {}, words));
  $("job-facts").replaceChildren(...facts(job).map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
  $("job-outcome").replaceChildren(...outcome(job));
  $("job-timeline").replaceChildren(...job.timeline.map((event) => moment(event, job.created_at)));
  showActions(job);
}

function facts(job) {
  const rows = [["Request ID", job.request_id], ["Priority", `${job.priority} · ${PRIORITY[job.priority] ?? ""}`], ["Attempts", String(job.attempts)], ["Submitted", fully(job.created_at)]];
  if (job.finished_at) rows.push(["Took", between(job.created_at, job.finished_at)]);
  else if (new Date(job.run_at) > new Date()) rows.push([job.status === "processing" ? "Answer by" : "Not before", clock(job.run_at)]);
  if (job.owner_id !== session.user?.id) rows.push(["Submitted by", job.owner_id ? person(job.owner_id) : "the server"]);
  return rows;
}

function outcome(job) {
  return [...(job.kind === "vendor" ? [block("Payload", coloured(pretty(job.vendor_payload)))] : []), ...answer(job)];
}

function answer(job) {
  if (job.status === "complete") return [block("Result", coloured(pretty(job.result)))];
  return job.error ? [block(job.status === "failed" ? "Error" : "What went wrong so far", job.error)] : [];
}

function moment({ at, event, detail }, start) {
  return h("li", { "data-event": event }, h("time", { datetime: at, title: fully(at) }, clock(at)), h("span", { class: "since" }, `+${between(start, at)}`),
    h("span", { class: "what" }, h("strong", {}, event[0].toUpperCase() + event.slice(1)), detail ? h("span", { class: "detail", dir: "auto" }, detail) : null));
}

/** Cancel is for who submitted it (and for admins), retry for admins. */
function showActions(job) {
  const mayRetry = ["failed", "cancelled"].includes(job.status);
  $("job-cancel").hidden = ENDED.includes(job.status) || !(session.isAdmin || job.owner_id === session.user?.id);
  $("job-retry").hidden = !mayRetry;
  $("job-foot").hidden = $("job-cancel").hidden && !mayRetry;
  $("job-hint").textContent = mayRetry && !session.isAdmin ? ONLY_ADMIN : "";
  allow($("job-retry"), session.isAdmin, ONLY_ADMIN, "job-hint");
}

async function cancel() {
  const sure = await ask({ title: "Cancel this job?", text: "A vendor that was called already is not called back: its answer is not kept.", yes: "Cancel job", no: "Keep it" });
  return sure && act("cancellation");
}

/** Send what changes the job, and show it as it is then; false when it was refused, which is said here. */
async function act(what) {
  const mine = id;
  try {
    const { body } = await call("POST", `${API}/jobs/${mine}/${what}`);
    if (mine === id) { tell(""); show(body); }
    return true;
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    await readJob({ silent: true });
    if (mine === id) tell(problem.message);
    return false;
  }
}
