// Who is signed in. Where the browser takes cookies that are Secure, the refresh token is in one that no script can read:
// the access token is in memory only, and localStorage holds no more than that there is a session. Elsewhere (plain HTTP from
// another machine) both tokens are in this tab's sessionStorage, so that a reload keeps them.
// A channel tells the other tabs who came and who left, so that no page ever shows two people.

const TOKENS = "walnut-tokens";
const FLAG = "walnut-session";
const tabs = "BroadcastChannel" in window ? new BroadcastChannel("walnut-session") : null;

let tokens = read();
let user = null;
let turn = 0;

export const session = {
  get access() { return tokens?.access_token ?? null; },
  get refresh() { return tokens?.refresh_token ?? null; },
  /** Whether the refresh token is in the cookie. */
  get byCookie() { return tokens ? !tokens.refresh_token : flag.get(); },
  get exists() { return Boolean(tokens) || flag.get(); },
  /** Counts who was here: what was asked for one person is not for the next. */
  get turn() { return turn; },
  get user() { return user; },
  set user(value) { user = value; },
  get isAdmin() { return user?.role === "admin"; },
  /** Keep new tokens. False when they are somebody else's than this page's: then it begins anew, as theirs. */
  adopt(fresh) {
    const whose = claims(fresh.access_token).sub;
    if (user && user.id !== whose) { beginAnew(); return false; }
    if (tokens?.refresh_token && fresh.refresh_token) tabs?.postMessage({ spent: tokens.refresh_token, fresh: pick(fresh) });
    keep(pick(fresh));
    if (!fresh.refresh_token) tabs?.postMessage({ came: whose });
    return true;
  },
  /** Forget everything; unless `quiet`, the other tabs do so too. */
  end({ quiet = false } = {}) {
    if (!quiet) tabs?.postMessage({ left: tokens ? claims(tokens.access_token).sid : null, byCookie: session.byCookie });
    keep(null);
    user = null;
    turn += 1;
  },
};

/** That there is a session, whose refresh token is in the cookie. */
const flag = {
  get() { try { return localStorage.getItem(FLAG) === "cookie"; } catch { return false; } },
  set(yes) {
    try {
      if (yes) localStorage.setItem(FLAG, "cookie");
      else localStorage.removeItem(FLAG);
    } catch { /* as below */ }
  },
};

/** Whether this browser takes a cookie such as the server's. */
export function takesCookies() {
  if (!window.isSecureContext) return false;
  try {
    document.cookie = "walnut-try=1; Secure; SameSite=Strict; Path=/";
    const taken = document.cookie.includes("walnut-try=1");
    document.cookie = "walnut-try=; Max-Age=0; Secure; SameSite=Strict; Path=/";
    return taken;
  } catch { return false; }
}

/** Call `left` when this session was ended in another tab. */
export function whenLeftElsewhere(left) {
  const leave = () => { session.end({ quiet: true }); left(); };
  tabs?.addEventListener("message", ({ data }) => {
    if (tokens && data.spent && data.spent === tokens.refresh_token) keep(data.fresh);
    else if (data.came && user && session.byCookie && data.came !== user.id) beginAnew();
    else if ("left" in data && user && (tokens?.refresh_token ? data.left === claims(tokens.access_token).sid : data.byCookie)) leave();
  });
  addEventListener("pageshow", ({ persisted }) => { if (persisted && user && !session.exists) leave(); });      // back again: it was asleep
}

/** Load the page again: of whoever was here nothing is left in it, not even what was on its way. */
function beginAnew() {
  session.end({ quiet: true });
  flag.set(true);
  history.replaceState(null, "", "/");
  location.reload();
}

/** What a token says; it is the server's business to check it. */
function claims(token) {
  try { return JSON.parse(atob(token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/"))); } catch { return {}; }
}

function pick({ access_token, refresh_token }) { return { access_token, refresh_token }; }

function keep(fresh) {
  tokens = fresh;
  flag.set(Boolean(fresh) && !fresh.refresh_token);
  try {
    if (fresh?.refresh_token) sessionStorage.setItem(TOKENS, JSON.stringify(fresh));
    else sessionStorage.removeItem(TOKENS);
  } catch { /* storage may be forbidden: then a reload signs out */ }
}

function read() {
  try { return JSON.parse(sessionStorage.getItem(TOKENS)); } catch { return null; }
}
