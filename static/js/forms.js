// What all forms share: one submission at a time, refusals shown at the fields they name, and the code of a second factor.
import { inOneWord } from "./words.js";

/** Run `send` when the form is submitted. A Problem it throws is shown in the form, unless `handle(problem)` says it did so itself. */
export function onSubmit(form, send, handle = () => false) {
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (form.ariaBusy === "true") return;
    clearProblem(form);
    form.ariaBusy = "true";
    try {
      await send();
    } catch (problem) {
      if (!problem.errors) throw problem;
      if (!handle(problem)) showProblem(form, problem);
    } finally {
      form.ariaBusy = "false";
    }
  });
}

/** Show each error beside its input, the rest at the head of the form, and put the focus on the first wrong input. */
export function showProblem(form, problem) {
  const elsewhere = [];
  for (const { pointer = "", detail } of problem.errors) {
    const [, name, index] = pointer.split("/");
    const text = index === undefined ? detail : `${/^\d+$/.test(index) ? Number(index) + 1 : index}: ${detail}`;
    if (!showAtField(form, name, text)) elsewhere.push([name, text].filter(Boolean).join(": "));
  }
  const first = form.querySelector("[aria-invalid=true]");
  if (!first || elsewhere.length) tell(form, [problem.message, ...elsewhere].join(" "));
  first?.focus();
}

/** Show a message beside the input of that name, and the input too if it was not asked for yet; false when the form has none. */
export function showAtField(form, name, text) {
  const found = name && form.elements.namedItem(name);
  const input = found instanceof RadioNodeList ? found[0] : found;
  const field = input?.closest(".field");
  if (!field) return false;
  field.hidden = false;
  const id = `${form.id}-${name}-error`;
  const note = document.getElementById(id) ?? field.appendChild(Object.assign(document.createElement("p"), { id, className: "field-error" }));
  note.textContent = [note.textContent, text].filter(Boolean).join(" ");
  input.setAttribute("aria-invalid", "true");
  const others = (input.getAttribute("aria-describedby") ?? "").split(" ").filter((other) => other && other !== id);
  input.setAttribute("aria-describedby", [id, ...others].join(" "));
  return true;
}

/** A message at the head of the form; kind is "error" or "info". */
export function tell(form, text, kind = "error") {
  const message = form.querySelector(".message");
  message.textContent = text;
  message.dataset.kind = kind;
  message.hidden = !text;
}

/** The code that was typed, as a part of the body to send; nothing where none was. */
export function codeOf(form) {
  const code = inOneWord(form.elements.code.value);
  return code && { code };
}

/** Take all messages away. */
export function clearProblem(form) {
  tell(form, "");
  for (const note of form.querySelectorAll(".field-error")) {
    const input = form.querySelector(`[aria-describedby~="${note.id}"]`);
    const others = (input?.getAttribute("aria-describedby") ?? "").split(" ").filter((other) => other !== note.id).join(" ");
    if (others) input.setAttribute("aria-describedby", others);
    else input?.removeAttribute("aria-describedby");
    input?.removeAttribute("aria-invalid");
    note.remove();
  }
}
