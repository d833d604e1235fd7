// A User-Agent in plain words: "Firefox on Windows". A guess, as every reading of it is: what is not known is shown as it came.

const BROWSERS = [[/\bEdg(e|A|iOS)?\//, "Edge"], [/\b(OPR|Opera)\//, "Opera"], [/\bSamsungBrowser\//, "Samsung Internet"], [/\b(Firefox|FxiOS)\//, "Firefox"],
  [/\b(HeadlessChrome|Chrome|Chromium|CriOS)\//, "Chrome"], [/\bVersion\/\S+.* Safari\//, "Safari"]];
const PROGRAMS = [[/^curl\//, "curl"], [/^Wget\//i, "Wget"], [/^(Python|python-|aiohttp|Werkzeug)/, "A Python program"], [/^(node|undici|axios)/i, "A Node.js program"],
  [/^Go-http-client/, "A Go program"], [/^PostmanRuntime/, "Postman"], [/^k6\//, "k6"]];
const SYSTEMS = [[/\biPhone\b/, "iPhone"], [/\biPad\b/, "iPad"], [/\bAndroid\b/, "Android"], [/\bWindows\b/, "Windows"], [/\bCrOS\b/, "ChromeOS"],
  [/\bMac OS X\b|\bMacintosh\b/, "macOS"], [/\bLinux\b/, "Linux"]];

const known = (table, text) => table.find(([sign]) => sign.test(text))?.[1];

/** What a session was opened with, in words. */
export function deviceOf(agent) {
  const program = known(PROGRAMS, agent ?? "");
  if (program) return program;
  const [browser, system] = [known(BROWSERS, agent ?? ""), known(SYSTEMS, agent ?? "")];
  if (browser) return system ? `${browser} on ${system}` : browser;
  return system ? `A browser on ${system}` : agent || "Something that gave no name";
}
