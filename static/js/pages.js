// The pages of a list: which one is shown, the way to the next and the one before, and filters, which lead back to the first.
import { $, allow } from "./dom.js";

const PAUSE_MS = 250;

/**
 * The pages of a list whose filters are `form`. `name` is how the ids of its pager's parts begin: NAME-before, -after and -range.
 * `title` gets the focus when a page is turned, and `load` shows the page of this `number`.
 */
export class Pages {
  number = 1;

  constructor({ name, form, title, load }) {
    Object.assign(this, { name, form, title, load });
    this.pager = $(`${name}-range`).closest(".pager");
  }

  /** Wire the filters and the buttons. */
  start() {
    let pause;
    this.form.addEventListener("input", (event) => {
      clearTimeout(pause);
      pause = setTimeout(() => this.first(), event.target.type === "search" ? PAUSE_MS : 0);
    });
    this.form.addEventListener("submit", (event) => { event.preventDefault(); clearTimeout(pause); this.first(); });
    $(`${this.name}-before`).addEventListener("click", () => this.turnTo(this.number - 1));
    $(`${this.name}-after`).addEventListener("click", () => this.turnTo(this.number + 1));
  }

  /** Begin with the page that the query of an address names. */
  enter(query) {
    this.number = Math.max(1, Number.parseInt(query.get("page") ?? "1", 10) || 1);
  }

  /** Show the first page, and leave the focus where it is. */
  first() {
    this.number = 1;
    this.load();
  }

  turnTo(number) {
    this.number = Math.max(1, number);
    this.title.focus();
    this.load();
  }

  /** Whether an answer is of a page after the last one, which there is no more: then the last one is to be loaded. */
  isPastTheEnd({ items, limit, total }) {
    const past = items.length === 0 && total > 0 && this.number > 1;
    if (past) this.number = Math.ceil(total / limit);
    return past;
  }

  /** Say which part of the list is shown. Who cannot turn to another page nor show `fewest` at once sees no pager. */
  show({ items, limit, total }, fewest = limit) {
    const from = (this.number - 1) * limit, range = `${this.name}-range`;
    this.pager.hidden = total <= fewest && this.number === 1;
    $(range).textContent = `${from + 1}–${from + items.length} of ${total}`;
    allow($(`${this.name}-before`), this.number > 1, "This is the first page.", range);
    allow($(`${this.name}-after`), from + items.length < total, "This is the last page.", range);
  }

  hide() {
    this.pager.hidden = true;
  }
}
