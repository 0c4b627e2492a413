"""The process on a laptop (`devroute up`): keeps a link to a proxy, and passes the requests on it to the app.

Start at app.py, which joins the parts. link_keeper: the link, and the next one when it ends; services: the
apps; mesh_links, reach/: what programs on the laptop call in the mesh; ui/: what the terminal shows;
control/: what other processes of the user may see and change. Imports nothing of proxy/.
"""
