"""YAML as people mean it: `no` is a name, `12:30` a text, and a key that stands twice a mistake.

PyYAML reads version 1.1, in which `yes` is true, `12:30` is 750, `010` is 8, and the second of two equal keys wins
silently. This reads the words of version 1.2's core schema.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar

import yaml

_INT = "tag:yaml.org,2002:int"
_FLOAT = "tag:yaml.org,2002:float"
_BOOL = "tag:yaml.org,2002:bool"
# With all aliases written out. A configuration has some hundreds.
_MOST_VALUES = 100_000
_REPLACED = frozenset({_INT, _FLOAT, _BOOL, "tag:yaml.org,2002:timestamp"})


class YamlError(ValueError):
    """The text is no YAML that can be used. The text of the error says why, and where."""


class _Loader(yaml.SafeLoader):
    # The base class declares it as an instance's, and reads the class's.
    yaml_implicit_resolvers: ClassVar[dict[str, list[tuple[str, re.Pattern[str]]]]] = {  # type: ignore[misc]
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in _REPLACED]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str | int | float | bool):
                if key in seen:
                    raise YamlError(
                        f"the key {key!r} stands twice, the second time in line {key_node.start_mark.line + 1}"
                    )
                seen.add(key)
        found: dict[Any, Any] = super().construct_mapping(node, deep)
        return found


_Loader.add_implicit_resolver(_BOOL, re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
_Loader.add_implicit_resolver(_INT, re.compile(r"^[-+]?(?:0|[1-9][0-9]*|0x[0-9a-fA-F]+)$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    _FLOAT,
    re.compile(r"^[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?$|^[-+]?[0-9]+[eE][-+]?[0-9]+$"),
    list("-+0123456789."),
)


def read_yaml(text: str) -> Any:
    """Returns what a text holds. Raises YamlError."""
    try:
        value = yaml.load(text, _Loader)  # a safe loader's child
    except yaml.YAMLError as error:
        raise YamlError(str(error)) from None
    except RecursionError:
        raise YamlError("it is nested too deeply") from None
    except YamlError:
        raise
    except ValueError:
        raise YamlError("a number has more digits than can be read") from None
    _check_size(value)
    return value


def _check_size(value: Any) -> None:
    """Raises YamlError for a value that is far larger than its text: aliases of aliases multiply, and whatever shows
    such a value never ends.
    """
    waiting, seen = [value], 0
    while waiting:
        each = waiting.pop()
        inside = each.values() if isinstance(each, dict) else each if isinstance(each, list) else ()
        seen += len(inside)
        if seen > _MOST_VALUES:
            raise YamlError(f"it holds more than {_MOST_VALUES:,} values; use fewer aliases")
        waiting.extend(inside)
