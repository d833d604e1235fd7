// What the pages behind the links of mails share: the token of the link, one part of the page at a time, and asking for another link.
import { $ } from "./dom.js";
import { API, call } from "./api.js";
import { onSubmit } from "./forms.js";

const PARTS = ["confirm", "choose", "ask", "sent", "done"];

/** Call `begin(token)` with the token behind the # of the address, or "" if there is none, also when another link is opened in
 *  this tab. It leaves the address bar and the history at once: nobody reads it over a shoulder, or finds it there later. */
export function onLink(begin) {
  const read = () => {
    const token = location.hash.slice(1);
    history.replaceState(null, "", location.pathname);
    begin(token);
  };
  addEventListener("hashchange", () => { if (location.hash.length > 1) read(); });
  read();
}

/** Show one part of the page under a title, with the focus where it goes on. */
export function show(part, title, { moveFocus = true } = {}) {
  for (const name of PARTS) if ($(name)) $(name).hidden = name !== part;
  $("title").textContent = title;
  document.title = `${title} · Walnut`;
  if (moveFocus) ($(part).querySelector("input") ?? $("title")).focus();
}

/** Send the token to the API, as part of a path: PUT /auth/NAME/TOKEN. Throws a Problem. */
export const use = (name, token, body) => call("PUT", `${API}/auth/${name}/${encodeURIComponent(token)}`, { body, anonymous: true });

/** Show the form that asks for another link, and why one is needed. */
export function askForLink(title, reason = "") {
  $("ask-reason").textContent = reason;
  $("ask-reason").hidden = !reason;
  show("ask", title);
}

/** Let the form ask for a link: PUT /auth/NAME. */
export function startAsking(name) {
  const form = $("ask-form");
  onSubmit(form, async () => {
    const email = form.elements.email.value.trim();
    const answer = await call("PUT", `${API}/auth/${name}`, { body: { email }, anonymous: true });
    $("sent-text").textContent = answer.body.message;
    show("sent", "Look into your mail");
  });
}
