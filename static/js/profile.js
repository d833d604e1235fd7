// One's name, address and password.
import { $, h } from "./dom.js";
import { API, call } from "./api.js";
import { session } from "./session.js";
import { clearProblem, codeOf, onSubmit, showAtField, tell } from "./forms.js";
import { say } from "./notices.js";
import { addressStays, fully } from "./words.js";

const form = $("profile-form");
const passwordForm = $("password-form");
let keeps = false;      // whether the present address is to be sent, which calls a new one off that waits

/** Wire both forms. `changed()` reads the account again, `others()` the sessions. */
export function startProfile(changed, others) {
  onSubmit(form, () => save(changed));
  onSubmit(passwordForm, () => changePassword(changed, others));
  form.elements.email.addEventListener("input", () => askForProof());
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

/** An address is worth a password: it is the key to everything else. */
function askForProof(keep = false) {
  keeps = keep;
  const same = !session.user || form.elements.email.value.trim() === session.user.email;
  $("profile-proof").hidden = same && !keeps;
  if (same) for (const name of ["current_password", "code"]) form.elements[name].value = "";
}

function showAddress({ email, new_email, email_confirmed_at }) {
  const button = (label, address, act) => h("button", { type: "button", "aria-label": `${label}: ${address}`, onclick: () => act(address) }, label);
  const present = email_confirmed_at ? h("p", {}, h("bdi", {}, email), " is confirmed.")
    : h("p", {}, h("bdi", {}, email), " is not confirmed yet: open the link in the mail we sent there.", button("Send the mail again", email, sendAgain));
  const waiting = new_email && h("p", {}, "To be ", h("bdi", {}, new_email), ", once you open the link in the mail we sent there. Until then it stays as it is.",
    button("Send the mail again", new_email, askAgain), button("Keep the present address", email, keepPresent));
  $("address-state").replaceChildren(...[present, waiting].filter(Boolean));
}

async function sendAgain(email) {
  say((await call("PUT", `${API}/auth/confirmation`, { body: { email } })).body.message, "done");
}

/** To a new address only who shows the password again has mail sent again: it may be a stranger's. */
const askAgain = (email) => askToSave(email, "Give your password once more and save: then the mail is sent again.");

/** A new address that waits is called off by asking for the present one. */
const keepPresent = (email) => askToSave(email, "Give your password and save: then your address stays, and the link to the new one is good no longer.", true);

function askToSave(email, why, keep = false) {
  clearProblem(form);
  form.elements.email.value = email;
  askForProof(keep);
  tell(form, why, "info");
  form.elements.current_password.focus();
}

async function save(changed) {
  const body = changes();
  if (!Object.keys(body).length) { tell(form, "Nothing was changed.", "info"); return; }
  if (body.email !== undefined && !proof(body)) return;
  const { email, new_email } = (await call("PATCH", `${API}/users/me`, { body })).body;
  await changed();
  say(body.email === undefined ? "Your profile is saved." : new_email ? "We sent a mail to the new address: open the link in it." : `Your address stays ${email}.`, "done");
}

/** What was typed differently; and the present address, if it is to be kept. */
function changes() {
  const given = { username: form.elements.username.value.trim(), email: form.elements.email.value.trim() };
  return Object.fromEntries(Object.entries(given).filter(([name, value]) => value !== session.user[name] || (keeps && name === "email")));
}

/** Add what proves who asks; false, and said at the field, where no password was typed. */
function proof(body) {
  const { current_password } = form.elements;
  if (!current_password.value) {
    showAtField(form, "current_password", "Type your password: without it no address is changed.");
    current_password.focus();
    return false;
  }
  Object.assign(body, { current_password: current_password.value }, codeOf(form));
  return true;
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
