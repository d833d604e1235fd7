// Who is signed in: the tokens (in memory, and in this tab's sessionStorage so that a reload keeps them) and the user.
// Tabs that began as copies of each other share a refresh token; a channel tells the others when it has been exchanged.

const KEY = "walnut-tokens";
const twins = "BroadcastChannel" in window ? new BroadcastChannel("walnut-session") : null;

let tokens = read();
let user = null;

export const session = {
  get access() { return tokens?.access_token ?? null; },
  get refresh() { return tokens?.refresh_token ?? null; },
  get user() { return user; },
  set user(value) { user = value; },
  get isAdmin() { return user?.role === "admin"; },
  /** Keep new tokens, and hand them to the tabs that still hold the ones they replace. */
  adopt(fresh) {
    if (tokens) twins?.postMessage({ spent: tokens.refresh_token, fresh: pick(fresh) });
    keep(pick(fresh));
  },
  /** Forget everything. */
  end() { keep(null); user = null; },
};

twins?.addEventListener("message", ({ data }) => {
  if (tokens && data.spent === tokens.refresh_token) keep(data.fresh);
});

function pick({ access_token, refresh_token }) { return { access_token, refresh_token }; }

function keep(fresh) {
  tokens = fresh;
  try {
    if (fresh) sessionStorage.setItem(KEY, JSON.stringify(fresh));
    else sessionStorage.removeItem(KEY);
  } catch { /* storage may be forbidden: then a reload signs out */ }
}

function read() {
  try { return JSON.parse(sessionStorage.getItem(KEY)); } catch { return null; }
}
