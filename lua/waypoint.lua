-- devroute's filter where there are no EnvoyFilters: at a waypoint of an ambient mesh, from a TrafficExtension.
--
-- Routes there are HTTPRoutes, which match headers but neither carry Lua nor know metadata. So this runs for each request
-- of the service, and a detour is known by the header x-devroute-matched, by which an HTTPRoute sends the
-- request to the proxy; whoever else sets it finds it gone. What was decided is devroute.lua's word, unchanged. What needs
-- more than a header (another version, a mirror) ends at the real service.
--
-- It stands behind SETTINGS (what elsewhere is the route's metadata) and devroute.lua, whose functions it takes over.

local CONTRACT = "x-devroute"
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

local function decision_of(handle)
  return handle:streamInfo():dynamicMetadata():get(NAMESPACE)
end

function envoy_on_request(handle)
  local headers = handle:headers()
  if headers:get(MARKER) ~= nil then
    headers:remove(MARKER)
  end
  if headers:get(CONTRACT) == nil then
    return
  end
  on_request(with_settings(handle)) -- sets the marker of a detour, and has the route chosen again
end

function envoy_on_response(handle)
  local decided = decision_of(handle)
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
