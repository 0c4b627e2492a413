-- The responses of the proxy's control port (devroute/routing/SIDECAR.md).

-- The version line, then lines of "key value". Returns the values by key, those of the key that may be repeated, and the
-- milliseconds for which all of it holds; nil for anything else.
local function parse_lines(body, repeatable)
  if body == nil or #body > MAX_RESPONSE or body:sub(1, #CONTROL.version + 1) ~= CONTROL.version .. "\n" then
    return nil
  end
  local values, repeated = {}, {}
  for line in body:sub(#CONTROL.version + 2):gmatch("[^\n]+") do
    local key, value = line:match("^(%l[%l%-]*) ([\32-\126]+)$")
    if key == repeatable then
      repeated[#repeated + 1] = value
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
  return values, repeated, math.min(tonumber(ttl), MAX_TTL_MS)
end
