-- Writes the Host field in lower case, as a sidecar does.
function init(_)
  wrk.headers["host"], wrk.headers["Host"] = wrk.headers["Host"], nil
end

-- Ends a run of wrk with one line of JSON: times in microseconds.
function done(summary, latency, _)
  local e = summary.errors
  print(string.format(
    '{"requests": %d, "seconds": %.6f, "p50": %.1f, "p99": %.1f, "errors": %d}',
    summary.requests, summary.duration / 1e6, latency:percentile(50), latency:percentile(99),
    e.connect + e.read + e.write + e.status + e.timeout))
end
