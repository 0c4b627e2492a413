-- devroute's filter: for one request with a contract, decide whether it leaves the mesh at this service.
--
-- It hangs on the route "devroute-ask", which matches requests that carry a contract and have no decision yet, so that
-- nobody else pays for it. It leaves its decision as dynamic metadata, which no client can set, and has the route chosen
-- again: the route "devroute-detour" matches the decision "detour", and everything else falls to the service's own route.
--
-- It never parses the contract (it asks the proxy, who does), never takes a decision from what a client can set, and never
-- takes a service down: whatever goes wrong here, the real service answers and the response says why.

local CONTRACT = "x-devroute"
local NAMESPACE = "devroute" -- of the metadata: the decision here, the settings on the route
local MAX_CONTRACT = 8192 -- bytes; the grammar's own limit (devroute/contract.py)
local RESOLVE_TIMEOUT_MS = 500 -- what a proxy that hangs may cost a request
local MAX_TTL_MS = 1000 -- how long a laptop that has gone may still be believed in
local FAILURE_TTL_MS = 1000 -- so that a dead proxy costs its timeout once a second, not for every request
local MAX_CACHED = 256 -- entries a worker; with keys of 8 KiB at most, 2 MiB
local MAX_ANSWER = 65536 -- bytes of an answer; ours have a few hundred
local MAX_REASON = 200 -- bytes of a header that people read
local MAX_NAME = 253 -- bytes of a service's name (RFC 1035 §2.3.4)

--- Outcomes -----------------------------------------------------------------------------------------------------
-- decision: which route comes next. result, reason: the response's x-devroute-result and x-devroute-reason.
-- service: what the proxy is told it stands in for. status, body: an answer given at once.

local function printable(text)
  return (text:sub(1, MAX_REASON):gsub("[^\32-\126]", "?"))
end

local function fallback(reason)
  return { decision = "fallback", result = "fallback", reason = printable(reason) }
end

local function refusal(message, hint)
  local body = '{"code": "contract-invalid", "message": "%s", "hint": "%s", "service": null, "target": null, "request_id": null}'
  return { decision = "error", reason = message, status = "400", body = body:format(message, hint) }
end

local UNCONCERNED = { decision = "service", result = "service" }
local NAMELESS = fallback("the sidecar does not know which service it stands for; set DEVROUTE_SERVICE on it")
local NO_CLUSTER = fallback("the sidecar does not know the cluster of the devroute proxy")
local NONSENSE = fallback("the devroute proxy's answer was not understood")
local BROKEN = fallback("the devroute filter failed; the sidecar's log says why")
local REPEATED = refusal("the header x-devroute is repeated", "send one header with all services in one object")
local TOO_LONG = refusal("the contract is longer than 8192 bytes", "name fewer services")

--- The service's own name ---------------------------------------------------------------------------------------

local function valid_name(name)
  return name ~= nil and #name <= MAX_NAME and name:find("^%w[%w%.%-_]*$") ~= nil
end

-- Mesh peers name the service they dial in the SNI: outbound_.8080_.SUBSET_.foo.default.svc.cluster.local
local function service_of_sni(sni)
  local host = sni:match("^outbound_%.%d+_%..-_%.(.+)$")
  if host == nil then
    return nil, nil
  end
  return host:match("^([%w%-]+)%.([%w%-]+)%.svc%.")
end

local ENVIRONMENT_NAMES = { os.getenv("DEVROUTE_SERVICE") or "", os.getenv("ISTIO_META_WORKLOAD_NAME") or "" }
local ENVIRONMENT_NAMESPACE = os.getenv("POD_NAMESPACE") or os.getenv("ISTIO_META_NAMESPACE")

-- The names this sidecar may be meant by, most trusted first. A name given on the route is the only one.
local function identity_of(given, given_namespace, sni)
  local sni_name, sni_namespace = service_of_sni(sni)
  local offered = { sni_name or "", ENVIRONMENT_NAMES[1], ENVIRONMENT_NAMES[2] }
  if given ~= nil then
    offered = { given }
  end
  local names, needles, seen = {}, {}, {}
  for _, name in ipairs(offered) do
    if valid_name(name) and not seen[name] then
      seen[name] = true
      names[#names + 1] = name
      needles[#needles + 1] = '"' .. name .. '"'
      needles[#needles + 1] = '"' .. name .. "."
    end
  end
  local namespace = given_namespace or sni_namespace or ENVIRONMENT_NAMESPACE
  if not valid_name(namespace) then
    namespace = nil
  end
  local joined = table.concat(names, ",")
  return { names = joined, needles = needles, namespace = namespace, key = joined .. "\n" .. (namespace or "") .. "\n" }
end

-- True unless the contract surely names others only. What is not an object (signed, or broken) and what hides names
-- behind escapes is for the proxy to judge.
local function may_concern(raw, needles)
  if raw:byte(1) ~= 123 or raw:byte(-1) ~= 125 or raw:find("\\", 1, true) then
    return true
  end
  for _, needle in ipairs(needles) do
    if raw:find(needle, 1, true) then
      return true
    end
  end
  return false
end

--- The proxy's answer -------------------------------------------------------------------------------------------
-- Lines of "key value", the first one "devroute 1". Each decision checks what it needs and returns an outcome, or nil
-- for nonsense; further decisions (mirror, version) get their entry here.

local DECISIONS = {
  service = function(_)
    return UNCONCERNED
  end,
  fallback = function(answer)
    return answer.reason and fallback(answer.reason)
  end,
  -- The proxy sets the result of what it answers; "error" stands where it could not.
  detour = function(answer)
    return valid_name(answer.service) and { decision = "detour", result = "error", service = answer.service } or nil
  end,
  error = function(answer)
    local status = answer.status
    if status == nil or not status:find("^[45]%d%d$") or answer.body == nil or answer.reason == nil then
      return nil
    end
    return { decision = "error", reason = printable(answer.reason), status = status, body = answer.body }
  end,
}

-- Returns an outcome and the milliseconds it holds, or nil for nonsense.
local function parse_answer(body)
  if body == nil or #body > MAX_ANSWER or body:sub(1, 11) ~= "devroute 1\n" then
    return nil
  end
  local answer = {}
  for line in body:sub(12):gmatch("[^\n]+") do
    local key, value = line:match("^(%l[%l%-]*) ([\32-\126]+)$")
    if key == nil or answer[key] ~= nil then
      return nil
    end
    answer[key] = value
  end
  local decide = DECISIONS[answer.decision]
  local ttl = answer.ttl or "0"
  if decide == nil or not ttl:find("^%d%d?%d?%d?$") then
    return nil
  end
  return decide(answer), math.min(tonumber(ttl), MAX_TTL_MS)
end

local function ask(handle, control, identity, raw, caller)
  local called, headers, body = pcall(handle.httpCall, handle, control, {
    [":method"] = "GET",
    [":path"] = "/resolve",
    [":authority"] = "devroute-proxy",
    [CONTRACT] = raw,
    ["x-devroute-candidates"] = identity.names,
    ["x-devroute-namespace"] = identity.namespace,
    ["x-devroute-caller"] = caller,
  }, nil, RESOLVE_TIMEOUT_MS)
  if not called then
    return NO_CLUSTER, FAILURE_TTL_MS
  end
  local status = headers[":status"]
  if status == "200" then
    local outcome, ttl = parse_answer(body)
    if outcome ~= nil then
      return outcome, ttl
    end
    return NONSENSE, FAILURE_TTL_MS
  elseif status == "504" then
    return fallback("the devroute proxy did not answer within " .. RESOLVE_TIMEOUT_MS .. " ms"), FAILURE_TTL_MS
  elseif status == "503" then
    return fallback("the devroute proxy cannot be reached"), FAILURE_TTL_MS
  end
  return fallback("the devroute proxy answered the sidecar with status " .. tostring(status)), FAILURE_TTL_MS
end

--- What this worker remembers -----------------------------------------------------------------------------------

local cache, cached = {}, 0

local function recall(key, now)
  local entry = cache[key]
  -- The clock is the wall's: an entry from its future is not believed.
  if entry ~= nil and now < entry.expires and entry.expires <= now + MAX_TTL_MS then
    return entry.outcome
  end
  return nil
end

local function remember(key, outcome, ttl, now)
  if ttl <= 0 then
    return
  end
  if cache[key] == nil then
    if cached >= MAX_CACHED then
      cache, cached = {}, 0
    end
    cached = cached + 1
  end
  cache[key] = { outcome = outcome, expires = now + ttl }
end

--- One request --------------------------------------------------------------------------------------------------

-- The caller's mesh identity, from the certificate that it proved to own.
local function caller_of(info)
  local tls = info:downstreamSslConnection()
  if tls == nil or not tls:peerCertificateValidated() then
    return nil
  end
  local names = tls:uriSanPeerCertificate()
  local name = names and names[1]
  return name and name:find("^[\33-\126]+$") and name or nil
end

local settings -- the route's metadata; this script's state belongs to one route's configuration
local last_sni, last_identity

local function decide(handle)
  local headers = handle:headers()
  if headers:getNumValues(CONTRACT) > 1 then
    return REPEATED
  end
  local raw = headers:get(CONTRACT) or ""
  if #raw > MAX_CONTRACT then
    return TOO_LONG
  end

  local info = handle:streamInfo()
  if settings == nil then
    local metadata = handle:metadata()
    settings = { control = metadata:get("control"), service = metadata:get("service"), namespace = metadata:get("namespace") }
  end
  local sni = info:requestedServerName()
  if sni ~= last_sni then
    last_sni, last_identity = sni, identity_of(settings.service, settings.namespace, sni)
  end
  local identity = last_identity
  if identity.names == "" then
    return NAMELESS
  end
  if not may_concern(raw, identity.needles) then
    return UNCONCERNED
  end

  local caller = caller_of(info)
  local key = identity.key .. (caller or "") .. "\n" .. raw
  local outcome = recall(key, tonumber(handle:timestamp()))
  if outcome == nil then
    local ttl
    -- Headers and everything else taken from the handle die over the call.
    outcome, ttl = ask(handle, settings.control, identity, raw, caller)
    remember(key, outcome, ttl, tonumber(handle:timestamp()))
  end
  return outcome
end

function envoy_on_request(handle)
  local decided, outcome = pcall(decide, handle)
  if not decided then
    handle:logErr("devroute: " .. tostring(outcome))
    outcome = BROKEN
  end
  if outcome.decision == "error" then
    handle:respond({
      [":status"] = outcome.status,
      ["content-type"] = "application/json",
      ["x-devroute-result"] = "error",
      ["x-devroute-reason"] = outcome.reason,
    }, outcome.body .. "\n")
    return
  end
  local metadata = handle:streamInfo():dynamicMetadata()
  metadata:set(NAMESPACE, "decision", outcome.decision)
  metadata:set(NAMESPACE, "result", outcome.result)
  if outcome.reason ~= nil then
    metadata:set(NAMESPACE, "reason", outcome.reason)
  end
  if outcome.service ~= nil then
    metadata:set(NAMESPACE, "service", outcome.service)
  end
  handle:clearRouteCache()
end

return {
  service_of_sni = service_of_sni,
  identity_of = identity_of,
  may_concern = may_concern,
  parse_answer = parse_answer,
  recall = recall,
  remember = remember,
}
