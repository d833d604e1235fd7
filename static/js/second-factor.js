// The second factor (RFC 6238): set it up with an authenticator, keep the recovery codes, make new ones, switch it off.
import { $, h } from "./dom.js";
import { API, call } from "./api.js";
import { session } from "./session.js";
import { copyButton, download } from "./clipboard.js";
import { clearProblem, onSubmit, tell } from "./forms.js";
import { say } from "./notices.js";
import { addressStays, fully, inOneWord } from "./words.js";

const FORMS = ["setup", "confirm", "renew", "off"].map((name) => $(`totp-${name}-form`));
const [setup, confirm, renew, off] = FORMS;
let again = async () => {};

/** Wire the forms. `changed()` reads the account again. */
export function startFactor(changed) {
  again = changed;
  onSubmit(setup, begin);
  onSubmit(confirm, switchOn);
  onSubmit(renew, newCodes);
  onSubmit(off, switchOff);
  $("totp-cancel").addEventListener("click", () => { enterFactor(session.user); setup.elements.password.focus(); });
  $("codes-done").addEventListener("click", () => { forgetCodes(); $("totp-title").focus(); });
  addEventListener("beforeunload", (event) => { if (session.user && codesAreShown()) event.preventDefault(); });
}

/** Show how it is, on or off; who has one is asked for its code wherever the password alone is not enough. */
export function enterFactor(user) {
  const since = user.totp_enabled_at;
  clear();
  $("totp-state").textContent = since ? `On since ${fully(since)}: signing in takes a code from your authenticator, too, and so does all that asks for your password here.`
    : "Off. Once it is on, your password alone lets nobody in: signing in also takes a code from an app on your phone.";
  setup.hidden = Boolean(since);
  $("totp-on").hidden = !since;
  $("totp-off-hint").hidden = !session.isAdmin;
  for (const field of document.querySelectorAll(".with-factor")) {
    field.hidden = !since;
    field.querySelector("input").value = "";
  }
}

/** Say that nothing else goes on without one: the server lets an admin do no more. */
export function askForFactor() {
  if (!session.user.totp_enabled_at) tell(setup, "On this server an admin needs a second factor: set it up first.", "info");
  $("totp-title").focus();
}

/** No secret stays but the recovery codes: nobody can show them again, so they wait until it is said that they are saved. */
export function leaveFactor() {
  clear();
  $("totp-state").textContent = "";
  if (session.user && codesAreShown()) say("Your recovery codes are still at Account, until you say that you have saved them.");
}

/** They are saved, good no longer, or nobody is here any more. */
export function forgetCodes() {
  $("codes").hidden = true;
  $("codes-shown").replaceChildren();
}

const codesAreShown = () => !$("codes").hidden;

function clear() {
  for (const form of FORMS) { form.reset(); clearProblem(form); }
  for (const details of $("totp-on").querySelectorAll("details")) details.open = false;
  confirm.hidden = true;
  $("totp-qr").removeAttribute("src");
  $("totp-secret").replaceChildren();
}

async function begin() {
  const { qr, secret, uri } = (await call("POST", `${API}/auth/totp`, { body: { password: setup.elements.password.value } })).body;
  setup.reset();
  setup.hidden = true;
  confirm.hidden = false;
  $("totp-qr").src = qr;
  const text = h("code", {}, secret.match(/.{1,4}/g).join(" "));
  $("totp-secret").replaceChildren(h("p", {}, text), copyButton("Copy the secret", () => secret, text), h("p", {}, h("a", { href: uri }, "Open in an authenticator on this device")));
  confirm.elements.code.focus();
}

async function switchOn() {
  const { recovery_codes } = (await call("PUT", `${API}/auth/totp`, { body: { code: inOneWord(confirm.elements.code.value) } })).body;
  showCodes(recovery_codes);
  say(`Your second factor is on. You are signed out everywhere else.${addressStays(session.user)}`, "done");
  await again();
}

async function newCodes() {
  const { recovery_codes } = (await call("POST", `${API}/auth/totp/recovery-codes`, { body: { code: inOneWord(renew.elements.code.value) } })).body;
  clear();
  showCodes(recovery_codes);
}

async function switchOff() {
  const { password, code } = off.elements;
  await call("DELETE", `${API}/auth/totp`, { body: { password: password.value, code: inOneWord(code.value) } });
  forgetCodes();
  say("Your second factor is off.", "done");
  await again();
  $("totp-title").focus();
}

/** Show the recovery codes, this once. */
function showCodes(codes) {
  const text = `${codes.join("\n")}\n`;
  const shown = h("ul", { class: "codes" }, codes.map((code) => h("li", {}, h("code", {}, code))));
  const save = h("button", { type: "button", onclick: () => download("walnut-recovery-codes.txt", text) }, "Download");
  $("codes-shown").replaceChildren(shown, h("div", { class: "row" }, copyButton("Copy", () => text, shown), save));
  $("codes").hidden = false;
  $("codes-title").focus();
}
