// The part about oneself: profile, password, second factor, sessions, API keys, and one's data. Each has its own file.
import { $ } from "./dom.js";
import { API, Problem, call } from "./api.js";
import { session } from "./session.js";
import { enterKeys, leaveKeys, startKeys } from "./api-keys.js";
import { leaveData, startData } from "./own-data.js";
import { enterProfile, leaveProfile, startProfile } from "./profile.js";
import { askForFactor, enterFactor, leaveFactor, startFactor } from "./second-factor.js";
import { enterSessions, leaveSessions, startSessions } from "./sessions.js";

let told = () => {};

/** Wire it all. `changed()` is called when one's account is another than it was, `left(why)` when it is no more. */
export function startAccount(changed, left) {
  told = changed;
  startProfile(readMe, enterSessions);
  startFactor(() => Promise.all([readMe(), enterSessions()]));
  startSessions();
  startKeys();
  startData(left);
  $("reload-account").addEventListener("click", () => showAccount());
}

/** Show everything as it is now; what is asked for by name comes first. */
export async function showAccount({ id } = {}) {
  $("account-state").textContent = "Loading";
  const done = [enterSessions(), enterKeys(), readMe()];
  try {
    await Promise.all(done);
    $("account-state").textContent = "";
    if (id === "second-factor") askForFactor();
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    $("account-state").textContent = problem.message;
  }
}

/** Another part is shown: no secret stays, nor anything of who has left. */
export function hideAccount() {
  for (const leave of [leaveProfile, leaveFactor, leaveSessions, leaveKeys, leaveData]) leave();
}

/** Read one's account, and show it. */
async function readMe() {
  session.user = (await call("GET", `${API}/users/me`)).body;
  told();
  enterProfile(session.user);
  enterFactor(session.user);
}
