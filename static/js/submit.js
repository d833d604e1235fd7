// The form that submits a job, and the line below it that says what becomes of the last one.
import { $, h } from "./dom.js";
import { API, Problem, call } from "./api.js";
import { session } from "./session.js";
import { clearProblem, onSubmit, showAtField } from "./forms.js";
import { JOB_STATUS, shortId } from "./words.js";

const EXAMPLES = {
  sync: { productId: "PROD-ABC-123", action: "fetch_details" },
  async: { userId: "USER-XYZ-456", reportType: "monthly_sales" },
};
const written = (example) => JSON.stringify(example, null, 2);

const form = $("job-form");
let attempt = null;      // {text, key}: the same job sent twice, because no answer came, is taken in once
let newest = null;       // {request_id, vendor_type} of the last one submitted here

/** Wire the form. `submitted()` is called when a job was taken in. */
export function startSubmit(submitted) {
  onSubmit(form, async () => { if (await submit()) submitted(); });
  const { vendor_type: vendor, vendor_payload: payload } = form.elements;
  vendor.addEventListener("input", () => {
    const untouched = !payload.value.trim() || Object.values(EXAMPLES).some((example) => written(example) === payload.value);
    if (untouched) useExample();
    offerExample();
  });
  $("job-example").addEventListener("click", () => { useExample(); payload.focus(); });
  payload.addEventListener("input", offerExample);
  payload.addEventListener("keydown", (event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit(); });
}

/** Begin anew, and offer the vendors that there are; only an admin may know them all. */
export async function enterSubmit() {
  newest = null;
  form.reset();
  clearProblem(form);
  useExample();
  if (!session.isAdmin) return offer(Object.keys(EXAMPLES));
  try {
    offer((await call("GET", `${API}/vendors?limit=100`)).body.items.map((vendor) => vendor.name));
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;      // the field takes any name: offering some is a courtesy
    offer(Object.keys(EXAMPLES));
  }
}

/** Say how a job stands, if it is the last one that was submitted here. */
export function followJob({ request_id, status }) {
  if (request_id !== newest?.request_id || newest.status === status) return;
  newest.status = status;
  $("newest").dataset.status = status;
  $("newest").replaceChildren(h("a", { href: `#/jobs/${request_id}` }, `Job ${shortId(request_id)}`), ` for ${newest.vendor_type}: `, h("strong", {}, JOB_STATUS[status].toLowerCase()));
}

const offer = (names) => $("vendors").replaceChildren(...names.map((value) => h("option", { value })));

const example = () => EXAMPLES[form.elements.vendor_type.value.trim()];

function useExample() {
  if (example()) form.elements.vendor_payload.value = written(example());
  offerExample();
}

function offerExample() {
  $("job-example").hidden = !example() || written(example()) === form.elements.vendor_payload.value;
}

/** Send the job; false when what was typed cannot be sent. */
async function submit() {
  const payload = read();
  if (payload === undefined) return false;
  const priority = Number(form.elements.priority.value);
  const body = { vendor_type: form.elements.vendor_type.value.trim(), vendor_payload: payload, ...(priority !== 3 && { priority }) };
  const text = JSON.stringify(body);
  if (attempt?.text !== text) attempt = { text, key: crypto.getRandomValues(new Uint32Array(4)).join("-") };
  const { request_id } = (await call("POST", `${API}/jobs`, { body, headers: { "Idempotency-Key": attempt.key } })).body;
  attempt = null;
  newest = { request_id, vendor_type: body.vendor_type };
  followJob({ request_id, status: "pending" });
  return true;
}

/** The payload that was typed; undefined, and said at the field, if it is no JSON that can be sent as it stands. */
function read() {
  const input = form.elements.vendor_payload;
  try {
    return JSON.parse(input.value, exactly);
  } catch (fault) {
    const empty = !input.value.trim();
    showAtField(form, "vendor_payload", empty ? "Give some JSON, if only {}." : fault instanceof RangeError ? fault.message : `This is no JSON: ${fault.message}.`);
    const at = Number(/position (\d+)/.exec(fault.message)?.[1] ?? Number.NaN);
    input.focus();
    if (at < input.value.length) input.setSelectionRange(at, at + 1);
    return undefined;
  }
}

/** Let no number pass that JavaScript has rounded: the vendor would get another one than was typed. */
function exactly(name, value) {
  if (Number.isInteger(value) && !Number.isSafeInteger(value)) throw new RangeError(`A browser cannot send this number exactly${name && ` (${name})`}: make it a text, or use curl.`);
  return value;
}
