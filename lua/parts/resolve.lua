-- GET /resolve of the proxy's control port: the call, and its response (devroute/routing/SIDECAR.md).

-- Returns the status and the body. The status is nil if the sidecar does not know the cluster.
local function call_resolve(handle, contract, names, namespace, timeout_ms)
  local question = {
    [":method"] = "GET",
    [":path"] = CONTROL.resolve,
    [":authority"] = CONTROL.authority,
    [CONTRACT] = contract,
    [CANDIDATES] = names,
    [NAMESPACE] = namespace,
  }
  question = with_retries(question, timeout_ms)
  local called, headers, body = pcall(handle.httpCall, handle, settings.control, question, nil, timeout_ms)
  return called and headers[":status"] or nil, body
end
