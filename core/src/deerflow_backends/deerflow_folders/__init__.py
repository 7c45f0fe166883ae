"""The memory folders of DeerFlow itself, read and written without importing it.

Two layouts exist. ``documents`` (2.0-rc): one ``memory.json`` for the user-wide part and each agent of a user, facts
included. ``markdown`` (later): one ``memory.json`` for a user's summaries, one Markdown file for each fact of an agent.
What is no memory (threads, configuration, skills) is neither read nor touched. All of it blocks; no backend is in it.
"""

from deerflow_backends.deerflow_folders.places import Damaged, Layout
from deerflow_backends.deerflow_folders.reading import find_layout, read_folder
from deerflow_backends.deerflow_folders.writing import write_folder

__all__ = ["Damaged", "Layout", "find_layout", "read_folder", "write_folder"]
