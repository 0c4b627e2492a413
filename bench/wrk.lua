-- Requests with as many different contracts, in turn. All of them detour to the one that was given.
local function in_turn(count)
  local given, requests, next = wrk.headers["x-devroute"], {}, 0
  for number = 1, count do
    wrk.headers["x-devroute"] = given:gsub("}%s*$", string.format(', "n%d": "bench"}', number))
    requests[number] = wrk.format()
  end
  return function()
    next = next % count + 1
    return requests[next]
  end
end

-- Writes the Host field in lower case, as a sidecar does. The argument is the number of contracts; a function
-- for requests costs wrk time, so one contract has none.
function init(arguments)
  wrk.headers["host"], wrk.headers["Host"] = wrk.headers["Host"], nil
  local count = tonumber(arguments[1]) or 1
  if count > 1 then
    request = in_turn(count)
  end
end

-- Ends a run of wrk with one line of JSON: times in microseconds.
function done(summary, latency, _)
  local e = summary.errors
  print(string.format(
    '{"requests": %d, "seconds": %.6f, "p50": %.1f, "p99": %.1f, "errors": %d, "statuses": %d, "timeouts": %d}',
    summary.requests, summary.duration / 1e6, latency:percentile(50), latency:percentile(99),
    e.connect + e.read + e.write + e.status + e.timeout, e.status, e.timeout))
end
