// The client of the REST API: one function, call(). It carries the token, renews it when there is none yet or it has expired,
// turns refusals into Problems (RFC 9457), and tells every listener of `exchanges` what was sent and what came back.
import { session } from "./session.js";

export const API = "/api/v1";
const DEADLINE_MS = 30_000;

/** Every request with its answer, as "exchange" events; "refused" when a call was, with the Problem. */
export const exchanges = new EventTarget();

/** A request that did not succeed. `errors` names the fields: [{pointer: "/title", detail: "..."}]. */
export class Problem extends Error {
  constructor(answer) {
    const told = answer.body && typeof answer.body === "object" ? answer.body : {};
    const wait = answer.header("Retry-After");
    const text = told.detail || told.title || answer.failure || `The server answered ${answer.status}.`;
    super(wait ? `${text} Try again in ${wait} s.` : text);
    Object.assign(this, { status: answer.status, code: told.code ?? "", title: told.title ?? "", errors: told.errors ?? [], requestId: answer.header("X-Request-ID"), wait: Number(wait) || 0, body: answer.body, ms: answer.ms });
  }
}

/** What to do when the session has ended: resolves to true when signed in again. Set by whoever can ask. */
let signInAgain = async () => false;
export const whenSessionEnds = (ask) => { signInAgain = ask; };

/** Send a request and return the answer; throws a Problem unless it succeeded.
 *  Options: body (sent as JSON), headers, anonymous (no token), cookie (with the refresh cookie: the browser takes it and gives
 *  it to nobody but the routes it is for), silent (not announced), signal (ends it, instead of the deadline: the answer is there
 *  as soon as it begins, with `stream` to be read instead of `body`). */
export async function call(method, path, options = {}) {
  const { turn } = session;
  if (!options.anonymous && !session.access && session.exists && !(await renew(null))) throw nobody();
  const used = session.access;
  let answer = await send(method, path, options);
  if (answer.status === 401 && !options.anonymous && turn === session.turn && await renew(used)) answer = await send(method, path, options);
  if (!options.anonymous && turn !== session.turn) throw nobody();      // an answer for who has left
  if (answer.ok) return answer;
  const problem = new Problem(answer);
  exchanges.dispatchEvent(new CustomEvent("refused", { detail: problem }));
  throw problem;
}

const nobody = () => new Problem({ status: 401, body: null, failure: "Nobody is signed in any more.", header: () => null });

let renewing = null;

/** Get a fresh access token; whoever asks meanwhile waits for the same one. */
async function renew(used) {
  if (session.access && session.access !== used) return true;
  renewing ??= exchangeTokens().finally(() => { renewing = null; });
  return renewing;
}

async function exchangeTokens() {
  const spent = session.refresh;
  if (spent || session.byCookie) {
    const { turn } = session;
    const answer = await (spent ? send("POST", `${API}/auth/refresh`, { body: { refresh_token: spent }, anonymous: true }) : refreshByCookie());
    if (turn !== session.turn) return false;      // signed out meanwhile
    if (answer.ok) return session.adopt(answer.body);
    if (session.refresh && session.refresh !== spent) return true;      // a twin tab was first
    if (answer.status === 0 || answer.status === 429 || answer.status >= 500) throw new Problem(answer);   // not refused: try later
  }
  return signInAgain();
}

/** One tab after the other, so that each sends the cookie that the one before was given. */
function refreshByCookie() {
  const refresh = () => send("POST", `${API}/auth/refresh`, { body: {}, anonymous: true, cookie: true });
  return navigator.locks ? navigator.locks.request("walnut-refresh", refresh) : refresh();
}

async function send(method, path, { body, headers = {}, anonymous = false, cookie = false, silent = false, signal }) {
  const { turn } = session;
  const sent = { Accept: "application/json", ...headers };
  if (body !== undefined) sent["Content-Type"] = "application/json";
  if (!anonymous && session.access) sent.Authorization = `Bearer ${session.access}`;
  const started = performance.now();
  const answer = await exchange(path, { method, headers: sent, body: body === undefined ? undefined : JSON.stringify(body), credentials: cookie ? "same-origin" : "omit", signal });
  answer.ms = performance.now() - started;
  if (!silent && !signal?.aborted && turn === session.turn) exchanges.dispatchEvent(new CustomEvent("exchange", { detail: { at: new Date(), method, path, headers: sent, body, cookie, answer } }));
  return answer;
}

async function exchange(path, init) {
  try {
    const response = await fetch(path, { ...init, cache: "no-store", signal: init.signal ?? AbortSignal.timeout(DEADLINE_MS) });
    const told = { status: response.status, ok: response.ok, header: (name) => response.headers.get(name) };
    return init.signal && response.ok ? { ...told, body: null, stream: response.body } : { ...told, body: parse(await response.text()) };
  } catch (error) {
    const failure = error.name === "TimeoutError" ? `No answer within ${DEADLINE_MS / 1000} seconds.` : "The server could not be reached.";
    return { status: 0, ok: false, body: null, failure, header: () => null };
  }
}

/** JSON where it is JSON, else the text itself; null when there is nothing. */
function parse(text) {
  if (!text) return null;
  try { return JSON.parse(text); } catch { return text; }
}
