"""What `devroute up` shows of itself and its requests: lines, JSON, or one page that is drawn in place.

Start at reporter.py, which has each event once, as fields and in words. lines and page show them, choice says
which of the two, layout has the page's text, fan_out reports to several. events.schema.json describes the
JSON.
"""
