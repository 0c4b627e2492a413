"""`devroute mcp`: tools for a coding agent, over the Model Context Protocol (docs/mcp.md).

Start at server.py, the only module that imports the SDK (the extra `mcp`). laptop_tools: the inspector of the
running `devroute up`; mesh_tools: the server; results: what tools return, where others' text is data only.
"""
