-- wrk asks the same request over and over (it is made once, so Lua costs nothing) and prints what it counted as JSON.
wrk.method = os.getenv("BENCH_METHOD")
wrk.body = os.getenv("BENCH_BODY")

-- With a key each request is another one, and Lua makes it.
local key, count = os.getenv("BENCH_KEY"), 0
if key then
   function request()
      count = count + 1
      wrk.headers["Idempotency-Key"] = key .. "-" .. count
      return wrk.format()
   end
end

-- Nine reads to each write, every read of the next path in turn.
local reads = {}
for path in string.gmatch(os.getenv("BENCH_READS") or "", "%S+") do
   reads[#reads + 1] = path
end
if #reads > 0 then
   local made = {}
   function init()  -- made once here, too
      for number, path in ipairs(reads) do
         made[number] = wrk.format("GET", path, nil, "")
      end
      made.write = wrk.format()
   end
   function request()
      count = count + 1
      if count % 10 == 0 then
         return made.write
      end
      return made[count % #reads + 1]
   end
end

function done(summary, latency)
   local e = summary.errors
   io.write(string.format(
      '\nRESULT {"requests": %d, "seconds": %.6f, "p50": %.3f, "p99": %.3f, "refused": %d, "broken": %d}\n',
      summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
      e.status, e.connect + e.read + e.write + e.timeout))
end
