// Copying what is shown, and keeping it as a file.
import { h } from "./dom.js";

/** A button that copies what `text()` gives, and says so. Where the browser refuses (a page without TLS), it selects the text of
 *  `shown`, so that one key does it. */
export function copyButton(label, text, shown) {
  const said = h("span", { class: "hint", role: "status" });
  const copy = async () => { said.textContent = await toClipboard(text(), shown); };
  return h("p", { class: "row" }, h("button", { type: "button", class: "quiet copy", onclick: copy }, label), said);
}

async function toClipboard(text, shown) {
  try {
    await navigator.clipboard.writeText(text);
    return "Copied";
  } catch {
    getSelection().selectAllChildren(shown.querySelector("code") ?? shown);
    return "Selected: press Ctrl+C to copy";
  }
}

/** Let the browser keep this text as a file. */
export function download(name, text, type = "text/plain") {
  const url = URL.createObjectURL(new Blob([text], { type }));
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1_000);
}
