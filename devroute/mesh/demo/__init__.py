"""`devroute demo`: a small mesh with real Envoys on this machine, to look at and to try one's own code in.

`app` runs it, `mesh` starts the parts (testbed.py), `scenes` sends its requests, `text` prints. `services`
are its apps. With --keep, `entry` takes the user's own requests, `journal` keeps what became of them, and
`server` shows that on a page.
"""
