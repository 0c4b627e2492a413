-- Questions to the proxy's control port change nothing, so where a replica has just gone, and its address is still an
-- endpoint, Envoy asks the next one within the same timeout.

local RETRY_ON, RETRIES = "connect-failure,refused-stream,reset", "4"
