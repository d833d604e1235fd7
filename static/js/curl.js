// Showing a request without its secrets: masking what must not be read over a shoulder, and the same request as a curl command.

const SECRET = /password|token$|secret/i;
const VARIABLES = { password: "PASSWORD", refresh_token: "REFRESH_TOKEN", access_token: "TOKEN" };

/** A copy of a JSON value in which strings under secret names are replaced by what `veil(name)` gives. */
export function masked(value, veil = () => "••••••••") {
  return value === null || typeof value !== "object" ? value
    : JSON.parse(JSON.stringify(value, (name, inner) => (SECRET.test(name) && typeof inner === "string" ? veil(name) : inner)));
}

/** A value as JSON in which nothing can turn the text around it: direction marks are escaped, so that they are seen. */
export const asJson = (value, indent) => JSON.stringify(value, null, indent)
  .replaceAll(/[\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/g, (mark) => `\\u${mark.charCodeAt(0).toString(16).padStart(4, "0")}`);

/** One word for a POSIX shell, whatever it holds. */
const quoted = (text) => `'${text.replaceAll("'", `'\\''`)}'`;

/** The request as a curl command; secrets are shell variables: $TOKEN, $PASSWORD, $REFRESH_TOKEN. */
export function asCurl({ method, path, headers, body }) {
  const words = ["curl", "-i"];
  if (headers.Accept === "text/event-stream") words.push("-N");      // show each event when it comes
  if (method !== "GET") words.push("-X", method);
  words.push(quoted(location.origin + path));
  for (const [name, value] of Object.entries(headers)) {
    words.push("-H", name === "Authorization" ? '"Authorization: Bearer $TOKEN"' : quoted(`${name}: ${value}`));
  }
  if (body !== undefined) words.push("--data-raw", quotedBody(body));
  return words.join(" ");
}

function quotedBody(body) {
  const mark = `~${Math.random().toString(36).slice(2)}~`;      // stands where a shell variable goes; cannot be guessed by a title
  const text = quoted(asJson(masked(body, (name) => `${mark}${VARIABLES[name] ?? "SECRET"}${mark}`)));
  return text.replaceAll(new RegExp(`${mark}(\\w+)${mark}`, "g"), `'"$$$1"'`);
}
