// What happens on the server, while it happens: GET /events, read with fetch() because EventSource cannot send a token.
// Goes on where it was cut off (Last-Event-ID), after growing pauses, and rests while nobody looks at the page.
import { API, call } from "./api.js";

const SILENCE_MS = 40_000;      // the server gives a sign of life every 15 seconds
const LONGEST_PAUSE_MS = 30_000;
const ASK_EVERY_MS = 5_000;

/** "job" and "task": something happened to one, told in `detail`. "anew": read again what is shown. "connection": `detail` is
 *  live, connecting, waiting (no server), asking (it does not stream, so "anew" comes every few seconds), ended or resting. */
export const happenings = new EventTarget();

let wanted = false;
let connection = null;      // the AbortController of the stream that is open
let position = null;        // the id of the last event
let pause = 2_000;          // the server says how long
let failures = 0;           // in a row
let shown = false;          // the request panel shows the first stream, not each reconnection
let reconnecting, asking, watchdog;

document.addEventListener("visibilitychange", () => (document.hidden ? cut("resting") : connect()));
addEventListener("online", () => { if (reconnecting) connect(); });

/** Begin to listen; where it was left off, if it was. */
export function listen() {
  wanted = true;
  connect();
}

/** Stop listening; to be gone on with. */
export function rest() {
  wanted = false;
  cut("resting");
}

/** Stop listening, and forget where: somebody else begins anew. */
export function forget() {
  rest();
  position = null;
  shown = false;
}

function cut(why) {
  clearTimeout(reconnecting);
  clearTimeout(watchdog);
  reconnecting = null;
  stopAsking();
  const open = connection;
  connection = null;
  open?.abort();
  tell("connection", why);
}

async function connect() {
  if (!wanted || document.hidden || connection) return;
  clearTimeout(reconnecting);
  reconnecting = null;
  const mine = connection = new AbortController();
  if (!asking) tell("connection", "connecting");
  const fault = await follow(mine).then(() => null, (problem) => problem);
  clearTimeout(watchdog);
  if (connection !== mine) return;      // it was cut
  connection = null;
  goOn(fault, mine.signal.aborted);
}

/** Open the stream and read it to its end. */
async function follow(mine) {
  const headers = { Accept: "text/event-stream", ...(position && { "Last-Event-ID": position }) };
  stillThere(mine);
  const { stream } = await call("GET", `${API}/events`, { headers, signal: mine.signal, silent: shown });
  shown = true;
  stopAsking();
  tell("connection", "live");
  if (!position) tell("anew");      // what is shown may be older than where this stream begins
  const since = performance.now();
  try {
    await read(stream, mine);
  } finally {
    if (performance.now() - since > LONGEST_PAUSE_MS) failures = 0;
  }
}

/** Take each event from a stream of them: https://html.spec.whatwg.org/multipage/server-sent-events.html */
async function read(stream, mine) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = ""; ;) {
    const { done, value } = await reader.read();
    if (done || connection !== mine) return;
    stillThere(mine);
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) take(event);
  }
}

function take(event) {
  let data = "";
  for (const line of event.split("\n")) {
    const [, name, value] = /^(\w*):? ?(.*)$/.exec(line) ?? [];
    if (name === "id") position = value;
    else if (name === "retry") pause = Number(value) || pause;
    else if (name === "data") data += value;
  }
  if (!data) return;
  const told = JSON.parse(data);
  if (told.type === "reset") tell("anew");
  else tell(told.type.split(".")[0], told);
}

/** A stream that says nothing for long is broken, whatever the network believes. */
function stillThere(mine) {
  clearTimeout(watchdog);
  watchdog = setTimeout(() => mine.abort(), SILENCE_MS);
}

/** Connect again after a while. Meanwhile ask now and then, unless there is nobody to be asked. */
function goOn(fault, wasSilent) {
  if (fault?.status === 401) {      // signing in again was put off: asked for once more when somebody does something
    rest();
    tell("connection", "ended");
    return;
  }
  if (fault?.status === 422) position = null;      // not one of this server's: perhaps it was given a backup
  if (fault?.status || wasSilent) asking ??= setInterval(() => tell("anew"), ASK_EVERY_MS);
  else stopAsking();
  tell("connection", asking ? "asking" : fault ? "waiting" : "connecting");
  const wait = Math.max(Math.min(LONGEST_PAUSE_MS, pause * 2 ** failures++), (fault?.wait ?? 0) * 1_000);
  reconnecting = setTimeout(connect, wait);
}

function stopAsking() {
  clearInterval(asking);
  asking = null;
}

const tell = (type, detail) => happenings.dispatchEvent(new CustomEvent(type, { detail }));
