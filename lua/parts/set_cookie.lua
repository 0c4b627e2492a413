-- Set-Cookie: the cookie with the contract, set, cleared, and protected from apps.

local MAX_SET_COOKIE = 4096 -- bytes of name, value and attributes that a browser keeps (RFC 6265 §6.1)

-- Whether the browser is on https, as far as is known here: also behind a load balancer that ends TLS, since browsers
-- send Fetch Metadata to trustworthy origins only.
local function is_secure(headers)
  return headers:get("x-forwarded-proto") == "https" or headers:get("sec-fetch-site") ~= nil
end

local function cookie_name(secure, domain)
  return not secure and COOKIE or domain and SECURE_COOKIE or HOST_COOKIE
end

-- A Set-Cookie field. SameSite=None needs Secure.
local function set_cookie(name, value, seconds)
  local attributes = "; Path=/; Max-Age=" .. seconds .. "; HttpOnly"
  if name ~= HOST_COOKIE and SETTINGS.domain then
    attributes = attributes .. "; Domain=" .. SETTINGS.domain
  end
  if name == COOKIE then
    return name .. "=" .. value .. attributes .. "; SameSite=Lax"
  end
  return name .. "=" .. value .. attributes .. "; Secure; SameSite=" .. SETTINGS.same_site
end

local function cleared_cookie(secure)
  return set_cookie(cookie_name(secure, SETTINGS.domain), "", 0)
end

-- Removes what an app sets under our names: only the gateway may.
local function remove_set_cookies(headers)
  local kept, removed = {}, false
  for _, value in ipairs(values_of(headers, "set-cookie")) do
    -- One without a name comes back as its value alone (RFC 6265bis §5.7), hence "=devroute=x" as ours.
    local name = cookie_pair((value:match("^[^;]*"):gsub("^[ \t]*=", "")))
    if name ~= nil and COOKIES[name] then
      removed = true
    else
      kept[#kept + 1] = value
    end
  end
  if removed then
    set_values(headers, "set-cookie", kept)
  end
end
