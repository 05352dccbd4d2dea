"""The one package that an installation brings; its parts are links to the folders beside it.

The folders keep their places at the top of the repository, and `qwenserve.router`, `qwenserve.chat.v1` and the others
are found through the links by installers, type checkers and Python alike. A wheel holds plain folders.
"""
