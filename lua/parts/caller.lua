-- The caller's mesh identity. Taken from its certificate only: a header is what a client can set.

-- The identity, and the same as namespace/serviceaccount; nil for a caller without one: one that came in cleartext
-- through a listener in PERMISSIVE mode, or whose certificate has more than one URI (SPIFFE X.509-SVID §2).
--
-- Whether the certificate was validated cannot be asked: Envoy says no on resumed TLS sessions. Istio's inbound listeners
-- end a handshake whose certificate is not valid, and a session is resumed only where one was completed, so a certificate
-- that is presented is valid. That does not hold for a listener with `trust_chain_verification: ACCEPT_UNTRUSTED` or
-- without a `validation_context`, which Istio never writes.
local function caller_of(info)
  local tls = info:downstreamSslConnection()
  if tls == nil or not tls:peerCertificatePresented() then
    return nil, nil
  end
  local names = tls:uriSanPeerCertificate()
  local name = names and names[2] == nil and names[1] or ""
  if #name > MAX_CALLER or not name:find("^[!-~]+$") then
    return nil, nil
  end
  local namespace, account = name:match("^spiffe://[^/]+/ns/([^/]+)/sa/([^/]+)$")
  return name, namespace and namespace .. "/" .. account
end

-- Whether the caller is the proxy, in the trust domain of this sidecar's own certificate. There is no proxy for a sidecar
-- whose route does not say who that is, and none without mTLS.
local function is_proxy(info)
  local name, short = caller_of(info)
  if short == nil or short ~= settings.proxy then
    return false
  end
  local own = info:downstreamSslConnection():uriSanLocalCertificate()
  local domain = name:match("^spiffe://[^/]+/")
  return own ~= nil and (own[1] or ""):sub(1, #domain) == domain
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
