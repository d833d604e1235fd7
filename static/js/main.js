// The start of the page: wires its parts together, and shows the sign-in page or the part that its address names.
import { $ } from "./dom.js";
import { session } from "./session.js";
import { showWelcome, startAccount, whoAmI } from "./account.js";
import { startEditor } from "./editor.js";
import { hideJobs, leaveJobs, showJobs, startJobs } from "./jobs.js";
import { say } from "./notices.js";
import { startPanel } from "./panel.js";
import { startStatus } from "./status.js";
import { enterTasks, loadTasks, startTasks } from "./tasks.js";

let part = null;           // "tasks" or "jobs"; null while nobody is signed in
let tasksEntered = false;

/** Show what belongs to whoever is signed in. */
async function entered() {
  $("who-name").textContent = session.user.username;
  $("who-role").textContent = session.user.role;
  await route();
}

/** Show the part that the page's address names: #/jobs, #/jobs?status=failed, #/jobs/ID; otherwise the tasks. */
async function route() {
  if (!session.user) return;
  const [path, query] = location.hash.slice(2).split("?");
  const [name, id] = path.split("/");
  const before = part;
  part = name === "jobs" ? "jobs" : "tasks";
  show(part);
  if (part !== before) $(`${part}-title`).focus({ preventScroll: true });
  if (part === "jobs") await showJobs({ id, query: new URLSearchParams(query) });
  else if (part !== before) await showTasks();
}

async function showTasks() {
  hideJobs();
  if (tasksEntered) return loadTasks();
  tasksEntered = true;
  return enterTasks();
}

function left(why) {
  part = null;
  tasksEntered = false;
  leaveJobs();
  $("task-list").replaceChildren();
  if ($("editor").open) $("editor").close();
  show("welcome");
  showWelcome(why);
}

function show(name) {
  for (const section of ["welcome", "tasks", "jobs"]) $(section).hidden = section !== name;
  for (const hidden of ["who", "parts"]) $(hidden).hidden = name === "welcome";
  for (const link of ["tasks", "jobs"]) $(`part-${link}`).ariaCurrent = link === name ? "page" : null;
  document.title = name === "jobs" ? "Jobs · Walnut" : "Walnut";
}

async function start() {
  const hadSession = Boolean(session.access);
  try {
    if (await whoAmI()) await entered();
    else left(hadSession ? "Your session has ended. Please sign in again." : "");
  } catch (problem) {
    left(problem.message);
  }
}

startPanel();
startAccount(entered, () => {
  history.replaceState(null, "", "/");      // what one person looked for is not the next one's business
  $("filters").reset();
  left();
});
startEditor();
startTasks();
startJobs();
addEventListener("hashchange", route);
startStatus();
addEventListener("unhandledrejection", (event) => say(event.reason?.message ?? "Something went wrong in this page.", "error"));
start();
