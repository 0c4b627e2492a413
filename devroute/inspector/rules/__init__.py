"""Rules of a laptop: what happens to a request that matches one, before or instead of the app.

settings      one rule as devroute.yaml and the page write it: pydantic, strict
pattern       which requests a rule matches                                             pure
rule_list     the rules of one `devroute up`, in order of precedence
upstream      the upstream around an app that applies them
responses     responses that a rule makes
marking       reports what a rule did, on the response and to the recorder
breakpoints   what is held until the page, a timeout or the caller ends the wait
held_streams  the streams that hold requests and responses
masking       what the page shows of a held message                                     pure
edits         what the user's edits make of it                                          pure
"""
