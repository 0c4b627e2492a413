-- Whose contracts enter the mesh: signed ones, since the proxy verifies them, and those of callers with a claim in a
-- token that the gateway verified, or from a listed network. None of this is taken from a header.

local JWT = "envoy.filters.http.jwt_authn" -- leaves the payloads of the tokens that it verified in metadata of its name

-- Percent-decoded (RFC 3986 §2.1); nil if a percent sign has no two hex digits behind it.
local function decode_strictly(text)
  if text:gsub("%%%x%x", ""):find("%", 1, true) then
    return nil
  end
  return percent_decode(text)
end

-- One line of printable ASCII in braces; the proxy parses it.
local function looks_like_object(text)
  return #text <= MAX_CONTRACT and text:find("^ *{[\32-\126]*} *$") ~= nil
end

-- The shape of a compact JWS (RFC 7515 §7.1) with a signature.
local function looks_signed(text)
  return #text <= MAX_CONTRACT and text:find("^ey[%w_%-]+%.[%w_%-]+%.[%w_%-]+$") ~= nil
end

-- The name of a saved contract, which the proxy knows. Names can be guessed: unlike a signature, one is no right to enter.
local function looks_named(text)
  local name = text:match("^@([a-z0-9][a-z0-9%-]*)$")
  return name ~= nil and #name <= PLAIN.label and name:sub(-1) ~= "-" and not name:find(BAGGAGE_TRACE, 1, true)
end

local function is_contract(text)
  return looks_like_object(text) or looks_signed(text) or looks_named(text)
end

-- Whether a claim grants the right: it is true or, if a value is wanted, that text, alone, in a list or among words.
local function grants(claim, wanted)
  if wanted == nil then
    return claim == true
  elseif type(claim) == "string" then
    return (" " .. claim .. " "):find(" " .. wanted .. " ", 1, true) ~= nil
  elseif type(claim) == "table" then
    for _, each in ipairs(claim) do
      if each == wanted then
        return true
      end
    end
  end
  return false
end

local function has_claim(info)
  local claim = info:dynamicMetadata():get(JWT)
  claim = claim and claim[SETTINGS.payload]
  for _, key in ipairs(SETTINGS.claim) do
    claim = type(claim) == "table" and claim[key] or nil
  end
  return grants(claim, SETTINGS.claim_value)
end

-- Whether the caller may send unsigned contracts, and if not, why.
local function caller_may(info)
  if has_claim(info) then
    return true
  end
  local direct = SETTINGS.address == "direct"
  local address = direct and info:downstreamDirectRemoteAddress() or info:downstreamRemoteAddress()
  if in_networks(address, SETTINGS.networks) then
    return true
  end
  local claim = table.concat(SETTINGS.claim, ".")
  return false, ("no contract from outside: no valid token with the claim %s, and %s is in no listed network"):format(claim, address)
end

-- Whether a contract may enter; the first reason why one may not is kept for the response. The caller is judged once
-- at most, and only for an unsigned contract: anyone may send a signed one.
local function admits(gate, contract)
  if SETTINGS.signed and looks_signed(contract) then
    return true
  end
  if gate.may == nil then
    gate.may, gate.why = caller_may(gate.handle:streamInfo())
  end
  gate.reason = gate.reason or gate.why
  return gate.may
end
