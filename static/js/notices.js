// Short messages at the edge of the page, and the question asked before something is lost.
import { $, h } from "./dom.js";

const SECONDS = { info: 6, done: 6, error: 30 };

/** Say something: kind is "info", "done" or "error". Hovering or focusing keeps it. */
export function say(text, kind = "info") {
  const close = h("button", { type: "button", class: "quiet close", "aria-label": "Dismiss", onclick: () => notice.remove() }, "✕");
  const notice = h("div", { class: "notice", "data-kind": kind }, h("p", {}, text), close);
  if ($("notices").lastElementChild?.firstElementChild.textContent === text) $("notices").lastElementChild.remove();
  $("notices").append(notice);
  while ($("notices").children.length > 3) $("notices").firstElementChild.remove();
  const leave = () => (notice.matches(":hover, :focus-within") ? setTimeout(leave, 2000) : notice.remove());
  setTimeout(leave, SECONDS[kind] * 1000);
}

/** Say what went wrong, from a Problem. */
export const sayProblem = (problem) => say(problem.message, "error");

/** Ask before something is lost; resolves to true when the answer is yes. */
export function ask({ title, text, yes, no = "Cancel" }) {
  const dialog = $("confirm");
  $("confirm-title").textContent = title;
  $("confirm-text").textContent = text;
  $("confirm-yes").textContent = yes;
  $("confirm-no").textContent = no;
  return new Promise((resolve) => {
    let answer = false;
    $("confirm-yes").onclick = () => { answer = true; dialog.close(); };
    $("confirm-no").onclick = () => dialog.close();
    dialog.onclose = () => resolve(answer);
    dialog.showModal();
    $("confirm-no").focus();
  });
}

/** A button shown disabled (aria-disabled) does nothing but tell why. */
document.addEventListener("click", (event) => {
  const button = event.target.closest?.("[aria-disabled=true]");
  if (!button) return;
  event.preventDefault();
  event.stopImmediatePropagation();
  if (button.title && !button.closest("dialog")) say(button.title);
}, true);
