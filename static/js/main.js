// The start of the page: wires its parts together, and shows the sign-in page or the part that its address names.
import { $ } from "./dom.js";
import { exchanges } from "./api.js";
import { session } from "./session.js";
import { hideAccount, showAccount, startAccount } from "./account.js";
import { startEditor } from "./editor.js";
import { hideJobs, leaveJobs, showJobs, startJobs } from "./jobs.js";
import { say } from "./notices.js";
import { clearPanel, startPanel } from "./panel.js";
import { forgetPeople } from "./people.js";
import { showWelcome, startSigningIn, whoAmI } from "./sign-in.js";
import { forgetCodes } from "./second-factor.js";
import { startStatus } from "./status.js";
import { enterTasks, loadTasks, startTasks } from "./tasks.js";
import { hideUsers, showUsers, startUsers } from "./users.js";

const nothing = () => {};
/** The parts by their names in the address, each with its title; `hide` is called when another one is shown. */
const PARTS = {
  tasks: { title: "Walnut", show: (_, isNew) => (isNew ? showTasks() : undefined), hide: nothing },
  jobs: { title: "Jobs · Walnut", show: showJobs, hide: hideJobs },
  people: { title: "People · Walnut", show: showUsers, hide: hideUsers },
  account: { title: "Account · Walnut", show: showAccount, hide: hideAccount },
};

let part = null;           // the name of the part that is shown; null while nobody is signed in
let tasksEntered = false;

/** Show what belongs to whoever is signed in. */
async function entered() {
  showWho();
  await route();
}

function showWho() {
  $("who-name").textContent = session.user.username;
  $("who-role").textContent = session.user.role;
  $("part-people").hidden = !session.isAdmin;
}

/** Show the part that the page's address names: #/jobs, #/jobs?status=failed, #/jobs/ID, #/people, #/account; otherwise the tasks. */
async function route() {
  if (!session.user) return;
  const [path, query] = location.hash.slice(2).split("?");
  const [name, id] = path.split("/");
  const before = part;
  part = Object.hasOwn(PARTS, name) ? name : "tasks";
  if (before && before !== part) PARTS[before].hide();
  show(part);
  if (part !== before) $(`${part}-title`).focus({ preventScroll: true });
  await PARTS[part].show({ id, query: new URLSearchParams(query) }, part !== before);
}

async function showTasks() {
  if (tasksEntered) return loadTasks();
  tasksEntered = true;
  return enterTasks();
}

/** Nobody is signed in any more: nothing of theirs stays. */
function left(why) {
  if (part) PARTS[part].hide();
  part = null;
  tasksEntered = false;
  leaveJobs();
  forgetPeople();
  forgetCodes();
  clearPanel();
  for (const dialog of document.querySelectorAll("dialog[open]")) dialog.close();
  $("task-list").replaceChildren();
  for (const form of document.forms) form.reset();
  $("notices").replaceChildren();
  for (const text of ["who-name", "who-role", "tasks-count", "editor-facts", "confirm-text"]) $(text).textContent = "";
  show("welcome");
  showWelcome(why);
}

/** The same, by one's own will: what one person looked for is not the next one's business. */
function leftForGood(why) {
  history.replaceState(null, "", "/");
  left(why);
}

function show(name) {
  for (const section of ["welcome", ...Object.keys(PARTS)]) $(section).hidden = section !== name;
  for (const hidden of ["who", "parts"]) $(hidden).hidden = name === "welcome";
  for (const link of Object.keys(PARTS)) $(`part-${link}`).ariaCurrent = link === name ? "page" : null;
  document.title = PARTS[name]?.title ?? "Walnut";
}

/** Where the server wants a second factor before anything else, lead there. */
function leadToSecondFactor({ detail: problem }) {
  if (problem.code !== "second_factor_needed" || !session.user || part === "account") return;
  location.hash = "#/account/second-factor";
}

async function start() {
  const hadSession = session.exists;
  try {
    if (await whoAmI()) await entered();
    else left(hadSession ? "Your session has ended. Please sign in again." : "");
  } catch (problem) {
    left(problem.message);
  }
}

startPanel();
startSigningIn(entered, leftForGood);
startEditor();
startTasks();
startJobs();
startUsers(showWho);
startAccount(showWho, leftForGood);
exchanges.addEventListener("refused", leadToSecondFactor);
addEventListener("hashchange", route);
startStatus();
addEventListener("unhandledrejection", (event) => say(event.reason?.message ?? "Something went wrong in this page.", "error"));
start();
