-- parts: none
--
-- front.lua for requests whose traceparent (W3C Trace Context) has the id of a trace of `devroute trace`: notes it for
-- decide.lua, unless the request has an id of its own. So a trace shows services that a caller called without the
-- contract, too.

function envoy_on_request(handle)
  local headers = handle:headers()
  if headers:get(TRACE) == nil then
    headers:replace(TRACE, TRACEPARENT .. " " .. headers:get(TRACEPARENT):sub(4, 35))
  end
  handle:streamInfo():dynamicMetadata():set(METADATA, "result", "")
  handle:clearRouteCache()
end
