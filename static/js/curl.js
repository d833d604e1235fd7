// Showing a request without its secrets: masking what must not be read over a shoulder, and the same request as a curl command.

const SECRET = /password|token$|secret/i;
const OF_ACCOUNTS = /^(key|uri|qr|recovery_codes)$/;      // secrets where it is about accounts; elsewhere anybody's words
const VARIABLES = { access_token: "TOKEN" };      // the others are called as they are
const VEIL = () => "••••••••";

/** Which names are secret in a request to this path, or in the answer to it. Only in a request a `code` lets somebody in. */
export function secretsOf(path, isRequest) {
  const ofAccounts = /\/(auth|users)(\/|\?|$)/.test(path);
  return (name) => SECRET.test(name) || (ofAccounts && (OF_ACCOUNTS.test(name) || (isRequest && name === "code")));
}

/** A copy of a JSON value in which what has a secret name is replaced by what `veil(name)` gives; numbers and the like stay. */
export function masked(value, { veil = VEIL, isSecret = (name) => SECRET.test(name) } = {}) {
  const hides = (name, inner) => isSecret(name) && (typeof inner === "string" || (typeof inner === "object" && inner !== null));
  return value === null || typeof value !== "object" ? value
    : JSON.parse(JSON.stringify(value, (name, inner) => (hides(name, inner) ? veil(name) : inner)));
}

/** A value as JSON in which nothing can turn the text around it: direction marks are escaped, so that they are seen. */
export const asJson = (value, indent) => JSON.stringify(value, null, indent)
  .replaceAll(/[\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/g, (mark) => `\\u${mark.charCodeAt(0).toString(16).padStart(4, "0")}`);

/** One word for a POSIX shell, whatever it holds. */
const quoted = (text) => `'${text.replaceAll("'", `'\\''`)}'`;

/** The request as a curl command; secrets are shell variables: $TOKEN, $PASSWORD, $REFRESH_TOKEN. */
export function asCurl({ method, path, headers, body, cookie }) {
  const words = ["curl", "-i"];
  if (headers.Accept === "text/event-stream") words.push("-N");      // show each event when it comes
  if (method !== "GET") words.push("-X", method);
  words.push(quoted(location.origin + path));
  for (const [name, value] of Object.entries(headers)) {
    words.push("-H", name === "Authorization" ? '"Authorization: Bearer $TOKEN"' : quoted(`${name}: ${value}`));
  }
  if (cookie && path.endsWith("/auth/refresh")) words.push("-b", '"walnut_refresh=$REFRESH_TOKEN"');      // which this page cannot read
  if (body !== undefined) words.push("--data-raw", quotedBody(body, path));
  return words.join(" ");
}

function quotedBody(body, path) {
  const mark = `~${Math.random().toString(36).slice(2)}~`;      // stands where a shell variable goes; cannot be guessed by a title
  const veil = (name) => `${mark}${VARIABLES[name] ?? (/^[a-z]\w*$/i.test(name) ? name.toUpperCase() : "SECRET")}${mark}`;
  const text = quoted(asJson(masked(body, { veil, isSecret: secretsOf(path, true) })));
  return text.replaceAll(new RegExp(`${mark}(\\w+)${mark}`, "g"), `'"$$$1"'`);
}
