// The page behind the link that lets somebody choose a password, the first one or another; without a link, the page to ask for one.
import { $ } from "./dom.js";
import { onSubmit } from "./forms.js";
import { askForLink, onLink, show, startAsking, use } from "./link.js";
import { signOut, whoAmI } from "./sign-in.js";
import { quote } from "./words.js";

const form = $("choose-form");
let token = "";

/** Show what is typed, or hide it. It is hidden again before it is sent, so that no browser remembers it as a text. */
function reveal(shown) {
  form.elements.password.type = shown ? "text" : "password";
  $("show-password").textContent = shown ? "Hide" : "Show";
  $("show-password").setAttribute("aria-label", shown ? "Hide the password" : "Show the password");
}

/** Whoever chose the password was signed out: if this browser still has somebody's session, it is somebody else's, and to sign
 *  in must not lead into it unsaid. */
async function lookWhoIsHere() {
  let who = "Somebody";
  try {
    const user = await whoAmI();
    if (!user) return;
    who = quote(user.username);
  } catch (problem) {
    if (!problem.errors) throw problem;      // not known: said all the same
  }
  $("somebody").textContent = `${who} is signed in on this browser already: sign out first.`;
  somebodyIsHere(true);
}

function somebodyIsHere(yes) {
  for (const id of ["somebody", "sign-out"]) $(id).hidden = !yes;
  $("sign-in").hidden = yes;
}

$("sign-out").addEventListener("click", async () => {
  const trouble = await signOut();
  if (!trouble) { location.assign("/"); return; }
  somebodyIsHere(false);
  $("somebody").textContent = trouble;
  $("somebody").hidden = false;
});
$("show-password").addEventListener("click", () => reveal(form.elements.password.type === "password"));
onSubmit(form, async () => {
  reveal(false);
  await use("reset-password", token, { password: form.elements.password.value });
  form.reset();
  await lookWhoIsHere();
  show("done", "Your password is set");
}, (problem) => {
  if (problem.status !== 404) return false;
  form.reset();
  askForLink("This link is not good any more", "It was used already, it is too old, or it was not copied whole. Nothing was changed.");
  return true;
});
startAsking("forgot-password");
onLink((found) => {
  token = found;
  if (token) show("choose", "Choose your password");
  else askForLink("Forgot your password?");
});
