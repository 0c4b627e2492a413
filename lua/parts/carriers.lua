-- The carriers of a contract beside its header: other headers, which apps pass on that know nothing of devroute. Any is
-- read, in a fixed order, and those of the settings are written. devroute/http/carriers.py reads the same.
--
-- A carrier has two slots, `contract` and `via` (loop.lua): members of one header that holds a list, or headers of their
-- own, which hold the value alone.
--
-- Each call of Envoy's costs more than all that is done with its result here, so a request's `held` has what its carriers
-- hold: each header is read once, and those that have changed are written once, at the end (`flush`).

local MAX_KEPT = 1024 -- bytes of a header whose last result is kept

local carriers = { read = {}, written = {}, headers = {} } -- `headers`: the names of those that are written
do
  local KINDS = {
    baggage = { read = member_of, set = with_member, encode = percent_encode, most = MAX_BAGGAGE - #BAGGAGE_CONTRACT - 1 },
    state = { read = trace_state.value, set = trace_state.with, encode = trace_state.encode, most = TRACE_STATE.bytes },
    header = {
      read = trimmed,
      set = function(_, _, value)
        return value or nil
      end,
      encode = percent_encode,
      most = MAX_BAGGAGE,
    },
  }
  local LISTS = { baggage = KINDS.baggage, ["correlation-context"] = KINDS.baggage, tracestate = KINDS.state }

  local function carrier_of(name)
    local kind = LISTS[name]
    if kind == nil then
      local via = name .. BAGGAGE_VIA:sub(#BAGGAGE_CONTRACT + 1)
      return {
        contract = { header = name, kind = KINDS.header },
        via = { header = via, kind = KINDS.header },
      }
    end
    return {
      contract = { header = name, key = BAGGAGE_CONTRACT, kind = kind },
      via = { header = name, key = BAGGAGE_VIA, kind = kind },
    }
  end

  local known = {}
  for index, name in ipairs(CARRIERS) do
    known[name] = carrier_of(name)
    carriers.read[index] = known[name]
  end
  for _, name in ipairs(settings.carriers) do
    if known[name] == nil then
      known[name] = carrier_of(name)
      table.insert(carriers.read, known[name])
    end
    table.insert(carriers.written, known[name])
    table.insert(carriers.headers, name)
    if known[name].via.header ~= name then
      table.insert(carriers.headers, known[name].via.header)
    end
  end
end

-- What the carriers of a request hold. Holds over a yield too, as nothing else changes them until `flush`.
function carriers.of(headers)
  return { headers = headers, texts = {}, changed = {} }
end

-- A header as it will be; nil if there is none.
function carriers.text(held, name)
  local text = held.texts[name]
  if text == nil then
    text = held.headers:get(name) or false
    held.texts[name] = text
  end
  return text or nil
end

-- Writes what has changed; `headers` are the request's, taken again after a yield.
function carriers.flush(held, headers)
  for _, name in ipairs(carriers.headers) do
    if held.changed[name] then
      set_field(headers, name, held.texts[name] or nil)
    end
  end
end

-- What a slot holds: nil if there is nothing, second whether it is too long to be read.
function carriers.value(held, slot)
  local text = carriers.text(held, slot.header)
  if text == nil then
    return nil, false
  elseif not is_readable(text) then
    return nil, true
  end
  local value = slot.kind.read(text, slot.key)
  return value ~= "" and value or nil, false
end

-- Whether a request has a contract, or a carrier that is too long to be read.
function carriers.any(headers)
  if headers:get(CONTRACT) ~= nil then
    return true
  end
  local held = carriers.of(headers)
  for _, each in ipairs(carriers.read) do
    local value, too_long = carriers.value(held, each.contract)
    if value ~= nil or too_long then
      return true
    end
  end
  return false
end

-- The names of what has a contract, the header first.
function carriers.names(held)
  local names = held.headers:get(CONTRACT) ~= nil and { CONTRACT } or {}
  for _, each in ipairs(carriers.read) do
    if carriers.value(held, each.contract) ~= nil then
      names[#names + 1] = each.contract.header
    end
  end
  return table.concat(names, ",")
end

-- Sets a slot, or empties it where the value is false or does not fit. `kept` has the last result, since consecutive
-- requests resemble each other.
function carriers.set(held, slot, value, kept)
  local before = carriers.text(held, slot.header)
  local last = kept[slot]
  local after
  if last ~= nil and last.before == before and last.value == value then
    after = last.after
  else
    after = before
    if before == nil or not value or slot.kind.read(before, slot.key) ~= value then
      after = slot.kind.set(before, slot.key, value)
    end
    if #(before or "") <= MAX_KEPT then
      kept[slot] = { before = before, value = value, after = after }
    end
  end
  if after ~= before then
    held.texts[slot.header], held.changed[slot.header] = after or false, true
  end
end

-- A contract as each kind of carrier holds it: false where it does not fit.
function carriers.encode(raw)
  local text, values = compact(raw), {}
  for _, each in ipairs(carriers.written) do
    local kind = each.contract.kind
    if values[kind] == nil then
      local value = kind.encode(text)
      values[kind] = #value <= kind.most and value
    end
  end
  return values
end

-- `but`: the carrier that the contract came by, which stays as it is.
function carriers.write(held, values, kept, but)
  for _, each in ipairs(carriers.written) do
    if each ~= but then
      carriers.set(held, each.contract, values[each.contract.kind], kept)
    end
  end
end

-- The services on the way, of the first carrier that has them.
function carriers.via(held)
  for _, each in ipairs(carriers.written) do
    local via = carriers.value(held, each.via)
    if via ~= nil then
      return (via:gsub("~", ", "))
    end
  end
  return nil
end
