-- parts: decide
--
-- devroute's filter where no EnvoyFilter applies: at a waypoint of an ambient mesh, from a TrafficExtension.
--
-- Routes there are HTTPRoutes, which match headers, but neither carry Lua nor know metadata. So this runs for every
-- request of the service, and an HTTPRoute matches the header x-devroute-matched, which is removed from what a
-- client sends and set by decide.lua for a detour. Decisions that need more than a header (a version, a mirrored
-- request) end at the service itself, since the settings name no data cluster.

local decide_on_request = envoy_on_request

function envoy_on_request(handle)
  local headers = handle:headers()
  if headers:get(MATCHED) ~= nil then
    headers:remove(MATCHED)
    handle:clearRouteCache()
  end
  if carriers.any(headers) then
    decide_on_request(handle)
  end
end

function envoy_on_response(handle)
  local decided = handle:streamInfo():dynamicMetadata():get(METADATA)
  if decided == nil then
    return
  end
  local headers = handle:headers()
  if headers:get(RESULT) ~= nil then -- and the reason, if any, is that one's: the proxy's, or a sidecar's behind us
    return
  end
  for name, value in pairs({ [RESULT] = decided.result, [REASON] = decided.reason }) do
    if value ~= "" then
      headers:replace(name, value)
    end
  end
end
