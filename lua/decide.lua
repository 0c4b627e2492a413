-- parts: text, path, random, settings, caller, identity, baggage, trace_state, carriers, kept, trace, parent, plain, cache, cluster, lines, retry, resolve, rule, loop, destination
--
-- devroute's sidecar filter: decides for one request with a contract whether it is detoured at this service.
--
-- The routes "devroute-ask", which match requests that carry a contract, turn it on; all other requests pay nothing. It
-- runs behind the filters of policy, which have obeyed the service's own route (front.lua). It leaves the decision in
-- dynamic metadata, which no client can set, and has the route chosen again: the routes "devroute-detour" and
-- "devroute-decided" match decisions that lead elsewhere, and everything else falls to the service's own route.
--
-- It never parses a contract (the proxy does, and is asked about each that is not in plain form), never bases a decision
-- on what a client can set, and never takes a service down: whatever fails here, the service itself responds, and the
-- response says why.

-- Each request leaves garbage. Collecting it less often saves 1 % of a request's CPU (bench/mesh_cost.md), for up to
-- four times the memory of the caches.
collectgarbage("setpause", 400)

local TIMEOUT = "x-envoy-upstream-rq-timeout-ms" -- read by Envoy's router

local SILENT = { result = "" } -- an empty value becomes no header: another hop reports the decision
local DETOURED = { result = SENT_TO_PROXY } -- the proxy sets the result of its responses; this stands if it could not
local MIRRORED = { result = "mirror" }
local FAILED_OVER = { result = "service", reason = "the laptop declined this request" }
local NAMELESS = fallback("the sidecar does not know which service it stands for; set DEVROUTE_SERVICE on it")
local DOUBTED = {
  result = "service",
  reason = "the name that was dialled is none of this sidecar's own services; if it is, set DEVROUTE_SERVICE on it",
}
local BROKEN = fallback("the devroute filter failed; the sidecar's log says why")
local REPEATED = error_response(
  CONTRACT_INVALID,
  "the header " .. CONTRACT .. " is repeated",
  "send one header with all services in one object"
)
local TOO_LONG = error_response(
  CONTRACT_INVALID,
  "the contract is longer than " .. MAX_CONTRACT .. " bytes",
  "name fewer services"
)
local UNCHECKED_TTL_MS = 5000 -- between attempts of a proxy that fails, for a contract which may not concern us

--- The contract of a request

-- As a carrier holds it, decoded, and the id of its trace; else false and the outcome, since it cannot be one.
local function decoded_contract(value, carrier)
  local raw = decoded[value]
  if raw ~= nil then
    return raw
  end
  local trace
  raw, trace = split_trace(percent_decode(value))
  if #raw > MAX_CONTRACT or raw:find("[^\t\32-\126]") or value:find("[ \t]") then
    local message = "the contract in " .. carrier.contract.header .. " is not one line of ASCII"
    return false, error_response(CONTRACT_INVALID, message, "percent-encode the JSON")
  elseif trace == nil then -- else it is forgotten: the value occurs in this trace alone
    remember_decoded(value, raw)
  end
  return raw, trace
end

-- That of the first carrier that has one, the id of its trace and the carrier: nil if there is none, else false and the
-- outcome if it cannot be one.
local function carried_contract(held)
  local unread = nil
  for _, carrier in ipairs(carriers.read) do
    local value, too_long = carriers.value(held, carrier.contract)
    if value ~= nil then
      local raw, trace = decoded_contract(value, carrier)
      return raw, trace, carrier
    elseif too_long then
      unread = unread or carrier.contract.header
    end
  end
  if unread ~= nil then
    return false, fallback(unread .. " of more than " .. MAX_READ_BAGGAGE .. " bytes is not read")
  end
  return nil
end

-- Makes the header and all carriers that are written agree; the header wins. Returns the contract without its trace's id and
-- its cache entry; or, third, the outcome of a request without a usable contract; fourth, the id; fifth, where the request
-- belongs to a trace, also by another header's value `given`, the names of what the contract came by. `parent` is the
-- request's traceparent.
local function contract_of(headers, held, identity, given, parent)
  local raw, trace, carrier = headers:get(CONTRACT), nil, nil
  local entry = raw and identity.known[raw]
  if raw == nil then
    raw, trace, carrier = carried_contract(held)
    if not raw then
      return nil, nil, trace or SILENT
    end
  elseif entry == nil then
    if headers:getNumValues(CONTRACT) > 1 then
      return nil, nil, REPEATED
    end
    raw, trace = split_trace(raw)
    if #raw > MAX_CONTRACT then
      return nil, nil, TOO_LONG
    end
  end
  local arrived = (given or trace) and carriers.names(held)
  if carrier ~= nil then
    headers:replace(CONTRACT, raw)
  end
  entry = entry or identity.known[raw] or remember(identity, raw)
  carriers.write(held, entry.values, entry.kept, carrier)
  if settings.parent ~= nil and parent == nil then
    add_parent(headers)
  end
  return raw, entry, nil, trace, arrived
end

--- A request that leads elsewhere

-- Asked once in a rule's life, since Envoy reports a missing cluster as a Lua error, which is slow.
local function has_proxy(handle, rule)
  if rule.has_proxy == nil then
    rule.has_proxy = has_cluster(handle, settings.data)
  end
  return rule.has_proxy
end

-- For the route "devroute-decided", which takes its clusters from headers that are overwritten here.
local function set_clusters(rule, handle, headers, cluster, mirrored)
  headers:replace(CLUSTER, cluster)
  if not mirrored then
    headers:remove(SHADOW)
    return
  end
  headers:replace(SHADOW, settings.data)
  if rule.compared then
    local id = new_id()
    headers:replace(COMPARE, id)
    handle:streamInfo():dynamicMetadata():set(METADATA, "compare", id)
  else
    headers:remove(COMPARE)
  end
end

-- Sends the request to the replica of the proxy at which the laptop's link ends; to any of them where Envoy does not
-- know that one, which then passes it on.
local function choose_owner(rule, handle)
  if rule.owner and handle.setUpstreamOverrideHost then
    handle:setUpstreamOverrideHost(rule.owner, false)
  end
end

-- Sends the request, or a copy of it, elsewhere; returns the outcome.
local function send(rule, handle, headers, held, identity)
  local via, passed = via_of(rule, headers, held)
  if passed then
    if rule.version then
      return SILENT -- it has arrived
    end
    local message = ("the contract leads back to service '%s', which has sent this request away before"):format(rule.service)
    return prevented(rule, LOOP_DETECTED, message, "each service is detoured at most once for a request")
  end
  local cluster = settings.data
  if cluster == nil then -- a waypoint (waypoint.lua), whose routes know headers only
    if rule.decision ~= "detour" then
      return fallback("a waypoint can neither copy requests nor choose a version")
    end
  elseif rule.decision ~= "version" and not has_proxy(handle, rule) then
    return NO_CLUSTER
  end
  local outcome = DETOURED
  if rule.decision == "version" then
    cluster = version_cluster(handle, headers, rule, identity)
    if cluster == nil then
      local message = ("the sidecar knows no version '%s' of service '%s'"):format(rule.version, rule.service)
      return prevented(rule, VERSION_MISSING, message, "is it a subset of the service's DestinationRule?")
    end
    outcome = { result = "version", reason = rule.service .. " answered by " .. cluster }
  elseif rule.decision == "mirror" then
    outcome, cluster = MIRRORED, own_cluster(handle:streamInfo())
    if not has_cluster(handle, cluster) then
      return fallback("the sidecar cannot copy requests: it has no cluster " .. cluster)
    end
  end
  if outcome == DETOURED then -- whose route has a cluster of its own, and removes what set_clusters sets
    choose_owner(rule, handle)
  else
    set_clusters(rule, handle, headers, cluster, outcome == MIRRORED)
  end
  headers:replace(MATCHED, rule.service)
  local origin = rule.wants_origin and cluster and origin_of(handle, headers, rule, identity)
  if origin then
    headers:replace(ORIGIN, origin)
  else
    headers:remove(ORIGIN)
  end
  set_caller(headers, handle:streamInfo())
  if rule.timeout then
    headers:replace(TIMEOUT, rule.timeout)
  end
  add_via(rule, headers, held, via)
  return outcome
end

--- Traces

-- The id of the trace that the request belongs to (`devroute trace`), else nil; `carried` is the one in its contract, and
-- `noted` the one in its traceparent. Second, whether that alone had it.
local function trace_of(held, given, carried, noted)
  local baggage = carriers.text(held, "baggage")
  local trace = is_trace(given) and given or carried or (baggage and member_of(baggage, BAGGAGE_TRACE))
  if is_trace(trace) then
    return trace, false
  end
  return noted, true
end

-- Any client may send a traceparent, so those without a contract are reported up to a rate.
local may_report
do
  local MOST = 20 -- a second, by each worker
  local since, left = 0, 0

  function may_report(handle)
    local now = tonumber(handle:timestamp())
    if now < since or now >= since + 1000 then
      since, left = now, MOST
    end
    left = left - 1
    return left >= 0
  end
end

-- Whether the id may stand in the contract: readers that do not know of it take one in JSON for a further service, but
-- refuse a signed contract with a suffix. So that gets it only if the proxy has stated that it understands it.
local function may_carry_trace(identity, raw)
  if raw:byte(1) == TRACE_ID.opening then
    return true
  end
  local entry = identity.known[raw]
  return entry ~= nil and entry.rule ~= nil and entry.rule.understands_trace
end

-- Writes the id beside the contract in header and baggage, and into it where it may stand there; in a carrier in which it
-- does not fit, the bare contract stays.
local function carry_trace(headers, identity, raw, trace)
  local marked = may_carry_trace(identity, raw) and with_trace(raw, trace) or raw
  if #marked > MAX_CONTRACT then
    marked = raw
  end
  headers:replace(CONTRACT, marked)
  headers:replace(TRACE, trace)
  set_field(headers, "baggage", with_member(headers:get("baggage"), BAGGAGE_TRACE, trace))
  if marked == raw then
    return
  end
  local longer = carriers.encode(marked)
  for _, each in ipairs(carriers.written) do
    local slot = each.contract
    if longer[slot.kind] then
      local before = headers:get(slot.header)
      local after = slot.kind.set(before, slot.key, longer[slot.kind])
      if slot.kind.read(after or "", slot.key) ~= nil then -- else the header as a whole has no room
        set_field(headers, slot.header, after)
      end
    end
  end
end

-- Reports the decision to the proxy, without waiting for its response, and marks the request for the next sidecar.
local function report_hop(handle, trace, by_traceparent, identity, raw, outcome, arrived)
  local headers = handle:headers()
  if raw ~= nil then
    carry_trace(headers, identity, raw, trace)
  else
    headers:remove(TRACE)
    if not may_report(handle) then
      return
    end
  end
  local relayed = outcome == DETOURED and "laptop" or outcome == MIRRORED and "mirror"
  pcall(handle.httpCall, handle, settings.control, {
    [":method"] = "POST",
    [":path"] = CONTROL.trace,
    [":authority"] = CONTROL.authority,
    [TRACE] = trace,
    [TRACE_SOURCE] = by_traceparent and TRACEPARENT or nil,
    [CONTRACT] = raw,
    [MATCHED] = relayed and headers:get(MATCHED) or nil,
    [CANDIDATES] = identity.names,
    [NAMESPACE] = identity.namespace,
    [RESULT] = relayed or outcome.status and "error" or outcome.result,
    [REASON] = outcome.reason,
    [ARRIVED] = arrived or nil,
    ["x-request-id"] = headers:get("x-request-id"),
    ["user-agent"] = headers:get("user-agent"),
  }, nil, RESOLVE_TIMEOUT_MS, true)
end

--- One request

-- Whether the proxy sent the request back, since the laptop declined it; if so, its Host is restored. From any other
-- caller these headers would change the Host behind the back of policies that look at it.
local function has_failed_over(headers, info)
  local service = headers:get(FAILOVER)
  if service == nil then
    return false
  end
  local host = headers:get(HOST)
  headers:remove(FAILOVER)
  headers:remove(HOST)
  if not is_proxy(info) then
    return false
  end
  if host ~= nil then
    headers:replace(":authority", host)
  end
  return true
end

-- The outcome of a valid contract that the proxy need not be asked about, else nil.
local function unasked(identity, entry)
  if identity.names == "" then
    return NAMELESS
  elseif entry.concerns then
    return nil
  end
  return identity.doubts and DOUBTED or entry.outcome
end

-- Has the proxy's rule for a contract, unless the last one still holds. Returns the contract's cache entry, and whether it
-- has asked: the call yields, over which header objects and all else taken from the handle become invalid.
local function current(handle, identity, raw, entry)
  if is_fresh(entry, tonumber(handle:timestamp())) then
    return entry, false
  end
  local rule, ttl = ask(handle, identity, raw)
  entry = identity.known[raw] or entry
  entry.rule, entry.since = rule, tonumber(handle:timestamp())
  local stays = rule.invalid and entry.unclear and raw:byte(1) ~= 64 -- what a name (@) stands for may change
  entry.expires = entry.since + (stays and INVALID_TTL_MS or ttl)
  return entry, true
end

-- The outcome where a contract that names others, as far as can be seen, may be invalid: an error if it is, else the one
-- given. The proxy is asked once about a valid one, and seldom while it fails, since this service may not be concerned.
local function checked(handle, identity, raw, entry, valid)
  entry = current(handle, identity, raw, entry)
  local rule = entry.rule
  if rule.invalid then
    return rule.outcome
  elseif rule.failed then
    entry.expires = entry.since + UNCHECKED_TTL_MS
    if valid ~= entry.outcome then
      return valid
    end -- else the service answers, as it would if the contract were valid
    return { result = "service", reason = printable("the contract was not checked: " .. rule.outcome.reason) }
  end
  entry.unclear = false
  return valid
end

local function outcome_of(handle, info, headers, held, identity, raw, entry)
  if has_failed_over(headers, info) then
    return FAILED_OVER
  end
  local known = unasked(identity, entry)
  if known ~= nil then
    return entry.unclear and checked(handle, identity, raw, entry, known) or known
  end
  local asked
  entry, asked = current(handle, identity, raw, entry)
  if asked then
    headers = handle:headers()
    held.headers = headers
  end
  local rule = entry.rule
  local arrived = false
  if rule.version and rule.conditional then -- the sidecar before the version has drawn the percentage already
    local _
    _, arrived = via_of(rule, headers, held)
  end
  local outcome = nil
  if rule.conditional and not arrived then
    outcome = unmet(rule, handle, headers) or refused(rule, handle)
  end
  return outcome or rule.outcome or send(rule, handle, headers, held, identity)
end

-- All others stay on the service's own route, which the filters of policy have obeyed.
local function leads_elsewhere(outcome)
  return outcome == DETOURED or outcome == MIRRORED or outcome.result == "version"
end

-- Keeps the contract of a request that the app gets, for those that the app sends on its behalf.
local function keep(handle, outcome)
  if settings.folder == nil or outcome.status ~= nil or (leads_elsewhere(outcome) and outcome ~= MIRRORED) then
    return
  end
  local done, problem = pcall(kept.keep, handle, handle:headers())
  if not done then
    handle:logErr("devroute: " .. tostring(problem))
  end
end

local function decide(handle)
  local info = handle:streamInfo()
  local identity = identity_for(info)
  local headers = handle:headers()
  local held = carriers.of(headers)
  local given, parent = headers:get(TRACE), headers:get(TRACEPARENT)
  local noted = TRACE_ID.of_parent(parent)
  local raw, entry, outcome, carried, arrived = contract_of(headers, held, identity, given or noted, parent)
  local trace, by_traceparent = trace_of(held, given, carried, noted)
  if outcome == nil then
    outcome = outcome_of(handle, info, headers, held, identity, raw, entry)
  end
  carriers.flush(held, handle:headers())
  if trace ~= nil then
    report_hop(handle, trace, by_traceparent, identity, raw, outcome, arrived)
  end
  if raw ~= nil then
    keep(handle, outcome)
  end
  return outcome
end

function envoy_on_request(handle)
  local decided, outcome = pcall(decide, handle)
  if not decided then
    handle:logErr("devroute: " .. tostring(outcome))
    outcome = BROKEN
  end
  if outcome.status ~= nil then
    respond(handle, outcome)
    return
  end
  local metadata = handle:streamInfo():dynamicMetadata()
  metadata:set(METADATA, "result", outcome.result)
  if outcome.reason ~= nil then
    metadata:set(METADATA, "reason", outcome.reason)
  end
  if leads_elsewhere(outcome) then
    handle:clearRouteCache()
  end
end
