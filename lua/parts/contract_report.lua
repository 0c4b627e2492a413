-- GET /contract of the proxy's control port: whether a contract is valid, and what it says (devroute/routing/SIDECAR.md).

local REPORT_TIMEOUT_MS = 500 -- what a proxy that hangs may cost a request
local MAX_REPORTS = 256 -- contracts remembered for each worker

local reports, reports_size = {}, 0

-- nil for what is not understood; `entry` may be repeated.
local function parse_report(body)
  local report, entries = parse_lines(body, "entry")
  if report == nil or report.ttl == nil or not (report.expires or "0"):find("^%d+$") then
    return nil
  elseif not (report.status or "400"):find("^[45]%d%d$") or not (report.code or "a"):find("^[%l%-]+$") then
    return nil
  end
  report.entries = entries
  return report
end

-- What the proxy reports on a contract: its `problem`, with the error's `code` and `status`, a `hint` and the `corrected`
-- contract; or `entries`, each a sentence, and of a signed one its `signer` and the seconds until it `expires`. nil if the
-- proxy cannot be asked. Yields: header objects become invalid.
local function report_on(handle, contract)
  local now = tonumber(handle:timestamp())
  local known = reports[contract]
  if known and now < known.until_ms then
    return known.report
  end
  local question = {
    [":method"] = "GET",
    [":path"] = CONTROL.contract,
    [":authority"] = CONTROL.authority,
    [CONTRACT] = contract,
  }
  question = with_retries(question, REPORT_TIMEOUT_MS)
  local called, headers, body = pcall(handle.httpCall, handle, SETTINGS.control, question, nil, REPORT_TIMEOUT_MS)
  local report = called and headers[":status"] == "200" and parse_report(body) or nil
  if reports_size >= MAX_REPORTS then
    reports, reports_size = {}, 0
  end
  if reports[contract] == nil then
    reports_size = reports_size + 1
  end
  local ttl = report and math.min(tonumber(report.ttl), MAX_TTL_MS) or MAX_TTL_MS
  reports[contract] = { report = report, until_ms = now + ttl }
  return report
end
