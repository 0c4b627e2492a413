-- devroute's filter: for one request with a contract, decide whether it leaves the mesh at this service.
--
-- It runs on the routes "devroute-ask" only, which match requests that carry a contract and have no decision yet, so that
-- nobody else pays for it. It leaves its decision as dynamic metadata, which no client can set, and has the route chosen
-- again: what is to go elsewhere matches the route "devroute-decided", which takes its cluster from a header that is
-- overwritten here, and everything else falls to the service's own route.
--
-- It never parses the contract (it asks the proxy, who does), never takes a decision from what a client can set, and never
-- takes a service down: whatever goes wrong here, the real service answers and the response says why.

-- Each request leaves garbage. To collect it less often saves one per cent of a request's CPU (bench/mesh_cost.md), for up to
-- four times the memory of what is remembered.
collectgarbage("setpause", 400)

local CONTRACT = "x-devroute"
local MATCHED = "x-devroute-matched" -- for the proxy: the service that it stands in for
local CLUSTER = "x-devroute-cluster" -- for the route: where the request goes
local SHADOW = "x-devroute-shadow" -- for the route: where a copy goes
local COMPARE = "x-devroute-compare" -- for the proxy: by which it finds the real service's answer to a copied request
local VIA = "x-devroute-via" -- the services that have sent the request away, as baggage has it in devroute-via
local CALLER = "x-devroute-caller" -- for the proxy: the mesh identity of whoever sent the request
local ORIGIN = "x-devroute-origin" -- for the proxy: where the mesh finds the service, should the laptop decline
local FAILOVER = "x-devroute-failover" -- from the proxy: the service whose laptop has declined
local HOST = "x-devroute-host" -- for the proxy's way into the mesh: what the service was called by
local TRACE = "x-devroute-trace" -- a request whose hops are to be told of, as baggage has it in devroute-trace
local BAGGAGE = "baggage"
local TIMEOUT = "x-envoy-upstream-rq-timeout-ms" -- the router's own

local NAMESPACE = "devroute" -- of the metadata: the decision here, the settings on the route
local MAX_CONTRACT = 8192 -- bytes; the grammar's own limit (devroute/contract.py)
local MAX_BAGGAGE = 8192 -- bytes (W3C Baggage §3.3.2)
local MAX_MEMBERS = 64 -- of baggage (W3C Baggage §3.3.2)
local MAX_VIA = 1024 -- bytes; a chain of detours that long leads nowhere
local RESOLVE_TIMEOUT_MS = 500 -- what a proxy that hangs may cost a request
local MAX_TTL_MS = 1000 -- how long an answer may be believed at all
local FAILURE_TTL_MS = 1000 -- so that a dead proxy costs its timeout once a second, not for every request
local MAX_CACHED = 256 -- contracts a worker remembers; with keys of 8 KiB at most, 4 MiB
local MAX_IDENTITIES = 16 -- services behind one sidecar; it has one, as a rule
local MAX_ANSWER = 65536 -- bytes of an answer; ours have a few hundred
local MAX_REASON = 200 -- bytes of a header that people read
local MAX_CALLER = 1024 -- bytes of an identity, as in a contract
local KEYS = { "control", "data", "service", "namespace", "domain" } -- of the settings
local MAX_NAME = 253 -- bytes of a service's name (RFC 1035 §2.3.4)

--- Outcomes -----------------------------------------------------------------------------------------------------
-- result, reason: the response's x-devroute-result and x-devroute-reason; any result at all ends the asking.
-- status, body: an answer given at once.

local function printable(text)
  return (text:sub(1, MAX_REASON):gsub("[^\32-\126]", "?"))
end

local function fallback(reason)
  return { result = "fallback", reason = printable(reason) }
end

local function left(condition)
  return { result = "service", reason = "the contract leaves this request to the service: " .. condition }
end

local function failure(code, status, message, hint, service, target)
  local body = '{"code": "%s", "message": "%s", "hint": "%s", "service": %s, "target": %s, "request_id": null}'
  service = service and '"' .. service .. '"' or "null"
  target = target and '"' .. target .. '"' or "null"
  return { reason = printable(message), status = status, body = body:format(code, message, hint, service, target) }
end

local function refusal(message, hint)
  return failure("contract-invalid", "400", message, hint)
end

local UNCONCERNED = { result = "service" }
local SILENT = { result = "" } -- an empty value becomes no header: somebody else says what was decided
local DETOURED = { result = "error" } -- the proxy sets the result of what it answers; this stands where it could not
local MIRRORED = { result = "mirror" }
local NOT_OFFERED = { result = "service", reason = "the laptop leaves this request to the service: its path" }
local FAILED_OVER = { result = "service", reason = "the laptop declined this request" }
local OTHER_METHOD = left("its method")
local OTHER_PATH = left("its path")
local OTHER_CALLER = left("its caller")
local OTHER_SHARE = left("its percentage")
local NAMELESS = fallback("the sidecar does not know which service it stands for; set DEVROUTE_SERVICE on it")
local NO_CLUSTER = fallback("the sidecar does not know the cluster of the devroute proxy")
local NONSENSE = fallback("the devroute proxy's answer was not understood")
local BROKEN = fallback("the devroute filter failed; the sidecar's log says why")
local REPEATED = refusal("the header x-devroute is repeated", "send one header with all services in one object")
local TOO_LONG = refusal("the contract is longer than 8192 bytes", "name fewer services")
local UNREADABLE = refusal("the contract in baggage is not one line of ASCII", "percent-encode the JSON")

--- The service's own name ---------------------------------------------------------------------------------------

local function valid_name(name)
  return name ~= nil and #name <= MAX_NAME and name:find("^%w[%w%.%-_]*$") ~= nil
end

-- Mesh peers name the service they dial in the SNI: outbound_.8080_.SUBSET_.foo.default.svc.cluster.local
local function service_of_sni(sni)
  local port, host = sni:match("^outbound_%.(%d+)_%..-_%.(.+)$")
  if host == nil then
    return nil, nil
  end
  local name, namespace = host:match("^([%w%-]+)%.([%w%-]+)%.svc%.")
  return name, namespace, port, host
end

local ENVIRONMENT_NAMES = { os.getenv("DEVROUTE_SERVICE") or "", os.getenv("ISTIO_META_WORKLOAD_NAME") or "" }
local ENVIRONMENT_NAMESPACE = os.getenv("POD_NAMESPACE") or os.getenv("ISTIO_META_NAMESPACE")

-- The names this sidecar may be meant by, most trusted first. A name given on the route is the only one.
-- `known` holds what is remembered of each contract.
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
  return { names = table.concat(names, ","), needles = needles, namespace = namespace, known = {}, size = 0 }
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

--- Baggage ------------------------------------------------------------------------------------------------------
-- The contract travels as the member "devroute", percent-encoded compact JSON, so that apps with OpenTelemetry pass it on.

local function encode(text)
  return (text:gsub("[^%w%-%._~]", function(char)
    return ("%%%02X"):format(char:byte())
  end))
end

local function decode(text)
  return (text:gsub("%%(%x%x)", function(digits)
    return string.char(tonumber(digits, 16))
  end))
end

-- JSON without the white space between its tokens.
local function compact(json)
  if not json:find("[ \t]") then
    return json
  end
  local kept, inside, escaped = {}, false, false
  for char in json:gmatch(".") do
    if inside then
      if escaped then
        escaped = false
      elseif char == "\\" then
        escaped = true
      elseif char == '"' then
        inside = false
      end
    elseif char == '"' then
      inside = true
    elseif char == " " or char == "\t" then
      char = ""
    end
    kept[#kept + 1] = char
  end
  return table.concat(kept)
end

-- The value of a member as it is written, without its properties; `key` ends with its equals sign.
local function member_of(baggage, key)
  local at = 1
  while true do
    local first, last = baggage:find(key, at, true)
    if first == nil then
      return nil
    end
    if first == 1 or baggage:find("^[, \t]", first - 1) then
      return baggage:match("^[^,; \t]*", last + 1)
    end
    at = last + 1
  end
end

-- Baggage with a member set, in the place of one of that name; all others stay byte for byte. Where it does not fit, or
-- `value` is nil, an old one is taken out all the same: it would be believed. Returns nil where nothing is left.
local function with_member(baggage, key, value)
  local kept, place = {}, nil
  for member in ((baggage or "") .. ","):gmatch("([^,]*),") do
    if (member:match("^[ \t]*([^=]*)=") or ""):gsub("[ \t]+$", "") .. "=" ~= key then
      kept[#kept + 1] = member
    elseif place == nil then
      place = #kept + 1
    end
  end
  if #kept == 1 and kept[1] == "" then
    kept = {}
  end
  local bare = kept[1] and table.concat(kept, ",")
  if value == nil or #kept >= MAX_MEMBERS then
    return bare
  end
  table.insert(kept, place or #kept + 1, key .. value)
  local joined = table.concat(kept, ",")
  return #joined <= MAX_BAGGAGE and joined or bare
end

local function set_baggage(headers, value)
  if value == nil then
    headers:remove(BAGGAGE)
  else
    headers:replace(BAGGAGE, value)
  end
end

local decoded, decoded_size = {}, 0

-- The contract in baggage: nil where there is none, false where it cannot be one.
local function contract_in(baggage)
  local value = member_of(baggage, "devroute=")
  if value == nil or value == "" then
    return nil
  end
  local raw = decoded[value]
  if raw == nil then
    raw = decode(value)
    if #raw > MAX_CONTRACT or not raw:find("^[\t\32-\126]+$") then
      return false
    end
    if decoded_size >= MAX_CACHED then
      decoded, decoded_size = {}, 0
    end
    decoded[value], decoded_size = raw, decoded_size + 1
  end
  return raw
end

--- The proxy's answer -------------------------------------------------------------------------------------------
-- Lines of "key value", the first one "devroute 1". Each decision checks what it needs and returns a rule, or nil for
-- nonsense: `outcome` where it is the same for every request, or `service` with what leads elsewhere.

local DECISIONS = {
  service = function(_)
    return { outcome = UNCONCERNED }
  end,
  fallback = function(answer)
    return answer.reason and { outcome = fallback(answer.reason) }
  end,
  detour = function(answer)
    return valid_name(answer.service) and {} or nil
  end,
  mirror = function(answer)
    return valid_name(answer.service) and {} or nil
  end,
  version = function(answer)
    return valid_name(answer.service) and valid_name(answer.version) and { version = answer.version } or nil
  end,
  error = function(answer)
    local status = answer.status
    if status == nil or not status:find("^[45]%d%d$") or answer.body == nil or answer.reason == nil then
      return nil
    end
    return { outcome = { reason = printable(answer.reason), status = status, body = answer.body } }
  end,
}

local function set_of(list)
  local set = list and {}
  for item in (list or ""):gmatch("[^,]+") do
    set[item] = true
  end
  return set
end

local function words_of(list)
  local words = list and {}
  for word in (list or ""):gmatch("[^ ]+") do
    words[#words + 1] = word
  end
  return words
end

-- Returns a rule and the milliseconds it holds, or nil for nonsense.
-- Patterns of callers, in each of which * stands for any text without a slash; nil where there are none.
local function patterns_of(list)
  if list == nil then
    return nil
  end
  local patterns = {}
  for each in list:gmatch("[^,]+") do
    local lua = "^" .. each:gsub("[%^%$%(%)%%%.%[%]%+%-%?]", "%%%0"):gsub("%*", "[^/]*") .. "$"
    patterns[#patterns + 1] = { lua = lua, whole = each:find("://", 1, true) ~= nil }
  end
  return patterns
end

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
  local rule = decide and decide(answer)
  local ttl = answer.ttl or "0"
  local percent = answer.percent and tonumber(answer.percent)
  if not rule or not ttl:find("^%d%d?%d?%d?$") or (answer.percent and not (percent and percent >= 0 and percent <= 100)) then
    return nil
  end
  if answer.timeout and not answer.timeout:find("^%d+$") then
    return nil
  end
  rule.decision, rule.service, rule.timeout = answer.decision, answer.service, answer.timeout
  rule.methods, rule.path, rule.callers, rule.percent = set_of(answer.methods), answer.path, set_of(answer.from), percent
  rule.permitted = patterns_of(answer.callers)
  rule.only_paths = words_of(answer["only-paths"])
  rule.conditional = (answer.methods or answer.path or answer.from or percent or rule.only_paths or answer.callers) ~= nil
  rule.strict, rule.wants_origin = answer.fallback == "fail", answer.origin == "yes"
  rule.compared = answer.compare == "yes"
  return rule, math.min(tonumber(ttl), MAX_TTL_MS)
end

local function ask(handle, control, identity, raw)
  local called, headers, body = pcall(handle.httpCall, handle, control, {
    [":method"] = "GET",
    [":path"] = "/resolve",
    [":authority"] = "devroute-proxy",
    [CONTRACT] = raw,
    ["x-devroute-candidates"] = identity.names,
    ["x-devroute-namespace"] = identity.namespace,
  }, nil, RESOLVE_TIMEOUT_MS)
  if not called then
    return { outcome = NO_CLUSTER }, FAILURE_TTL_MS
  end
  local status = headers[":status"]
  local outcome = nil
  if status == "200" then
    local rule, ttl = parse_answer(body)
    if rule ~= nil then
      return rule, ttl
    end
    outcome = NONSENSE
  elseif status == "504" then
    outcome = fallback("the devroute proxy did not answer within " .. RESOLVE_TIMEOUT_MS .. " ms")
  elseif status == "503" then
    outcome = fallback("the devroute proxy cannot be reached")
  else
    outcome = fallback("the devroute proxy answered the sidecar with status " .. tostring(status))
  end
  return { outcome = outcome }, FAILURE_TTL_MS
end

--- What this worker remembers -----------------------------------------------------------------------------------
-- Of each contract: `concerns` us or others only, `member` for baggage (false where it is too long), and of those that
-- concern us the last `rule` until it `expires`.

local function remember(identity, raw)
  if identity.size >= MAX_CACHED then
    identity.known, identity.size = {}, 0
  end
  local member = encode(compact(raw))
  local entry = { concerns = may_concern(raw, identity.needles), expires = 0 }
  entry.member = #member + #"devroute=" <= MAX_BAGGAGE and member
  identity.known[raw], identity.size = entry, identity.size + 1
  return entry
end

local function fresh(entry, now)
  -- The clock is the wall's: an answer from its future is not believed.
  return now < entry.expires and entry.expires <= now + MAX_TTL_MS
end

--- One request --------------------------------------------------------------------------------------------------

-- The route's metadata; the routes of one configuration have the same. A worker's Lua outlives its routes, so they are
-- read anew each second: for every request it would cost as much as looking for the service's name.
local settings
local settings_of = 0 -- the second in which they were read
local identities, identities_size = {}, 0

local function identity_for(info)
  local sni = settings.service and "" or info:requestedServerName()
  local identity = identities[sni]
  if identity == nil then
    if identities_size >= MAX_IDENTITIES then
      identities, identities_size = {}, 0
    end
    identity = identity_of(settings.service, settings.namespace, sni)
    identities[sni], identities_size = identity, identities_size + 1
  end
  return identity
end

-- The caller's mesh identity, from the certificate that it proved to own, and the same as namespace/serviceaccount; "" for
-- who has none.
local function caller_of(info)
  local tls = info:downstreamSslConnection()
  if tls == nil or not tls:peerCertificateValidated() then
    return "", nil
  end
  local names = tls:uriSanPeerCertificate()
  local name = names and names[1] or ""
  if #name > MAX_CALLER or not name:find("^[!-~]+$") then
    return "", nil
  end
  local namespace, account = name:match("^spiffe://[^/]+/ns/([^/]+)/sa/([^/]+)$")
  return name, namespace and namespace .. "/" .. account
end

local function from_one_of(callers, info)
  local name, short = caller_of(info)
  return callers[name] or (short ~= nil and callers[short] == true)
end

-- Whether policy lets the caller's requests go; its patterns mean what they mean to the proxy (devroute/policy_rules.py).
local function permitted(patterns, name, short)
  for _, pattern in ipairs(patterns) do
    local text = pattern.whole and name or short
    if text and text:find(pattern.lua) then
      return true
    end
  end
  return false
end

local function under_one_of(paths, path)
  for _, each in ipairs(paths) do
    if path:sub(1, #each) == each then
      return true
    end
  end
  return false
end

-- The outcome of a request that the rule is not for, or nil.
local function unmet(rule, handle, headers)
  if rule.methods and not rule.methods[headers:get(":method")] then
    return OTHER_METHOD
  elseif rule.path and headers:get(":path"):sub(1, #rule.path) ~= rule.path then
    return OTHER_PATH
  elseif rule.only_paths and not under_one_of(rule.only_paths, headers:get(":path")) then
    return NOT_OFFERED
  elseif rule.callers and not from_one_of(rule.callers, handle:streamInfo()) then
    return OTHER_CALLER
  elseif rule.percent and math.random() * 100 >= rule.percent then
    return OTHER_SHARE
  end
  return nil
end

-- Whether a cluster is there, without a request to it: Envoy looks for the cluster before it looks at the headers, which
-- are missing here.
local function has_cluster(handle, name)
  local _, problem = pcall(handle.httpCall, handle, name, {}, nil, 1)
  return tostring(problem):find("headers must include", 1, true) ~= nil
end

-- For one request at one service; nobody gains by guessing it.
local function new_id()
  local halves = {}
  for half = 1, 4 do
    halves[half] = ("%08x"):format(math.random(0, 4294967295))
  end
  return table.concat(halves)
end

local function port_of(address)
  return address and address:match(":(%d+)$")
end

-- The cluster of the service itself, as Istio names it: by the port that the request was redirected from.
local function own_cluster(handle)
  return ("inbound|%s||"):format(port_of(handle:streamInfo():downstreamLocalAddress()) or "")
end

-- The service's name in the mesh, and the ports that it may have, the likeliest first. Its port is in the SNI; without
-- mTLS it is the one that the caller named, or the app's own.
local function places_of(handle, headers, rule, identity)
  local info = handle:streamInfo()
  local name, namespace = rule.service:match("^([^%.]+)%.?(.*)$")
  local sni_name, _, port, host = service_of_sni(info:requestedServerName())
  local ports = { port }
  if sni_name ~= name then
    namespace = namespace ~= "" and namespace or identity.namespace or "default"
    host = ("%s.%s.svc.%s"):format(name, namespace, settings.domain or "cluster.local")
    ports = { port_of(headers:get(":authority")) or "80", port_of(info:downstreamLocalAddress()) }
  end
  return host, ports
end

-- The clusters that a version of the service may have, the likeliest first.
local function version_clusters(handle, headers, rule, identity)
  local host, ports = places_of(handle, headers, rule, identity)
  local names = {}
  for _, each in ipairs(ports) do
    names[#names + 1] = ("outbound|%s|%s|%s"):format(each, rule.version, host)
  end
  return names
end

-- Where the mesh finds the service itself, as host:port; nil where this sidecar does not know. The last answer is
-- remembered.
local function origin_of(handle, headers, rule, identity)
  local host, ports = places_of(handle, headers, rule, identity)
  local asked = host .. ":" .. table.concat(ports, ",")
  if rule.origin_asked ~= asked then
    rule.origin_asked, rule.origin = asked, nil
    for _, port in ipairs(ports) do
      if has_cluster(handle, ("outbound|%s||%s"):format(port, host)) then
        rule.origin = host .. ":" .. port
        break
      end
    end
  end
  return rule.origin
end

local function prevented(rule, code, status, message, hint)
  if rule.strict then
    return failure(code, status, message, hint, rule.service, rule.version and "version:" .. rule.version)
  end
  return fallback(code .. ": " .. message)
end

-- The outcome of a request whose caller policy does not permit, or nil.
local function refused(rule, handle)
  if rule.permitted == nil then
    return nil
  end
  local name, short = caller_of(handle:streamInfo())
  if permitted(rule.permitted, name, short) then
    return nil
  end
  name = name:gsub('[\\"]', "?")
  local who = name == "" and "a caller without a mesh identity" or "'" .. name .. "'"
  local message = ("service '%s': denied by policy: no rule of callers lets %s use this target"):format(rule.service, who)
  local hint = "the platform team can add a rule to callers in the policy"
  return prevented(rule, "caller-denied", "403", message, hint)
end

local function contains(list, name)
  for each in list:gmatch("[^%s,~]+") do
    if each == name then
      return true
    end
  end
  return false
end

-- The services that have sent the request away, and whether ours is one of them.
local function via_of(rule, headers, baggage)
  local via = headers:get(VIA) or (baggage and member_of(baggage, "devroute-via=") or ""):gsub("~", ", ")
  return via, #via > MAX_VIA or contains(via, rule.service)
end

-- Whether the proxy's cluster is there; asked once in a rule's life, since Envoy's "no" is an error, which is slow.
local function has_proxy(handle, rule)
  if rule.has_proxy == nil then
    rule.has_proxy = has_cluster(handle, settings.data)
  end
  return rule.has_proxy
end

-- Say in header and baggage that the request has been sent away from here, too. Requests come in rows: the last one's
-- baggage is remembered.
local function add_via(rule, headers, via, baggage)
  if rule.via == nil or rule.via_before ~= via or rule.baggage_before ~= baggage then
    rule.via_before, rule.baggage_before = via, baggage
    rule.via = via == "" and rule.service or via .. ", " .. rule.service
    rule.baggage = with_member(baggage, "devroute-via=", (rule.via:gsub("[%s,]+", "~")))
  end
  headers:replace(VIA, rule.via)
  set_baggage(headers, rule.baggage)
end

-- Send the request elsewhere, or a copy of it; returns the outcome.
local function send(rule, handle, headers, identity, baggage)
  local via, passed = via_of(rule, headers, baggage)
  if passed then
    if rule.version then
      return SILENT -- it has arrived
    end
    local message = ("the contract leads back to service '%s', which has sent this request away before"):format(rule.service)
    return prevented(rule, "loop", "508", message, "each service is detoured at most once for a request")
  end
  local outcome, cluster = DETOURED, settings.data
  if cluster == nil then -- a waypoint (waypoint.lua): its routes know headers only
    if rule.decision ~= "detour" then
      return fallback("a waypoint can neither copy requests nor choose a version")
    end
  elseif rule.decision ~= "version" and not has_proxy(handle, rule) then
    return NO_CLUSTER
  end
  if rule.decision == "version" then
    for _, name in ipairs(version_clusters(handle, headers, rule, identity)) do
      outcome = has_cluster(handle, name) and { result = "version", reason = rule.service .. " answered by " .. name }
      if outcome then
        cluster = name
        break
      end
    end
    if not outcome then
      local message = ("the sidecar knows no version '%s' of service '%s'"):format(rule.version, rule.service)
      return prevented(rule, "version-missing", "503", message, "is it a subset of the service's DestinationRule?")
    end
  elseif rule.decision == "mirror" then
    outcome, cluster = MIRRORED, own_cluster(handle)
    if not has_cluster(handle, cluster) then
      return fallback("the sidecar cannot copy requests: it has no cluster " .. cluster)
    end
  end
  if outcome ~= DETOURED then -- whose route has its cluster, and takes these off
    headers:replace(CLUSTER, cluster)
    if outcome == MIRRORED then
      headers:replace(SHADOW, settings.data)
      if rule.compared then
        local id = new_id()
        headers:replace(COMPARE, id)
        handle:streamInfo():dynamicMetadata():set(NAMESPACE, "compare", id)
      else
        headers:remove(COMPARE)
      end
    else
      headers:remove(SHADOW)
    end
  end
  headers:replace(MATCHED, rule.service)
  if rule.wants_origin then
    local origin = cluster and origin_of(handle, headers, rule, identity)
    if origin then
      headers:replace(ORIGIN, origin)
    else
      headers:remove(ORIGIN)
    end
  end
  local caller = caller_of(handle:streamInfo())
  if caller ~= "" then
    headers:replace(CALLER, caller)
  else
    headers:remove(CALLER)
  end
  if rule.timeout then
    headers:replace(TIMEOUT, rule.timeout)
  end
  add_via(rule, headers, via, baggage)
  return outcome
end

-- Baggage that says what the header says; the last one is remembered.
local function joined(entry, baggage)
  if entry.before ~= baggage then
    entry.before, entry.after = baggage, baggage
    if member_of(baggage, "devroute=") ~= entry.member then
      entry.after = with_member(baggage, "devroute=", entry.member or nil)
    end
  end
  return entry.after
end

-- Header and baggage say the same from here on, and the header wins. Returns the contract, what is remembered of it, and the
-- baggage; or the outcome of a request that has none.
local function contract_of(headers, identity)
  local raw, baggage = headers:get(CONTRACT), headers:get(BAGGAGE)
  if raw == nil then
    raw = baggage and contract_in(baggage)
    if not raw then
      return nil, nil, nil, raw == false and UNREADABLE or SILENT
    end
    headers:replace(CONTRACT, raw)
    return raw, identity.known[raw] or remember(identity, raw), baggage
  end
  local entry = identity.known[raw]
  if entry == nil then
    if headers:getNumValues(CONTRACT) > 1 then
      return nil, nil, nil, REPEATED
    elseif #raw > MAX_CONTRACT then
      return nil, nil, nil, TOO_LONG
    end
    entry = remember(identity, raw)
  end
  local after
  if baggage == nil then
    after = entry.member and "devroute=" .. entry.member or nil
  else
    after = joined(entry, baggage)
  end
  if after ~= baggage then
    set_baggage(headers, after)
  end
  return raw, entry, after
end

-- The id of a trace, where `devroute trace` has sent this request.
local function trace_of(headers, baggage)
  local trace = headers:get(TRACE)
  if trace == nil then
    trace = baggage and member_of(baggage, "devroute-trace=")
  end
  return trace and #trace == 32 and trace:find("^%x+$") and trace or nil
end

-- Tell the proxy what was decided, without waiting for its answer, and see that the next sidecar does so too.
local function tell(handle, trace, identity, raw, outcome)
  local headers = handle:headers()
  headers:replace(TRACE, trace)
  set_baggage(headers, with_member(headers:get(BAGGAGE), "devroute-trace=", trace))
  local gone = outcome == DETOURED and "laptop" or outcome == MIRRORED and "mirror"
  pcall(handle.httpCall, handle, settings.control, {
    [":method"] = "POST",
    [":path"] = "/trace",
    [":authority"] = "devroute-proxy",
    [TRACE] = trace,
    [CONTRACT] = raw,
    [MATCHED] = gone and headers:get(MATCHED) or nil,
    ["x-devroute-candidates"] = identity.names,
    ["x-devroute-namespace"] = identity.namespace,
    ["x-devroute-result"] = gone or outcome.status and "error" or outcome.result,
    ["x-devroute-reason"] = outcome.reason,
    ["x-request-id"] = headers:get("x-request-id"),
  }, nil, RESOLVE_TIMEOUT_MS, true)
end

-- Whether the proxy brings the request back, since the laptop has declined it; then it is called as it was at first. Whoever
-- forges that takes only their own detour away.
local function failed_over(headers, identity)
  local service = headers:get(FAILOVER)
  if service == nil or not contains(identity.names, service:match("^[^%.]*")) then
    return false
  end
  headers:remove(FAILOVER)
  local host = headers:get(HOST)
  if host ~= nil then
    headers:remove(HOST)
    headers:replace(":authority", host)
  end
  return true
end

local function outcome_of(handle, headers, identity, raw, entry, baggage)
  if identity.names == "" then
    return NAMELESS
  elseif not entry.concerns then
    return UNCONCERNED
  elseif failed_over(headers, identity) then
    return FAILED_OVER
  end
  if not fresh(entry, tonumber(handle:timestamp())) then
    local rule, ttl = ask(handle, settings.control, identity, raw)
    -- Headers and everything else taken from the handle have died over the call.
    headers = handle:headers()
    entry = identity.known[raw] or entry
    entry.rule, entry.expires = rule, tonumber(handle:timestamp()) + ttl
  end
  local rule = entry.rule
  local arrived = false
  if rule.version and rule.conditional then -- the other sidecar has thrown the dice
    local _
    _, arrived = via_of(rule, headers, baggage)
  end
  local outcome = nil
  if rule.conditional and not arrived then
    outcome = unmet(rule, handle, headers) or refused(rule, handle)
  end
  return outcome or rule.outcome or send(rule, handle, headers, identity, baggage)
end

local function read_settings(handle)
  local metadata, before = handle:metadata(), settings or {}
  settings = {}
  for _, key in ipairs(KEYS) do
    settings[key] = metadata:get(key)
  end
  for _, key in ipairs(KEYS) do
    if settings[key] ~= before[key] then -- what is remembered was learnt under the others
      identities, identities_size = {}, 0
      break
    end
  end
end

local function decide(handle)
  local second = os.time()
  if settings_of ~= second then
    read_settings(handle)
    settings_of = second
  end
  local identity = identity_for(handle:streamInfo())
  local headers = handle:headers()
  local raw, entry, baggage, outcome = contract_of(headers, identity)
  if outcome ~= nil then
    return outcome
  end
  local trace = trace_of(headers, baggage)
  outcome = outcome_of(handle, headers, identity, raw, entry, baggage)
  if trace ~= nil then
    tell(handle, trace, identity, raw, outcome)
  end
  return outcome
end

-- Workers start alike; their dice must not.
math.randomseed(os.time() + tonumber(tostring({}):match("0x(%x+)") or "0", 16) % 1000003)

function envoy_on_request(handle)
  local decided, outcome = pcall(decide, handle)
  if not decided then
    handle:logErr("devroute: " .. tostring(outcome))
    outcome = BROKEN
  end
  if outcome.status ~= nil then
    handle:respond({
      [":status"] = outcome.status,
      ["content-type"] = "application/json",
      ["x-devroute-result"] = "error",
      ["x-devroute-reason"] = outcome.reason,
    }, outcome.body .. "\n")
    return
  end
  local metadata = handle:streamInfo():dynamicMetadata()
  metadata:set(NAMESPACE, "result", outcome.result)
  if outcome.reason ~= nil then
    metadata:set(NAMESPACE, "reason", outcome.reason)
  end
  handle:clearRouteCache()
end

return {
  service_of_sni = service_of_sni,
  identity_of = identity_of,
  parse_answer = parse_answer,
  remember = remember,
  fresh = fresh,
  compact = compact,
  member_of = member_of,
  with_member = with_member,
}
