-- IP addresses and networks. An address is a list of 4 or 16 bytes; IPv4 mapped into IPv6 counts as IPv4
-- (RFC 4291 §2.5.5.2). What cannot be parsed is nil, and in no network.

local MAX_NETWORKS = 1024 -- networks remembered; a configuration has a handful

local function bytes_of_ipv4(text)
  local bytes = { text:match("^(%d+)%.(%d+)%.(%d+)%.(%d+)$") }
  for index = 1, #bytes do
    bytes[index] = tonumber(bytes[index])
    if bytes[index] > 255 then
      return nil
    end
  end
  return #bytes == 4 and bytes or nil
end

local function append_groups(bytes, text)
  for group in text:gmatch("[^:]+") do
    local value = #group <= 4 and group:find("^%x+$") and tonumber(group, 16)
    if not value then
      return false
    end
    bytes[#bytes + 1] = math.floor(value / 256)
    bytes[#bytes + 1] = value % 256
  end
  return true
end

local function bytes_of_ipv6(text)
  local front, last = text:match("^(.*:)(%d+%.%d+%.%d+%.%d+)$")
  if front then
    local v4 = bytes_of_ipv4(last)
    if v4 == nil then
      return nil
    end
    text = front .. ("%x:%x"):format(v4[1] * 256 + v4[2], v4[3] * 256 + v4[4])
  end
  local head, tail = text:match("^(.-)::(.*)$")
  local bytes, rest = {}, {}
  if not append_groups(bytes, head or text) or not append_groups(rest, tail or "") then
    return nil
  end
  if head then
    for _ = #bytes + #rest + 1, 16 do
      bytes[#bytes + 1] = 0
    end
  end
  for _, byte in ipairs(rest) do
    bytes[#bytes + 1] = byte
  end
  return #bytes == 16 and bytes or nil
end

local function bytes_of_address(text)
  if not text:find(":", 1, true) then
    return bytes_of_ipv4(text)
  end
  local bytes = bytes_of_ipv6((text:gsub("%%.*$", "")))
  if bytes == nil or bytes[11] ~= 255 or bytes[12] ~= 255 then
    return bytes
  end
  for index = 1, 10 do
    if bytes[index] ~= 0 then
      return bytes
    end
  end
  return { bytes[13], bytes[14], bytes[15], bytes[16] }
end

local networks, networks_size = {}, 0

-- The bytes and the prefix length of "10.0.0.0/8"; false if it is no network.
local function network_of(text)
  local known = networks[text]
  if known == nil then
    local address, bits = text:match("^(.+)/(%d+)$")
    local bytes = address and bytes_of_address(address)
    known = bytes and { bytes = bytes, bits = tonumber(bits) } or false
    if networks_size >= MAX_NETWORKS then
      networks, networks_size = {}, 0
    end
    networks[text], networks_size = known, networks_size + 1
  end
  return known
end

local function within(bytes, network)
  if #bytes ~= #network.bytes or network.bits > 8 * #bytes then
    return false
  end
  local whole = math.floor(network.bits / 8)
  for index = 1, whole do
    if bytes[index] ~= network.bytes[index] then
      return false
    end
  end
  local unit = 2 ^ (8 - network.bits % 8)
  return unit == 256 or math.floor(bytes[whole + 1] / unit) == math.floor(network.bytes[whole + 1] / unit)
end

-- `address` has a port, as Envoy writes it: "192.0.2.1:80" or "[2001:db8::1]:80".
local function in_networks(address, listed)
  local bytes = bytes_of_address(address:match("^%[(.+)%]:%d+$") or address:match("^([^:]+):%d+$") or "")
  for _, text in ipairs(bytes and listed or {}) do
    local network = network_of(text)
    if network and within(bytes, network) then
      return true
    end
  end
  return false
end
