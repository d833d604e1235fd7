// One's name, address and password.
import { $, h } from "./dom.js";
import { API, call } from "./api.js";
import { session } from "./session.js";
import { clearProblem, codeOf, onSubmit, tell } from "./forms.js";
import { say } from "./notices.js";
import { addressStays, fully } from "./words.js";

const form = $("profile-form");
const passwordForm = $("password-form");

/** Wire both forms. `changed()` reads the account again, `others()` the sessions. */
export function startProfile(changed, others) {
  onSubmit(form, () => save(changed));
  onSubmit(passwordForm, () => changePassword(changed, others));
  form.elements.email.addEventListener("input", askForProof);
}

/** Show an account. */
export function enterProfile(user) {
  clearProblem(form);
  form.elements.username.value = user.username;
  form.elements.email.value = user.email;
  passwordForm.elements.email.value = user.email;
  askForProof();
  showAddress(user);
  $("profile-facts").replaceChildren(`${user.role === "admin" ? "Admin" : "User"} since ${fully(user.created_at)}. Id `, h("code", {}, user.id));
}

/** Nothing typed stays. */
export function leaveProfile() {
  for (const each of [form, passwordForm]) { each.reset(); clearProblem(each); }
  $("address-state").replaceChildren();
  $("profile-facts").replaceChildren();
  askForProof();
}

/** A new address is worth a password: it is the key to everything else. */
function askForProof() {
  const same = !session.user || form.elements.email.value.trim() === session.user.email;
  $("profile-proof").hidden = same;
  if (same) for (const name of ["current_password", "code"]) form.elements[name].value = "";
}

function showAddress({ email, new_email, email_confirmed_at }) {
  const note = (address, text, send) => h("p", {}, ...text,
    h("button", { type: "button", "aria-label": `Send the mail again to ${address}`, onclick: () => send(address) }, "Send the mail again"));
  const notes = [
    ...(email_confirmed_at ? [] : [note(email, [h("bdi", {}, email), " is not confirmed yet: open the link in the mail we sent there."], sendAgain)]),
    ...(new_email ? [note(new_email, ["To be ", h("bdi", {}, new_email), ", once you open the link in the mail we sent there. Until then it stays as it is."], askAgain)] : []),
  ];
  $("address-state").replaceChildren(...notes);
  $("address-state").hidden = !notes.length;
}

async function sendAgain(email) {
  say((await call("PUT", `${API}/auth/confirmation`, { body: { email } })).body.message, "done");
}

/** To a new address only who shows the password again has mail sent again: it may be a stranger's. */
function askAgain(email) {
  clearProblem(form);
  form.elements.email.value = email;
  askForProof();
  tell(form, "Give your password once more and save: then the mail is sent again.", "info");
  form.elements.current_password.focus();
}

async function save(changed) {
  const given = { username: form.elements.username.value.trim(), email: form.elements.email.value.trim() };
  const body = Object.fromEntries(Object.entries(given).filter(([name, value]) => value !== session.user[name]));
  if (!Object.keys(body).length) { tell(form, "Nothing was changed.", "info"); return; }
  if (body.email !== undefined) Object.assign(body, { current_password: form.elements.current_password.value }, codeOf(form));
  const { new_email } = (await call("PATCH", `${API}/users/me`, { body })).body;
  await changed();
  say(body.email && new_email ? "We sent a mail to the new address: open the link in it." : "Your profile is saved.", "done");
}

/** A new password drops a new address that waits for its link: somebody else may have asked for it. */
async function changePassword(changed, others) {
  const { current_password, new_password } = passwordForm.elements;
  const before = session.user;
  await call("PUT", `${API}/auth/change-password`, { body: { current_password: current_password.value, new_password: new_password.value, ...codeOf(passwordForm) } });
  passwordForm.reset();
  passwordForm.elements.email.value = before.email;
  say(`Your password is changed. You are signed out everywhere else.${addressStays(before)}`, "done");
  await Promise.all([others(), before.new_email && changed()]);
}
