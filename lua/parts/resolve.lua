-- GET /resolve of the proxy's control port: the call, and its response (devroute/routing/SIDECAR.md).

-- Returns the status and the body. The status is nil if the sidecar does not know the cluster.
local function call_resolve(handle, control, contract, names, namespace, timeout_ms)
  local called, headers, body = pcall(handle.httpCall, handle, control, {
    [":method"] = "GET",
    [":path"] = "/resolve",
    [":authority"] = "devroute-proxy",
    [CONTRACT] = contract,
    [CANDIDATES] = names,
    [NAMESPACE] = namespace,
  }, nil, timeout_ms)
  return called and headers[":status"] or nil, body
end

-- The version line, then lines of "key value". Returns the values by key, the values of the key `copy`, which
-- may be repeated, and the milliseconds for which all of it holds; nil for anything else.
local function parse_response(body)
  if body == nil or #body > MAX_RESPONSE or body:sub(1, #VERSION_LINE + 1) ~= VERSION_LINE .. "\n" then
    return nil
  end
  local values, copies = {}, {}
  for line in body:sub(#VERSION_LINE + 2):gmatch("[^\n]+") do
    local key, value = line:match("^(%l[%l%-]*) ([\32-\126]+)$")
    if key == "copy" then
      copies[#copies + 1] = value
    elseif key == nil or values[key] ~= nil then
      return nil
    else
      values[key] = value
    end
  end
  local ttl = values.ttl or "0"
  if not ttl:find("^%d%d?%d?%d?$") then
    return nil
  end
  return values, copies, math.min(tonumber(ttl), MAX_TTL_MS)
end
