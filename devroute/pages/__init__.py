"""What devroute's pages in browsers share: headers, files, checks of the sender, events, and `shared/`, the
style and the plain modules that each page's server sends beside its own. No build step
(docs/decisions/0030)."""
