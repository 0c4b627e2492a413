-- The caller's mesh identity. Taken from its certificate only: a header is what a client can set.

-- The identity, and the same as namespace/serviceaccount; nil for a caller without one. Whether the certificate was
-- validated cannot be asked: Envoy says no on resumed TLS sessions. Istio's inbound listeners end a handshake whose
-- certificate is not valid, so one that is presented is valid.
local function caller_of(info)
  local tls = info:downstreamSslConnection()
  if tls == nil or not tls:peerCertificatePresented() then
    return nil, nil
  end
  local names = tls:uriSanPeerCertificate()
  local name = names and names[1] or ""
  if #name > MAX_CALLER or not name:find("^[!-~]+$") then
    return nil, nil
  end
  local namespace, account = name:match("^spiffe://[^/]+/ns/([^/]+)/sa/([^/]+)$")
  return name, namespace and namespace .. "/" .. account
end

-- Overwrites whatever the client sent.
local function set_caller(headers, info)
  local caller = caller_of(info)
  if caller ~= nil then
    headers:replace(CALLER, caller)
  else
    headers:remove(CALLER)
  end
end
