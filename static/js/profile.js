// One's name, address and password.
import { $, h } from "./dom.js";
import { API, call } from "./api.js";
import { session } from "./session.js";
import { clearProblem, onSubmit, tell } from "./forms.js";
import { say } from "./notices.js";
import { fully } from "./words.js";

const form = $("profile-form");
const passwordForm = $("password-form");

/** Wire both forms. `changed()` reads the account again, `others()` the sessions. */
export function startProfile(changed, others) {
  onSubmit(form, () => save(changed));
  onSubmit(passwordForm, async () => { await changePassword(); others(); });
  form.elements.email.addEventListener("input", askForPassword);
}

/** Show an account. */
export function enterProfile(user) {
  clearProblem(form);
  form.elements.username.value = user.username;
  form.elements.email.value = user.email;
  passwordForm.elements.email.value = user.email;
  askForPassword();
  showAddress(user);
  $("profile-facts").replaceChildren(`${user.role === "admin" ? "Admin" : "User"} since ${fully(user.created_at)}. Id `, h("code", {}, user.id));
}

/** Nothing typed stays. */
export function leaveProfile() {
  for (const each of [form, passwordForm]) { each.reset(); clearProblem(each); }
  $("address-state").replaceChildren();
  $("profile-facts").replaceChildren();
  askForPassword();
}

/** A new address is worth a password: it is the key to everything else. */
function askForPassword() {
  const same = !session.user || form.elements.email.value.trim() === session.user.email;
  form.elements.current_password.closest(".field").hidden = same;
  if (same) form.elements.current_password.value = "";
}

function showAddress({ email, new_email, email_confirmed_at }) {
  const again = h("button", { type: "button", onclick: () => sendAgain(email) }, "Send the mail again");
  const words = new_email ? ["To be ", h("bdi", {}, new_email), ", once you open the link in the mail we sent there. Until then it stays as it is.", email_confirmed_at ? again : ""]
    : email_confirmed_at ? [] : ["Not confirmed yet: open the link in the mail we sent there.", again];
  $("address-state").replaceChildren(...words);
  $("address-state").hidden = !words.length;
}

/** Whichever address is to be confirmed next: the server knows which one that is. */
async function sendAgain(email) {
  say((await call("PUT", `${API}/auth/confirmation`, { body: { email } })).body.message, "done");
}

async function save(changed) {
  const given = { username: form.elements.username.value.trim(), email: form.elements.email.value.trim() };
  const body = Object.fromEntries(Object.entries(given).filter(([name, value]) => value !== session.user[name]));
  if (!Object.keys(body).length) { tell(form, "Nothing was changed.", "info"); return; }
  if (body.email !== undefined) body.current_password = form.elements.current_password.value;
  const { new_email } = (await call("PATCH", `${API}/users/me`, { body })).body;
  await changed();
  say(body.email && new_email ? "We sent a mail to the new address: open the link in it." : "Your profile is saved.", "done");
}

async function changePassword() {
  const { current_password, new_password } = passwordForm.elements;
  await call("PUT", `${API}/auth/change-password`, { body: { current_password: current_password.value, new_password: new_password.value } });
  passwordForm.reset();
  passwordForm.elements.email.value = session.user.email;
  say("Your password is changed. You are signed out everywhere else.", "done");
}
