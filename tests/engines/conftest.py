"""Fixtures of other groups that are used here too."""

from tests.cli.conftest import qwenserve as qwenserve
