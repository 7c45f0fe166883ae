"""What a connection to memory files is told."""

from __future__ import annotations

from deerflow_backends.settings import ConnectionSettings, Folder


class Settings(ConnectionSettings):
    """The folder, and what to begin with; besides what every connection has.

    Attributes:
        path: The folder that holds the namespaces' folders; made, with its parents, for its owner alone. Relative to
            where the process was started; an absolute one is better. Not on a network file system, and not one that
            a DeerFlow store uses.
        import_from: The folder of a DeerFlow store, of either layout. What it holds is read into the store while
            that is empty, once; the folder itself is left as it is.
    """

    path: Folder
    import_from: Folder | None = None
