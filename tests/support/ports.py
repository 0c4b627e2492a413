"""Ports of loopback."""

from devroute.mesh.testbed import free_port as free_port
