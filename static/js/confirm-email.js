// The page behind the link that confirms an address. Nothing happens before the click: programs that scan mail open links too.
import { $ } from "./dom.js";
import { onSubmit } from "./forms.js";
import { askForLink, onLink, show, startAsking, use } from "./link.js";

let token = "";

onSubmit($("confirm-form"), async () => {
  await use("confirmation", token);
  show("done", "Your address is confirmed");
}, (problem) => {
  if (problem.status !== 404) return false;
  askForLink("This link is not good any more", "It was used already, it is older than three days, or it was not copied whole. If you have confirmed your address before, just sign in.");
  return true;
});
startAsking("confirmation");
onLink((found) => {
  token = found;
  if (token) show("confirm", "Confirm your address", { moveFocus: false });
  else askForLink("Confirm your address");
});
