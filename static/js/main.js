// The start of the page: wires its parts together, and shows the sign-in page or the tasks.
import { $ } from "./dom.js";
import { session } from "./session.js";
import { showWelcome, startAccount, whoAmI } from "./account.js";
import { startEditor } from "./editor.js";
import { say } from "./notices.js";
import { startPanel } from "./panel.js";
import { startStatus } from "./status.js";
import { enterTasks, startTasks } from "./tasks.js";

/** Show what belongs to whoever is signed in. */
async function entered() {
  $("who-name").textContent = session.user.username;
  $("who-role").textContent = session.user.role;
  show("tasks");
  $("tasks-title").focus();
  await enterTasks();
}

function left(why) {
  $("task-list").replaceChildren();
  if ($("editor").open) $("editor").close();
  show("welcome");
  showWelcome(why);
}

function show(name) {
  for (const section of ["welcome", "tasks"]) $(section).hidden = section !== name;
  $("who").hidden = name === "welcome";
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
startStatus();
addEventListener("unhandledrejection", (event) => say(event.reason?.message ?? "Something went wrong in this page.", "error"));
start();
