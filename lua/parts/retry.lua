-- Questions to the proxy's control port change nothing, so where a replica has just gone, and its address is still an
-- endpoint, Envoy asks the next one within the same timeout; and where one has not responded in two fifths of it, as it may
-- be frozen, or gone with its node, another one as well. The first response counts.

-- Adds what Envoy's router reads, and removes, to the headers of a question.
local function with_retries(headers, timeout_ms)
  headers["x-envoy-retry-on"] = "5xx"
  headers["x-envoy-max-retries"] = "8" -- each may meet the one that has gone again
  headers["x-envoy-upstream-rq-per-try-timeout-ms"] = ("%d"):format(timeout_ms * 0.4)
  headers["x-envoy-hedge-on-per-try-timeout"] = "true"
  return headers
end
