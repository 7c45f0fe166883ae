"""The whole conformance test of a backend: here our own SQLite one stands in for yours."""

from deerflow_conformance import conform_plugin

test_acme = conform_plugin("sqlite", connection={"path": "."})
