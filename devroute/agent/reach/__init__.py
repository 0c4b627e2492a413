"""What programs on this laptop call in the mesh: local ports, and what each request becomes on its way.

Start at laptop_reach.py, which joins the parts, and reach.py, which owns the ports. Local clients: http_port,
proxy_port, byte_pipe; kept out: browsers. Requests: rewriting, contract_by_trace. They leave by
agent/mesh_links.py.
"""
