"""The team's page: who is on what, over all replicas. `dashboard.py` puts it together; docs/dashboard.md is
for its users, docs/decisions has the design of its sessions."""
