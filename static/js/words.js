// The words in which values are shown: statuses, priorities, times.

export const STATUS = { todo: "To do", in_progress: "In progress", done: "Done" };
export const JOB_STATUS = { pending: "Pending", processing: "Processing", complete: "Complete", failed: "Failed", cancelled: "Cancelled" };
export const PRIORITY = { 1: "Urgent", 2: "High", 3: "Normal", 4: "Low", 5: "Someday" };

export const ROLE = { user: "User", admin: "Admin" };
/** What an API key may be for, and which of it a user may do at all; an admin may everything. */
export const SCOPE = { "tasks:read": "Read tasks", "tasks:write": "Create, change and delete tasks", "jobs:submit": "Submit and read own jobs",
  "jobs:manage": "See, cancel and retry all jobs", "vendors:manage": "Manage vendors", "users:manage": "Manage people", "audit:read": "Read the audit trail" };
export const SCOPES_OF_USERS = ["tasks:read", "jobs:submit"];

const relative = new Intl.RelativeTimeFormat(undefined, { numeric: "auto" });
const UNITS = [["year", 31_536_000], ["month", 2_592_000], ["week", 604_800], ["day", 86_400], ["hour", 3_600], ["minute", 60]];

/** "3 hours ago", "in 2 days"; "now" within a minute. */
export function fromNow(time) {
  const seconds = (new Date(time) - Date.now()) / 1000;
  const [unit, size] = UNITS.find(([, length]) => Math.abs(seconds) >= length) ?? ["minute", 60];
  return Math.abs(seconds) < 60 ? "now" : relative.format(Math.round(seconds / size), unit);
}

/** Date and time of day, in the reader's time zone. */
export const fully = (time) => new Date(time).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });

/** The time of day to the second; with the date unless it is today. */
export function clock(time) {
  const date = new Date(time);
  const today = date.toDateString() === new Date().toDateString();
  return date.toLocaleString(undefined, today ? { timeStyle: "medium" } : { dateStyle: "medium", timeStyle: "medium" });
}

/** From one time to another: "0.31 s", "12 s", "3 min". */
export function between(from, to) {
  const seconds = (new Date(to) - new Date(from)) / 1000;
  return seconds < 10 ? `${seconds.toFixed(2)} s` : seconds < 120 ? `${Math.round(seconds)} s` : seconds < 7200 ? `${Math.round(seconds / 60)} min` : `${Math.round(seconds / 3600)} h`;
}

/** The end of an id: enough to tell it from its neighbours. */
export const shortId = (id) => `…${id.slice(-6)}`;

/** A title in a sentence: in quotes, and kept from turning the direction of the text around it. */
export const quote = (title) => `“\u2068${title}\u2069”`;

/** The reader's time zone, by name. */
export const timeZone = () => Intl.DateTimeFormat().resolvedOptions().timeZone;

export const isOverdue = (task) => task.status !== "done" && task.due_at !== null && new Date(task.due_at) < new Date();

/** RFC 3339 to the value of a datetime-local input, to the minute; "" for null. */
export function toLocalInput(time) {
  if (!time) return "";
  const date = new Date(time);
  return new Date(date - date.getTimezoneOffset() * 60_000).toISOString().slice(0, 16);
}

/** The value of a datetime-local input to RFC 3339 in UTC; null for "". */
export const fromLocalInput = (text) => (text ? new Date(text).toISOString() : null);

/** A code as people type it from paper or a phone, without the gaps. */
export const inOneWord = (text) => text.replaceAll(/\s+/g, "");

/** Of an account as it was: what becomes of a new address that waited for its link, if there was one. */
export const addressStays = ({ email, new_email }) => (new_email ? ` Your address stays ${email}: should it change, ask for that again.` : "");

/** A number of things: "1 person", "3 people". */
export const count = (number, one, many) => `${number} ${number === 1 ? one : many}`;
