-- parts: text, path, random, settings, caller, baggage, cluster, lines, retry, resolve
--
-- devroute's sidecar filter for shadow traffic: ordinary requests, without a contract, of a workload that takes part
-- in `--shadow-share`.
--
-- The route "devroute-shadow", which takes a share of them, turns it on. It runs behind the filters of policy, which have
-- obeyed the service's own route (front.lua), asks the proxy whose laptops want this service's requests and has the route
-- chosen again: the service responds, and at most one laptop gets a copy.
--
-- The people behind these requests know nothing of devroute: whatever happens here, the service responds. Per
-- worker at most one request at a time waits for the proxy, and not for long; all others use its last response.

local ASK_TIMEOUT_MS = 250 -- what a proxy that hangs may cost one request of a worker
local FAILURE_TTL_MS = 2000 -- and how often
local MAX_BODY = 65536 -- bytes; what sockets buffer of a copy that a proxy which hangs does not read
local BODILESS = { GET = true, HEAD = true, OPTIONS = true, TRACE = true } -- have no body unless a length is given

local assigned, expires = nil, 0 -- the proxy's last response, nil if no laptop wants copies, and how long it holds
local asking = nil -- since when a request has been waiting for the next one

-- Of a laptop's line: its ticket, percentage of all requests, methods, and path prefixes if it takes no others.
local function laptop_of(value)
  local ticket, percent, methods, paths = value:match("^(%x+) (%d[%d%.]*) ([%u_,%-]+)(.*)$")
  if ticket == nil or tonumber(percent) == nil then
    return nil
  end
  local prefixes = prefixes_of(paths ~= "" and paths or nil)
  if prefixes == false then
    return nil
  end
  local laptop = { ticket = ticket, percent = tonumber(percent), methods = {}, paths = prefixes }
  for method in methods:gmatch("[^,]+") do
    laptop.methods[method] = true
  end
  return laptop
end

-- Returns whose laptops get copies (nil: none) and the milliseconds for which that holds; false for a response that
-- is not understood.
local function assignment_of(body)
  local values, copies, ttl = parse_lines(body, "copy")
  if values == nil then
    return false
  elseif values.decision == "service" then
    return nil, ttl
  elseif values.decision ~= COPIED then
    return false
  end
  local laptops, total = {}, 0
  for _, value in ipairs(copies) do
    local laptop = laptop_of(value)
    if laptop == nil then
      return false
    end
    laptops[#laptops + 1], total = laptop, total + laptop.percent
  end
  if total <= 0 then
    return false
  end
  return { laptops = laptops, total = total }, ttl
end

local function ask(handle)
  local status, body = call_resolve(handle, nil, settings.service, settings.namespace, ASK_TIMEOUT_MS)
  if status == "200" then
    local found, ttl = assignment_of(body)
    if found ~= false then
      return found, ttl
    end
  end
  return nil, FAILURE_TTL_MS
end

-- The clock may be set back: times too far ahead are not believed.
local function current(handle)
  local now = tonumber(handle:timestamp())
  local fresh = now < expires and expires <= now + FAILURE_TTL_MS
  local asked = asking ~= nil and asking <= now and now < asking + FAILURE_TTL_MS
  if not fresh and not asked then
    asking = now
    local found, ttl = ask(handle)
    assigned, expires, asking = found, tonumber(handle:timestamp()) + ttl, nil
  end
  return assigned
end

-- Draws at most one laptop for a request. Only a share of all requests gets here, so a laptop gets proportionally
-- more of them; if all laptops together want more than gets here, each gets proportionally less.
local function drawn(found)
  local share = tonumber(settings.share)
  local point = math.random() * math.max(share, found.total)
  for _, laptop in ipairs(found.laptops) do
    if point < laptop.percent then
      return laptop
    end
    point = point - laptop.percent
  end
  return nil
end

local function wants(laptop, method, path)
  return laptop.methods[method] and (laptop.paths == nil or is_under_one_of(path_of(path), laptop.paths))
end

-- Whether the request may have been sent on behalf of a copy: the proxy marks those in baggage.
local function may_come_of_a_copy(headers)
  local baggage = headers:get("baggage")
  if baggage == nil then
    return false
  end
  return not is_readable(baggage) or contains(member_of(baggage, BAGGAGE_VIA) or "", settings.service)
end

-- Envoy reads an upload only as fast as its copy is taken: one that is long, or of unknown length, could wait for a
-- proxy that hangs. gRPC messages have no length and are usually short.
local function is_short(headers)
  local length = headers:get("content-length")
  if length then
    return (tonumber(length) or math.huge) <= MAX_BODY
  elseif BODILESS[headers:get(":method")] then
    return not headers:get("transfer-encoding")
  end
  return (headers:get("content-type") or ""):sub(1, 16) == "application/grpc"
end

-- The service's own cluster, if that and the proxy's exist. Asked once per response of the proxy and port.
local function cluster_for(handle, found)
  local name = own_cluster(handle:streamInfo())
  if found[name] == nil then
    found[name] = has_cluster(handle, name) and has_cluster(handle, settings.data)
  end
  return found[name] and name or nil
end

-- The id of a request that is copied, once its headers are set for the route; nil for all others.
local function copied(handle)
  local found = current(handle)
  local laptop = found and drawn(found)
  if not laptop then
    return nil
  end
  local headers = handle:headers() -- not earlier: the call above invalidates them
  if not wants(laptop, headers:get(":method"), headers:get(":path")) then
    return nil
  elseif headers:get("upgrade") or not is_short(headers) or may_come_of_a_copy(headers) then
    return nil -- an upgraded connection cannot be copied
  end
  local cluster = cluster_for(handle, found)
  if cluster == nil then
    return nil
  end
  local id = new_id()
  headers:replace(CLUSTER, cluster)
  headers:replace(SHADOW, settings.data)
  headers:replace(COPY, laptop.ticket)
  headers:replace(COMPARE, id)
  set_caller(headers, handle:streamInfo())
  return id
end

function envoy_on_request(handle)
  local decided, id = pcall(copied, handle)
  if not decided then
    handle:logErr("devroute: " .. tostring(id))
    id = nil
  end
  local metadata = handle:streamInfo():dynamicMetadata()
  metadata:set(METADATA, "result", id and COPIED or "service")
  if id then
    metadata:set(METADATA, "compare", id)
  end
  handle:clearRouteCache()
end
