// Many people at once submit jobs and ask what became of them: for k6 (https://k6.io), which `make load` starts.
//
//   WALNUT_URL=http://localhost:3000 k6 run bench/jobs.js
//
// VUS and DURATION say how many and for how long. The server needs limits that let them: RATE_LIMIT_JOBS and the others.

import { check, sleep } from "k6";
import http from "k6/http";
import { Counter } from "k6/metrics";

const API = `${__ENV.WALNUT_URL || "http://localhost:3000"}/api/v1`;
const JSON_IN = { "Content-Type": "application/json" };
const PASSWORD = "correct horse";
const USERS = Number(__ENV.VUS || 200);
const ACCOUNTS = Math.min(5, Math.ceil(USERS / 10)); // shared by all
const THINK = 1; // seconds, about
const POLLS = 15; // before a job counts as stuck
const QUICK = ["p(95)<50"]; // milliseconds

const submitted = new Counter("jobs_submitted");
const seen = new Counter("jobs_seen_complete");
const stuck = new Counter("jobs_stuck");

export const options = {
  scenarios: {
    people: {
      executor: "constant-vus",
      vus: USERS,
      duration: __ENV.DURATION || "60s",
      gracefulStop: "20s",
    },
  },
  thresholds: {
    http_req_failed: ["rate<0.01"],
    "http_req_duration{name:POST /jobs}": QUICK,
    "http_req_duration{name:GET /jobs/ID}": QUICK,
    "http_req_duration{name:GET /jobs}": QUICK,
    checks: ["rate>0.99"],
    jobs_stuck: ["count<1"],
  },
  summaryTrendStats: ["avg", "med", "p(95)", "p(99)", "max", "count"],
};

// Runs once: a handful of accounts, and a token for each.
export function setup() {
  return Array.from({ length: ACCOUNTS }, (_, number) => {
    const email = `load-${Date.now()}-${number}@example.com`;
    const account = { username: email.split("@")[0], email, password: PASSWORD };
    post("/auth/register", account, {}, "setup");
    return post("/auth/login", { email, password: PASSWORD }, {}, "setup").json("access_token");
  });
}

// What one person does, again and again.
export default function (tokens) {
  const headers = { Authorization: `Bearer ${tokens[__VU % tokens.length]}` };
  think(0.5); // nobody begins in the same moment
  const vendorPayload = { productId: `PROD-${__VU}-${__ITER}`, action: "fetch_details" };
  const answer = post("/jobs", { vendorType: "sync", vendorPayload }, headers, "POST /jobs");
  if (!check(answer, { "is taken in": (given) => given.status === 202 })) return;
  submitted.add(1);
  wait_for(answer.json("request_id"), headers);
  const list = get("/jobs?limit=20", headers, "GET /jobs");
  check(list, { "the list has jobs": (given) => given.status === 200 && given.json("items").length > 0 });
}

function wait_for(id, headers) {
  for (let poll = 0; poll < POLLS; poll++) {
    think(1);
    const job = get(`/jobs/${id}`, headers, "GET /jobs/ID");
    if (!check(job, { "is found": (given) => given.status === 200 })) return;
    if (job.json("status") === "complete") return seen.add(1);
  }
  stuck.add(1);
}

function think(times) {
  sleep(THINK * times * (0.5 + Math.random()));
}

function post(path, body, headers, name) {
  return http.post(`${API}${path}`, JSON.stringify(body), { headers: { ...JSON_IN, ...headers }, tags: { name } });
}

function get(path, headers, name) {
  return http.get(`${API}${path}`, { headers, tags: { name } });
}

// The figures, as JSON: into the file SUMMARY, or for whoever looks.
export function handleSummary(data) {
  return { [__ENV.SUMMARY || "stdout"]: JSON.stringify(data.metrics, null, 1) };
}
