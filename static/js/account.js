// Signing in, creating an account, signing out, and signing in again when a session ends in the middle of something.
import { $ } from "./dom.js";
import { API, call, whenSessionEnds } from "./api.js";
import { session } from "./session.js";
import { clearProblem, onSubmit, showAtField, showProblem, tell } from "./forms.js";

/** Wire the forms. `entered()` is called when somebody is signed in, `left()` when nobody is any more. */
export function startAccount(entered, left) {
  $("show-login").addEventListener("click", () => choose("login"));
  $("show-register").addEventListener("click", () => choose("register"));
  onSubmit($("login-form"), async () => { await signIn($("login-form")); entered(); }, (problem) => wrongPassword($("login-form"), problem));
  onSubmit($("register-form"), async () => { if (await register()) entered(); }, (problem) => notAdmin($("register-form"), problem));
  $("sign-out").addEventListener("click", async () => { await signOut(); left(); });
  startSigningInAgain(left);
}

/** Show the sign-in page, with a word about why. */
export function showWelcome(why = "") {
  choose("login");
  tell($("login-form"), why, "info");
}

/** The user of the tokens we hold, from the server; null when nobody is signed in. */
export async function whoAmI() {
  if (!session.access) return null;
  try {
    session.user = (await call("GET", `${API}/users/me`)).body;
  } catch (problem) {
    if (problem.status !== 401) throw problem;
    session.end();
  }
  return session.user;
}

function choose(name) {
  for (const each of ["login", "register"]) {
    $(`${each}-form`).hidden = each !== name;
    $(`show-${each}`).setAttribute("aria-pressed", String(each === name));
    clearProblem($(`${each}-form`));
  }
  $(`${name}-form`).querySelector("input").focus();
}

async function signIn(form) {
  const body = { email: form.elements.email.value.trim(), password: form.elements.password.value };
  session.adopt((await call("POST", `${API}/auth/login`, { body, anonymous: true })).body);
  session.user = (await call("GET", `${API}/users/me`)).body;
  form.elements.password.value = "";
}

/** A refused sign-in names no field: it is shown where it can be mended. */
function wrongPassword(form, problem) {
  if (problem.status !== 401) return false;
  showAtField(form, "password", problem.message);
  form.elements.password.select();
  return true;
}

/** Nobody but the first may be admin: choose User, so that asking once more works. */
function notAdmin(form, problem) {
  if (problem.status === 403) form.elements.role.value = "user";
  return false;
}

/** Create the account and sign in with it. False when the server wants something else first, a confirmed address for one. */
async function register() {
  const form = $("register-form");
  const { username, email, password, role } = Object.fromEntries(new FormData(form));
  await call("POST", `${API}/auth/register`, { body: { username: username.trim(), email: email.trim(), password, role }, anonymous: true });
  $("login-form").elements.email.value = email;
  $("login-form").elements.password.value = password;
  form.reset();
  try {
    await signIn($("login-form"));
    return true;
  } catch (problem) {
    showWelcome(`Your account is made. ${problem.message}`);
    return false;
  }
}

async function signOut() {
  session.user = null;      // so that an ended session asks nothing
  try {
    await call("POST", `${API}/auth/logout`);
  } catch { /* an ended session cannot be ended again, and an unreachable server must not keep anybody signed in here */ }
  session.end();
}

/** The dialog that asks for the password again, so that what was being written is not lost. */
function startSigningInAgain(left) {
  const dialog = $("again");
  const form = $("again-form");
  let asked = null;
  const finish = (answer) => { dialog.close(); form.reset(); asked?.resolve(answer); asked = null; };
  whenSessionEnds(() => {
    if (!session.user) return Promise.resolve(false);
    asked ??= Promise.withResolvers();
    form.elements.email.value = session.user.email;
    clearProblem(form);
    if (!dialog.open) dialog.showModal();
    form.elements.password.focus();
    return asked.promise;
  });
  onSubmit(form, async () => { await signIn(form); finish(true); }, (problem) => wrongPassword(form, problem));
  dialog.addEventListener("cancel", () => finish(false));      // Escape: later; what was typed stays
  $("again-leave").addEventListener("click", () => { session.end(); finish(false); left(); });
}
