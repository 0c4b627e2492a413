-- What a worker remembers of contracts, all of it together within a bound of bytes: callers choose the contracts, the
-- baggage beside them, and by the SNI which of the sidecar's services they dial.

local MOST = {
  contracts = 256, -- per service
  identities = 16, -- services behind one sidecar; usually it has one
  bytes = 4 * 1024 * 1024,
  of_rule = 2048, -- bytes of an entry without its contract
  of_carrier = 4 * MAX_KEPT + 512, -- bytes of what is kept of a carrier's two slots, before and after
}

local identities, identities_size = {}, 0
local decoded, decoded_size = {}, 0
local cached_bytes = 0

-- Forgets everything before `bytes` more would exceed the bound.
local function make_room(bytes)
  if cached_bytes + bytes > MOST.bytes then
    identities, identities_size, decoded, decoded_size, cached_bytes = {}, 0, {}, 0, 0
    return true
  end
  return false
end

-- For the service that the caller dialled, if it is one of the sidecar's own, else for the sidecar by itself.
local function identity_for(info)
  local sni = settings.service and "" or info:requestedServerName()
  local own = sni ~= "" and own_services(info) or nil
  local identity = identities[sni]
  if identity ~= nil and identity.own == own then
    return identity
  end
  local doubts = false
  if sni ~= "" and not is_own(sni, own) then
    doubts = service_of_sni(sni) ~= nil
    sni, own = doubts and "?" or "", nil
    identity = identities[sni]
  end
  if identity == nil or identity.own ~= own then
    if identities_size >= MOST.identities then
      identities, identities_size = {}, 0
    end
    identity = identity_of(settings.service, settings.namespace, sni)
    identity.own, identity.doubts = own, doubts
    identities[sni], identities_size = identity, identities_size + 1
  end
  return identity
end

-- Why a response speaks for this service alone: which others the contract names, in a bounded line.
local function reason_for_others(names)
  local shown, size = {}, 0
  for _, name in ipairs(names or {}) do
    size = size + #name + 2
    if size > MAX_SHOWN_NAMES then
      break
    end
    shown[#shown + 1] = name
  end
  if #shown == 0 then
    return "names other services" .. NAMES_OTHERS
  end
  local more = #names - #shown
  return "names " .. table.concat(shown, ", ") .. (more > 0 and (" and %d more"):format(more) or "") .. NAMES_OTHERS
end

-- Of a contract: whether it `concerns` this service, else the `outcome` of its requests; whether it is `unclear` if it is
-- valid; its `values` for carriers, and the last headers with them, `kept`; and, if it concerns us or is unclear, the last
-- `rule`, which holds from `since` until it `expires`. A signed contract is clear: it concerns every service.
local function remember(identity, raw)
  local entry = { concerns = may_concern(raw, identity.needles), expires = 0, values = carriers.encode(raw), kept = {} }
  local names = plain_services(raw)
  entry.unclear = names == nil and raw:sub(1, 2) ~= "ey"
  if not entry.concerns then
    entry.outcome = { result = "service", reason = reason_for_others(names) }
  end
  local bytes = #raw + MOST.of_rule
  for _, each in ipairs(carriers.written) do
    bytes = bytes + MOST.of_carrier + 2 * #(entry.values[each.contract.kind] or "")
  end
  if make_room(bytes) or identity.size >= MOST.contracts then
    identity.known, identity.size = {}, 0
  end
  identity.known[raw], identity.size, cached_bytes = entry, identity.size + 1, cached_bytes + bytes
  return entry
end

-- The value of a carrier, decoded.
local function remember_decoded(value, raw)
  make_room(#value + #raw)
  if decoded_size >= MOST.contracts then
    decoded, decoded_size = {}, 0
  end
  decoded[value], decoded_size, cached_bytes = raw, decoded_size + 1, cached_bytes + #value + #raw
end

-- The clock may be set back: what was remembered later is not fresh.
local function is_fresh(entry, now)
  return now < entry.expires and entry.since <= now
end
