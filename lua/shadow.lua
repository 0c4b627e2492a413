-- devroute's filter for ordinary requests, without a contract, of a workload that takes part in --shadow-share.
--
-- It runs on the route "devroute-shadow", which takes a share of them. It asks the proxy whose laptop wants copies of this
-- service's requests, and has the route chosen again: the real service answers, and at most one laptop gets a copy.
--
-- These are requests of people who know nothing of devroute: whatever happens here, they get the real service's answer.
-- At most one request of a worker waits for the proxy at a time, and not for long; all others go by its last answer.

local COPY = "x-devroute-copy" -- for the proxy: the ticket of the laptop that the copy is for
local SHADOW = "x-devroute-shadow" -- for the route: where the copy goes
local CLUSTER = "x-devroute-cluster" -- for the route: where the request goes
local COMPARE = "x-devroute-compare" -- for the proxy: by which it finds the real service's answer
local CALLER = "x-devroute-caller" -- for the proxy: the mesh identity of whoever sent the request

local ASK_TIMEOUT_MS = 250 -- what a proxy that hangs may cost one request of a worker
local FAILURE_TTL_MS = 2000 -- and how often
local MAX_TTL_MS = 1000 -- how long an answer may be believed
local MAX_ANSWER = 65536 -- bytes; as in devroute.lua
local MAX_CALLER = 1024 -- bytes; likewise
local MAX_BODY = 65536 -- bytes; what sockets hold of a copy that a proxy which hangs does not read
local BODILESS = { GET = true, HEAD = true, OPTIONS = true, TRACE = true } -- where no length is said
local KEYS = { "control", "data", "service", "namespace", "share" }

local settings = {} -- the route's metadata
local share = 0 -- per cent of the requests that get here
local settings_of = 0 -- the second in which they were read
local answer, expires = nil, 0 -- the proxy's last one, nil where nobody wants copies, and until when it holds
local asking = nil -- since when it is asked for

local function read_settings(handle)
  local second = os.time()
  if settings_of ~= second then
    local metadata = handle:metadata()
    for _, key in ipairs(KEYS) do
      settings[key] = metadata:get(key)
    end
    share, settings_of = tonumber(settings.share), second
  end
end

-- Of a laptop's line: its ticket, its percentage of all requests, its methods, and its paths, if it takes no others.
local function laptop_of(value)
  local ticket, percent, methods, paths = value:match("^(%x+) (%d[%d%.]*) ([%u_,%-]+)(.*)$")
  if ticket == nil or tonumber(percent) == nil then
    return nil
  end
  local laptop = { ticket = ticket, percent = tonumber(percent), methods = {}, paths = paths ~= "" and {} or nil }
  for method in methods:gmatch("[^,]+") do
    laptop.methods[method] = true
  end
  for path in paths:gmatch("[^ ]+") do
    table.insert(laptop.paths, path)
  end
  return laptop
end

-- Whose laptops get copies, and the milliseconds for which that holds; false for an answer that is not understood.
local function parse(body)
  if body == nil or #body > MAX_ANSWER or body:sub(1, 11) ~= "devroute 1\n" then
    return false
  end
  local laptops, decision, total, ttl = {}, nil, 0, 0
  for line in body:sub(12):gmatch("[^\n]+") do
    local key, value = line:match("^(%l+) ([\32-\126]+)$")
    if key == "decision" then
      decision = value
    elseif key == "ttl" then
      ttl = tonumber(value) or 0
    elseif key == "copy" then
      local laptop = laptop_of(value)
      if laptop == nil then
        return false
      end
      laptops[#laptops + 1], total = laptop, total + laptop.percent
    end
  end
  if decision == "service" then
    return nil, math.min(ttl, MAX_TTL_MS)
  elseif decision ~= "copy" or total <= 0 then
    return false
  end
  return { laptops = laptops, total = total }, math.min(ttl, MAX_TTL_MS)
end

local function ask(handle)
  local called, headers, body = pcall(handle.httpCall, handle, settings.control, {
    [":method"] = "GET",
    [":path"] = "/resolve",
    [":authority"] = "devroute-proxy",
    ["x-devroute-candidates"] = settings.service,
    ["x-devroute-namespace"] = settings.namespace,
  }, nil, ASK_TIMEOUT_MS)
  if called and headers[":status"] == "200" then
    local found, ttl = parse(body)
    if found ~= false then
      return found, ttl
    end
  end
  return nil, FAILURE_TTL_MS
end

-- The clock is the wall's: what is from its future is not believed.
local function current(handle)
  local now = tonumber(handle:timestamp())
  local fresh = now < expires and expires <= now + FAILURE_TTL_MS
  local asked = asking ~= nil and asking <= now and now < asking + FAILURE_TTL_MS
  if not fresh and not asked then
    asking = now
    local found, ttl = ask(handle)
    answer, expires, asking = found, tonumber(handle:timestamp()) + ttl, nil
  end
  return answer
end

-- Each laptop gets the percentage of all requests that it wants, of those that get here as many times more; where
-- together they want more than get here, all get less in proportion. At most one for each request.
local function drawn(found)
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
  if not laptop.methods[method] then
    return false
  end
  for _, each in ipairs(laptop.paths or {}) do
    if path:sub(1, #each) == each then
      return true
    end
  end
  return laptop.paths == nil
end

-- Whether it was sent on behalf of a copy: the proxy has said so in its baggage.
local function comes_of_a_copy(headers)
  for via in (headers:get("baggage") or ""):gmatch("devroute%-via=([^,; ]*)") do
    for name in via:gmatch("[^~]+") do
      if name == settings.service then
        return true
      end
    end
  end
  return false
end

-- Envoy reads an upload as fast as its copy is taken: one that is long, or will not say, might wait for a proxy that hangs.
-- Messages of gRPC never say, and are short as a rule.
local function is_short(headers)
  local length = headers:get("content-length")
  if length then
    return (tonumber(length) or math.huge) <= MAX_BODY
  elseif BODILESS[headers:get(":method")] then
    return not headers:get("transfer-encoding")
  end
  return (headers:get("content-type") or ""):sub(1, 16) == "application/grpc"
end

local function has_cluster(handle, name)
  local _, problem = pcall(handle.httpCall, handle, name, {}, nil, 1)
  return tostring(problem):find("headers must include", 1, true) ~= nil
end

-- The service's own cluster, where both are there that a copied request needs. Asked once for each answer and port.
local function own_cluster(handle, found)
  local address = handle:streamInfo():downstreamLocalAddress()
  local name = ("inbound|%s||"):format(address and address:match(":(%d+)$") or "")
  if found[name] == nil then
    found[name] = has_cluster(handle, name) and has_cluster(handle, settings.data)
  end
  return found[name] and name or nil
end

-- The caller's mesh identity, from the certificate that it proved to own.
local function caller_of(info)
  local tls = info:downstreamSslConnection()
  local names = tls and tls:peerCertificateValidated() and tls:uriSanPeerCertificate()
  local name = names and names[1] or ""
  return #name <= MAX_CALLER and name:find("^[!-~]+$") and name or nil
end

local function new_id()
  local words = {}
  for word = 1, 4 do
    words[word] = ("%08x"):format(math.random(0, 4294967295))
  end
  return table.concat(words)
end

-- The id of a request that is copied, once everything is written that its route needs; nil for all others.
local function copied(handle)
  read_settings(handle)
  local found = current(handle)
  local laptop = found and drawn(found)
  if not laptop then
    return nil
  end
  local headers = handle:headers() -- not before: over a call they die
  if not wants(laptop, headers:get(":method"), headers:get(":path")) then
    return nil
  elseif headers:get("upgrade") or not is_short(headers) or comes_of_a_copy(headers) then
    return nil -- and a pipe cannot be had twice
  end
  local cluster = own_cluster(handle, found)
  if cluster == nil then
    return nil
  end
  local id = new_id()
  headers:replace(CLUSTER, cluster)
  headers:replace(SHADOW, settings.data)
  headers:replace(COPY, laptop.ticket)
  headers:replace(COMPARE, id)
  local caller = caller_of(handle:streamInfo())
  if caller then
    headers:replace(CALLER, caller)
  else
    headers:remove(CALLER)
  end
  return id
end

-- Workers start alike; their dice must not.
math.randomseed(os.time() + tonumber(tostring({}):match("0x(%x+)") or "0", 16) % 1000003)

function envoy_on_request(handle)
  local decided, id = pcall(copied, handle)
  if not decided then
    handle:logErr("devroute: " .. tostring(id))
    id = nil
  end
  local metadata = handle:streamInfo():dynamicMetadata()
  metadata:set("devroute", "result", id and "copy" or "service")
  if id then
    metadata:set("devroute", "compare", id)
  end
  handle:clearRouteCache()
end
