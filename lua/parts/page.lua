-- The page that asks before a browser sends a contract with each request: without scripts, styles, frames, or anything
-- from elsewhere.

local ENTITIES = { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ['"'] = "&quot;", ["'"] = "&#39;" }

local function escape_html(text)
  return (text:gsub("[&<>\"']", ENTITIES))
end

local HEAD = table.concat({
  "<!DOCTYPE html>",
  '<html lang="en">',
  '<meta charset="utf-8">',
  '<meta name="viewport" content="width=device-width">',
  '<meta name="color-scheme" content="light dark">',
  "",
}, "\n")

local PAGE = HEAD .. table.concat({
  "<title>devroute: route the requests of this browser?</title>",
  "<h1>Route the requests of this browser?</h1>",
  "<p>%s asks that for up to %s min, of the requests from this browser to %s:</p>",
  "<ul>%s</ul>",
  "<p>%s</p>",
  '<form method="post" action="%s"><button>Route them</button></form>',
  '<p><a href="%s">Continue without</a></p>',
  "</html>",
  "",
}, "\n")

local PROBLEM_PAGE = HEAD .. table.concat({
  "<title>devroute: the contract is invalid</title>",
  "<h1>The contract is invalid</h1>",
  "<p>%s</p>",
  "<p>%s</p>",
  "%s%s",
  "</html>",
  "",
}, "\n")

local function accepts_page(headers)
  return (headers:get("accept") or ""):find("text/html", 1, true) ~= nil
end

-- Referrer-Policy: a browser that is to send no referrer would send no Origin with the form either.
local function respond_page(handle, status, reason, body)
  handle:respond({
    [":status"] = status,
    ["content-type"] = "text/html; charset=utf-8",
    ["content-security-policy"] = "default-src 'none'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    ["x-frame-options"] = "DENY",
    ["x-content-type-options"] = "nosniff",
    ["referrer-policy"] = "same-origin",
    ["cache-control"] = "no-store",
    [RESULT] = status ~= "200" and "error" or nil,
    [REASON] = reason,
  }, body)
end

-- The corrected contract is text to copy, and no link: a click on a link of this page would count as the user's own wish,
-- while the contract may be that of another site's link.
local function problem_page_of(message, hint, corrected, location)
  local address = corrected and ("<p>In this browser, open</p>\n<pre>?%s=%s</pre>\n"):format(PARAMETER, escape_html(corrected))
  local without = location and ('<p><a href="%s">Continue without</a></p>'):format(escape_html(location))
  return PROBLEM_PAGE:format(escape_html(message), escape_html(hint), address or "", without or "")
end

local function provenance_of(report)
  local signed = report.signer and "Signed by " .. escape_html(report.signer) .. "." or "Not signed."
  local saved = report["saved-by"]
  return saved and "Saved by " .. escape_html(saved) .. ". " .. signed or signed
end

-- `report` is the proxy's; `location` is the address without the contract, `confirmation` the one that sets the cookie.
local function page_of(report, seconds, host, origin, location, confirmation)
  local items = {}
  for _, entry in ipairs(report.entries) do
    items[#items + 1] = "<li>" .. escape_html(entry) .. "</li>"
  end
  if items[1] == nil then
    items[1] = "<li>no service is named: nothing changes</li>"
  end
  return PAGE:format(
    origin and "A page of " .. escape_html(origin) or "The address",
    math.ceil(seconds / 60),
    escape_html(host),
    table.concat(items, "\n"),
    provenance_of(report),
    escape_html(confirmation),
    escape_html(location)
  )
end
