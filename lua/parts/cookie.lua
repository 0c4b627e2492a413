-- The cookie in which a browser keeps a contract (RFC 6265bis). Its name depends on how the gateway is reached:
-- with a prefix, browsers accept it over https only, and with __Host- from this host only, so that no sibling
-- domain can set it for another.

local HOST_COOKIE, SECURE_COOKIE = "__Host-" .. COOKIE, "__Secure-" .. COOKIE
local COOKIES = { [COOKIE] = true, [HOST_COOKIE] = true, [SECURE_COOKIE] = true }

-- The name and the value of one part of a Cookie field; nil if it is too short to be ours.
local function cookie_pair(part)
  if #part <= #COOKIE then
    return nil
  end
  local name, value = part:match("^([^=]*)=?(.*)$")
  return trimmed(name), trimmed(value)
end
