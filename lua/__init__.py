"""The filters that run in the mesh, installed as package data; the files here are the only copies."""
