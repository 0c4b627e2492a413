-- A contract's decision for one service, as the proxy responds, and the requests that it is for.
--
-- Outcome, of one request:
--   result, reason  the response's x-devroute-result and x-devroute-reason; any result ends the asking
--   status, body    a response that the filter gives itself
-- Rule, of one contract: `outcome` if it is the same for every request, else `service` and what leads elsewhere;
-- `invalid` if the contract itself is, `failed` if the proxy could not be asked.

local RESOLVE_TIMEOUT_MS = 500 -- what a proxy that hangs may cost a request
local FAILURE_TTL_MS = 400 -- so that a dead proxy costs its timeout now and then, and one that is back is asked soon
local INVALID_TTL_MS = 60000 -- of a contract that will be invalid for as long as the proxy is not upgraded

local function fallback(reason)
  return { result = "fallback", reason = printable(reason) }
end

local function left_to_service(condition)
  return { result = "service", reason = "the contract leaves this request to the service: " .. condition }
end

local NOT_OFFERED = { result = "service", reason = "the laptop leaves this request to the service: its path" }
local OTHER_METHOD = left_to_service("its method")
local OTHER_PATH = left_to_service("its path")
local OTHER_CALLER = left_to_service("its caller")
local OTHER_PERCENTAGE = left_to_service("its percentage")
local NO_CLUSTER = fallback(
  "the sidecar does not know the cluster of the devroute proxy; do the egress hosts of its Sidecar resource"
    .. " name devroute/*?" -- or the proxy's own namespace
)
local NOT_UNDERSTOOD = fallback("the devroute proxy's response was not understood")

local INVALID = ('{"code":"%s",'):format(CONTRACT_INVALID.code)

-- For each decision: the rule's own part, or nil if a line that it needs is missing or invalid.
local DECISIONS = {
  service = function(values)
    return { outcome = { result = "service", reason = values.reason and printable(values.reason) } }
  end,
  fallback = function(values)
    return values.reason and { outcome = fallback(values.reason) }
  end,
  detour = function(values)
    return is_name(values.service) and {} or nil
  end,
  mirror = function(values)
    return is_name(values.service) and {} or nil
  end,
  version = function(values)
    return is_name(values.service) and is_name(values.version) and { version = values.version } or nil
  end,
  error = function(values)
    local status = values.status
    if status == nil or not status:find("^[45]%d%d$") or values.body == nil or values.reason == nil then
      return nil
    end
    local outcome = { reason = printable(values.reason), status = status, body = values.body .. "\n" }
    return { outcome = outcome, invalid = values.body:sub(1, #INVALID) == INVALID }
  end,
}

-- Whether it is an IP address and a port, as in 10.0.3.7:8080 and [fd00::7]:8080.
local function is_place(text)
  return #text < 64 and text:find("^[%[%]%x%.:]+:%d%d?%d?%d?%d?$") ~= nil
end

local function set_of(list)
  local set = list and {}
  for item in (list or ""):gmatch("[^,]+") do
    set[item] = true
  end
  return set
end

-- Policy's patterns of callers: `segments` between slashes, each a list of the texts between its stars, since * stands
-- for any text without a slash. nil if there are none.
local function patterns_of(list)
  local patterns = list and {}
  for each in (list or ""):gmatch("[^,]+") do
    local segments = {}
    for segment in (each .. "/"):gmatch("([^/]*)/") do
      local texts = {}
      for text in (segment .. "*"):gmatch("([^%*]*)%*") do
        texts[#texts + 1] = text
      end
      segments[#segments + 1] = texts
    end
    patterns[#patterns + 1] = { segments = segments, whole = each:find("://", 1, true) ~= nil }
  end
  return patterns
end

-- Returns a rule and the milliseconds that it holds, or nil for a response that is not understood.
local function rule_of(body)
  local values, _, ttl = parse_lines(body, "copy")
  local decide = values and DECISIONS[values.decision]
  local rule = decide and decide(values)
  if not rule then
    return nil
  end
  local percent = values.percent and tonumber(values.percent)
  if values.percent and not (percent and percent >= 0 and percent <= 100) then
    return nil
  elseif values.timeout and not values.timeout:find("^%d+$") then
    return nil
  elseif values.owner and not is_place(values.owner) then
    return nil
  end
  rule.path, rule.only_paths = prefixes_of(values.path), prefixes_of(values["only-paths"])
  if rule.path == false or rule.only_paths == false then
    return nil
  end
  rule.decision, rule.service, rule.timeout = values.decision, values.service, values.timeout
  rule.methods, rule.callers, rule.percent = set_of(values.methods), set_of(values.from), percent
  rule.permitted = patterns_of(values.callers)
  rule.conditional = (values.methods or values.path or values.from or percent or rule.only_paths or values.callers) ~= nil
  rule.strict, rule.wants_origin = values.fallback == "fail", values.origin == "yes"
  rule.compared, rule.owner = values.compare == "yes", values.owner
  rule.understands_trace = values.trace == "yes"
  return rule, ttl
end

-- The proxy's rule for a contract, or the fallback that stands in for it, and the milliseconds that it holds.
local function ask(handle, identity, raw)
  local status, body = call_resolve(handle, raw, identity.names, identity.namespace, RESOLVE_TIMEOUT_MS)
  local outcome
  if status == nil then
    outcome = NO_CLUSTER
  elseif status == "200" then
    local rule, ttl = rule_of(body)
    if rule ~= nil then
      return rule, ttl
    end
    outcome = NOT_UNDERSTOOD
  elseif status == "504" then
    outcome = fallback("the devroute proxy did not respond within " .. RESOLVE_TIMEOUT_MS .. " ms")
  elseif status == "503" then
    outcome = fallback("the devroute proxy cannot be reached")
  else
    outcome = fallback("the devroute proxy responded to the sidecar with status " .. tostring(status))
  end
  return { outcome = outcome, failed = true }, FAILURE_TTL_MS
end

-- Where a rule cannot be followed: an error if the contract insists (`fallback: fail`), else the service.
local function prevented(rule, kind, message, hint)
  if rule.strict then
    return error_response(kind, message, hint, rule.service, rule.version and "version:" .. rule.version)
  end
  return fallback(kind.code .. ": " .. message)
end

local function from_one_of(callers, info)
  local name, short = caller_of(info)
  return name ~= nil and (callers[name] or (short ~= nil and callers[short] == true))
end

-- The outcome of a request that the contract's or the laptop's conditions leave to the service, else nil.
local function unmet(rule, handle, headers)
  if rule.methods and not rule.methods[headers:get(":method")] then
    return OTHER_METHOD
  end
  local path = (rule.path or rule.only_paths) and path_of(headers:get(":path"))
  if rule.path and not is_under_one_of(path, rule.path) then
    return OTHER_PATH
  elseif rule.only_paths and not is_under_one_of(path, rule.only_paths) then
    return NOT_OFFERED
  elseif rule.callers and not from_one_of(rule.callers, handle:streamInfo()) then
    return OTHER_CALLER
  elseif rule.percent and math.random() * 100 >= rule.percent then
    return OTHER_PERCENTAGE
  end
  return nil
end

local function matches_segment(texts, segment)
  local first, last = texts[1], texts[#texts]
  if #texts == 1 then
    return segment == first
  end
  local at, stop = #first + 1, #segment - #last
  if at > stop + 1 or segment:sub(1, #first) ~= first or segment:sub(stop + 1) ~= last then
    return false
  end
  for index = 2, #texts - 1 do
    local found, ending = segment:find(texts[index], at, true)
    if found == nil or ending > stop then
      return false
    end
    at = ending + 1
  end
  return true
end

local function matches(segments, text)
  local index = 0
  for segment in (text .. "/"):gmatch("([^/]*)/") do
    index = index + 1
    if segments[index] == nil or not matches_segment(segments[index], segment) then
      return false
    end
  end
  return index == #segments
end

-- Whether policy permits a caller; patterns mean what they mean to the proxy (devroute/policy/rules.py).
local function is_permitted(patterns, name, short)
  for _, pattern in ipairs(patterns) do
    local text = pattern.whole and name or short
    if text and matches(pattern.segments, text) then
      return true
    end
  end
  return false
end

-- The outcome of a request whose caller policy does not permit, else nil.
local function refused(rule, handle)
  if rule.permitted == nil then
    return nil
  end
  local name, short = caller_of(handle:streamInfo())
  if is_permitted(rule.permitted, name, short) then
    return nil
  end
  local who = name == nil and "a caller without a mesh identity" or "'" .. name .. "'"
  local message = ("service '%s': denied by policy: no rule of callers lets %s use this target"):format(rule.service, who)
  return prevented(rule, CALLER_DENIED, message, "the platform team can add a rule to callers in the policy")
end
