// One's data: all of it as a file, and the end of the account.
import { $ } from "./dom.js";
import { API, Problem, call } from "./api.js";
import { session } from "./session.js";
import { download } from "./clipboard.js";
import { clearProblem, codeOf, onSubmit, showAtField } from "./forms.js";
import { say, sayProblem } from "./notices.js";

const dialog = $("erase");
const form = $("erase-form");

/** Wire it. `left(why)` is called when the account is gone. */
export function startData(left) {
  $("export").addEventListener("click", exportAll);
  $("erase-open").addEventListener("click", open);
  $("erase-cancel").addEventListener("click", () => dialog.close());
  onSubmit(form, () => erase(left));
}

/** Nothing typed stays. */
export function leaveData() {
  if (dialog.open) dialog.close();
  form.reset();
  $("erase-name").textContent = "";
}

async function exportAll() {
  try {
    const { body } = await call("GET", `${API}/users/me/export`);
    download(`walnut-export-${new Date().toISOString().slice(0, 10)}.json`, `${JSON.stringify(body, null, 2)}\n`, "application/json");
    say("Your data is in your downloads.", "done");
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    sayProblem(problem);
  }
}

function open() {
  form.reset();
  clearProblem(form);
  $("erase-name").textContent = session.user.username;
  dialog.showModal();
  form.elements.username.focus();
}

async function erase(left) {
  const { username, password } = form.elements;
  if (username.value.normalize() !== session.user.username.normalize()) {
    showAtField(form, "username", "This is not your username. Type it as it stands above.");
    username.focus();
    return;
  }
  await call("DELETE", `${API}/users/me`, { body: { password: password.value, ...codeOf(form) } });
  session.end();
  left("Your account is deleted. Goodbye.");
}
