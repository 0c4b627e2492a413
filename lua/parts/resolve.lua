-- GET /resolve of the proxy's control port: the call, and its response (devroute/routing/SIDECAR.md).

-- Returns the status and the body. The status is nil if the sidecar does not know the cluster.
local function call_resolve(handle, contract, names, namespace, timeout_ms)
  local called, headers, body = pcall(handle.httpCall, handle, settings.control, {
    [":method"] = "GET",
    [":path"] = "/resolve",
    [":authority"] = "devroute-proxy",
    [CONTRACT] = contract,
    [CANDIDATES] = names,
    [NAMESPACE] = namespace,
    ["x-envoy-retry-on"] = RETRY_ON,
    ["x-envoy-max-retries"] = RETRIES,
  }, nil, timeout_ms)
  return called and headers[":status"] or nil, body
end

-- See parse_lines; `copy` may be repeated.
local function parse_response(body)
  return parse_lines(body, "copy")
end
