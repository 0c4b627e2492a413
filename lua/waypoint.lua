-- devroute's filter where there are no EnvoyFilters: at a waypoint of an ambient mesh, from a TrafficExtension.
--
-- Routes there are HTTPRoutes, which match headers but neither carry Lua nor know metadata. So this runs for each request
-- of the service, and an HTTPRoute takes the header x-devroute-matched for the decision: devroute.lua sets it for a detour,
-- and whoever else sends it finds it gone. What was decided is devroute.lua's word, unchanged; what needs more than a
-- header (another version, a mirror) it leaves to the real service, since SETTINGS name no cluster for data.
--
-- It stands behind SETTINGS (what elsewhere is the route's metadata) and devroute.lua, whose functions it takes over.

local CONTRACT, BAGGAGE = "x-devroute", "baggage"
local MARKER = "x-devroute-matched"
local RESULT, REASON = "x-devroute-result", "x-devroute-reason"
local NAMESPACE = "devroute" -- of the metadata in which devroute.lua leaves its decision

local on_request, on_response = envoy_on_request, envoy_on_response

local settings = {}
function settings.get(_, key)
  return SETTINGS[key]
end

-- The handle as devroute.lua expects it: all of Envoy's own, but with the metadata of a route.
local function with_settings(handle)
  local stand_in = {}
  function stand_in.metadata()
    return settings
  end
  return setmetatable(stand_in, {
    __index = function(_, name)
      return function(_, ...)
        return handle[name](handle, ...)
      end
    end,
  })
end

local function has_contract(headers)
  if headers:get(CONTRACT) ~= nil then
    return true
  end
  local baggage = headers:get(BAGGAGE)
  return baggage ~= nil and baggage:find("devroute=", 1, true) ~= nil
end

function envoy_on_request(handle)
  local headers = handle:headers()
  if headers:get(MARKER) ~= nil then
    headers:remove(MARKER)
    handle:clearRouteCache()
  end
  if has_contract(headers) then
    on_request(with_settings(handle))
  end
end

function envoy_on_response(handle)
  local decided = handle:streamInfo():dynamicMetadata():get(NAMESPACE)
  if decided == nil then
    return
  end
  if on_response ~= nil then
    on_response(with_settings(handle))
  end
  local headers = handle:headers()
  for name, value in pairs({ [RESULT] = decided.result, [REASON] = decided.reason }) do
    if headers:get(name) == nil then
      headers:add(name, value)
    end
  end
end
