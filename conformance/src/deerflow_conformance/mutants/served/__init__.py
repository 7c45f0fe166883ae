"""A small backend with a server: the smallest example of one, and what the kit proves its faults between processes on.

`server` is a process that hosts core's SQLite backend in a folder; `client` has the connection to it, and
`capabilities` the four Protocols over that. `conformances` is how the kit runs them.
"""
