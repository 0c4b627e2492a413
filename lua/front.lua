-- parts: none
--
-- devroute's first filter in a sidecar: lets a contract change nothing about the policy that its request meets.
--
-- Which filters a request passes is fixed by its first route, here one of devroute's; which of the routes' settings a
-- filter obeys is looked up when it runs. So this one runs before all others and has the route chosen again at once:
-- they all obey the service's own route, and devroute's filter decides behind them (decide.lua, shadow.lua).
--
-- The empty result ends devroute's first routes and reports nothing. Where Envoy's own filters can do both (set_metadata
-- and set_filter_state, since 1.38), they stand in this one's place.

function envoy_on_request(handle)
  handle:streamInfo():dynamicMetadata():set(METADATA, "result", "")
  handle:clearRouteCache()
end
