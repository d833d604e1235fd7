// The page behind the link that lets somebody choose a new password; without a link, the page to ask for one.
import { $ } from "./dom.js";
import { onSubmit } from "./forms.js";
import { askForLink, onLink, show, startAsking, use } from "./link.js";

const form = $("choose-form");
let token = "";

/** Show what is typed, or hide it. It is hidden again before it is sent, so that no browser remembers it as a text. */
function reveal(shown) {
  form.elements.password.type = shown ? "text" : "password";
  $("show-password").textContent = shown ? "Hide" : "Show";
  $("show-password").setAttribute("aria-label", shown ? "Hide the password" : "Show the password");
}

$("show-password").addEventListener("click", () => reveal(form.elements.password.type === "password"));
onSubmit(form, async () => {
  reveal(false);
  await use("reset-password", token, { password: form.elements.password.value });
  form.reset();
  show("done", "Your password is set");
}, (problem) => {
  if (problem.status !== 404) return false;
  form.reset();
  askForLink("This link is not good any more", "It was used already, or it is too old. Nothing was changed.");
  return true;
});
startAsking("forgot-password");
onLink((found) => {
  token = found;
  if (token) show("choose", "Choose a new password");
  else askForLink("Forgot your password?");
});
