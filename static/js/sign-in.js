// Signing in, with a second factor where the account has one; creating an account, signing out, and signing in again when a
// session ends in the middle of something.
import { $, h } from "./dom.js";
import { API, call, whenSessionEnds } from "./api.js";
import { session, takesCookies, whenLeftElsewhere } from "./session.js";
import { clearProblem, codeOf, onSubmit, showAtField, tell } from "./forms.js";

/** Wire the forms. `entered()` is called when somebody is signed in, `left(why)` when nobody is any more. */
export function startSigningIn(entered, left) {
  $("show-login").addEventListener("click", () => choose("login"));
  $("show-register").addEventListener("click", () => choose("register"));
  const login = $("login-form");
  onSubmit(login, async () => { await signIn(login); entered(); }, (problem) => refused(login, problem));
  onSubmit($("register-form"), async () => { if (await register()) entered(); }, (problem) => notAdmin($("register-form"), problem));
  for (const form of [login, $("again-form")]) startCode(form);
  login.elements.email.addEventListener("input", () => askForCode(login, false));      // another account, another factor
  $("sign-out").addEventListener("click", async () => left(await signOut()));
  whenLeftElsewhere(() => { if ($("again").open) $("again").close(); left("You signed out in another tab."); });
  startSigningInAgain(left);
}

/** Show the sign-in page, with a word about why. */
export function showWelcome(why = "") {
  for (const name of ["login", "register", "again"]) $(`${name}-form`).reset();
  choose("login");
  tell($("login-form"), why, "info");
}

/** The user of the session we have, from the server; null when nobody is signed in. */
export async function whoAmI() {
  if (!session.exists) return null;
  try {
    session.user = (await call("GET", `${API}/users/me`)).body;
  } catch (problem) {
    if (problem.status !== 401) throw problem;
    session.end({ quiet: true });
  }
  return session.user;
}

function choose(name) {
  for (const each of ["login", "register"]) {
    $(`${each}-form`).hidden = each !== name;
    $(`show-${each}`).setAttribute("aria-pressed", String(each === name));
    clearProblem($(`${each}-form`));
  }
  askForCode($("login-form"), false);
  $(`${name}-form`).querySelector("input").focus();
}

async function signIn(form) {
  const { email, password } = form.elements;
  const body = { email: email.value.trim(), password: password.value, ...codeOf(form), ...(takesCookies() && { cookie: true }) };
  session.adopt((await call("POST", `${API}/auth/login`, { body, anonymous: true, cookie: true })).body);
  session.user = (await call("GET", `${API}/users/me`)).body;
  password.value = "";
  askForCode(form, false);
}

/** A refused sign-in is shown where it can be mended: the code that is asked for, the mail that was not read, the password. */
function refused(form, problem) {
  if (problem.code === "second_factor_required") {
    askForCode(form, true);
    tell(form, "The password is right. Now your second factor:", "info");
  } else if (problem.code === "email_not_confirmed") offerMail(form);
  else if (problem.status === 401 && !problem.errors.length) {
    showAtField(form, "password", problem.message);
    form.elements.password.select();
  } else return false;
  return true;
}

// ---- the second factor

function startCode(form) {
  const { code } = form.elements;
  form.querySelector(".other-code").addEventListener("click", () => { clearProblem(form); askForCode(form, true, code.inputMode === "numeric"); });
}

function askForCode(form, yes, recovery = false) {
  const { code } = form.elements;
  code.closest(".field").hidden = !yes;
  code.value = "";
  letters(form, recovery);
  if (yes) code.focus();
}

/** A phone shows digits to type; a recovery code has letters. */
function letters(form, yes) {
  form.elements.code.inputMode = yes ? "text" : "numeric";
  form.querySelector(".code-name").textContent = yes ? "Recovery code" : "Code from your authenticator";
  form.querySelector(".other-code").textContent = yes ? "Use a code from your authenticator" : "Use a recovery code";
}

// ---- the address that has to be confirmed first

function offerMail(form) {
  const again = h("button", { type: "button", onclick: () => sendAgain(form) }, "Send the mail again");
  tell(form, "This address is not confirmed yet: open the link in the mail that we sent there, then sign in.");
  form.querySelector(".message").append(again);
}

async function sendAgain(form) {
  try {
    const { body } = await call("PUT", `${API}/auth/confirmation`, { body: { email: form.elements.email.value.trim() }, anonymous: true });
    tell(form, body.message, "info");
  } catch (problem) {
    if (!problem.errors) throw problem;
    tell(form, problem.message);
  }
}

// ---- a new account

/** Nobody but the first may be admin: choose User, so that asking once more works. */
function notAdmin(form, problem) {
  if (problem.status !== 403 || form.elements.role.value !== "admin") return false;
  form.elements.role.value = "user";
  tell(form, "Nobody can become an admin here now: only the first account of a development server may. Choose User (it is chosen already), and create the account once more.");
  return true;
}

/** Create the account and sign in with it. False when the server wants something else first, a confirmed address for one. */
async function register() {
  const form = $("register-form");
  const { username, email, password, role } = Object.fromEntries(new FormData(form));
  await call("POST", `${API}/auth/register`, { body: { username: username.trim(), email: email.trim(), password, role }, anonymous: true });
  const login = $("login-form");
  form.reset();
  choose("login");
  login.elements.email.value = email.trim();
  login.elements.password.value = password;
  try {
    await signIn(login);
    return true;
  } catch (problem) {
    if (!problem.errors) throw problem;
    if (!refused(login, problem)) tell(login, `Your account is made. ${problem.message}`, "info");
    return false;
  }
}

// ---- signing out, and in again

/** End the session, here whatever happens; returns what is to be said about it. */
export async function signOut() {
  let word = "";
  const asked = session.user;
  session.user = null;      // so that an ended session asks nothing
  try {
    await call("POST", `${API}/auth/logout`, { cookie: true });
  } catch (problem) {
    if (problem.status !== 401) word = `You are signed out here, but the server does not know it yet: ${problem.message} Sign in and out once more when it answers.`;
  }
  session.user = asked;
  session.end();
  return word;
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
    askForCode(form, false);
    if (!dialog.open) dialog.showModal();
    form.elements.password.focus();
    return asked.promise;
  });
  onSubmit(form, async () => { await signIn(form); finish(true); }, (problem) => refused(form, problem));
  dialog.addEventListener("cancel", () => finish(false));      // Escape: later; what was typed stays
  dialog.addEventListener("close", () => { asked?.resolve(false); asked = null; });
  $("again-leave").addEventListener("click", () => { session.end(); finish(false); left(); });
}
