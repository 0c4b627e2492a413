-- parts: text, random, settings, baggage, trace_state, carriers, kept
--
-- devroute's filter for requests that a workload sends, where its app passes on nothing but a trace's id: gives such a
-- request the contract of the request whose trace id it bears, which the same workload has received within the last minute
-- (lua/decide.lua keeps it).
--
-- It is there for workloads alone for which a platform team has asked for it, and runs for each request that they send. It
-- changes nothing else than the headers x-devroute and x-devroute-via; the next service's sidecar decides, as about any contract.

local function continue(handle)
  local headers = handle:headers()
  local found = kept.of(handle, headers)
  if found == nil or carriers.any(headers) then
    return
  end
  headers:replace(CONTRACT, found.contract)
  if found.via ~= "" then
    headers:replace(VIA, found.via)
  end
end

function envoy_on_request(handle)
  local done, problem = pcall(continue, handle)
  if not done then
    handle:logErr("devroute: " .. tostring(problem))
  end
end
