"""The local control API of `devroute up`, for other processes of the same user: docs/control-api.md.

running: who runs, in files of the state folder. port: the socket. server: who may use it. api: the requests.
follower: events for a client. client: what the commands use.
"""
