// Small helpers for building and finding elements. Text only ever enters the page as text nodes, never as HTML.

/** The element with this id. */
export const $ = (id) => document.getElementById(id);

/** Make an element: properties are set as attributes, `on...` functions as listeners; false and null are left out. */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (typeof value === "function") element.addEventListener(name.slice(2), value);
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** A fresh copy of the one element inside a <template>. */
export const fromTemplate = (id) => $(id).content.firstElementChild.cloneNode(true);

/** What stands where a list would be: a title, a sentence, and perhaps a button. */
export const state = (title, text, ...more) => h("div", { class: "state" }, h("h2", {}, title), h("p", {}, text), ...more);

/** Let a button be used, or show it disabled with the reason. It stays focusable, so that everybody can find the reason. */
export function allow(button, allowed, reason, reasonId) {
  if (allowed) {
    for (const name of ["aria-disabled", "aria-describedby", "title"]) button.removeAttribute(name);
    return;
  }
  button.setAttribute("aria-disabled", "true");
  button.setAttribute("aria-describedby", reasonId);
  button.title = reason;
}

/** Local storage that may be forbidden: remember a preference, or do without. */
export const preference = {
  get(name) { try { return localStorage.getItem(name); } catch { return null; } },
  set(name, value) { try { localStorage.setItem(name, value); } catch { /* do without */ } },
};
