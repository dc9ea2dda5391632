"""JSON and YAML that others wrote. Python's readers of both keep the last of two equal keys, silently, and that of YAML
reads 010 as 8: here such text is an error, as nobody knows what was meant."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

_UNKNOWN = "which value counts is unknown"


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text. ValueError for what is none, and for a key that is there twice; RecursionError for
    brackets in brackets without end.

    >>> parse_json('{"a": 1, "a": 2}')
    Traceback (most recent call last):
    ValueError: the key 'a' is there twice: which value counts is unknown
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
            raise ValueError(f"the key {twice!r} is there twice: {_UNKNOWN}")
        return found

    return json.loads(text, object_pairs_hook=unique)


def parse_yaml(text: str, name: Callable[[str], str] = str) -> Any:
    """The value of a YAML text. ValueError, in one line, for what is none, for a key that is there twice, and for a
    number that YAML 1.1 reads in base 8 or 60, as 010 and 1:30; brackets in brackets without end are a RecursionError.

    name: what a key stands for; two keys of one name are the same key.
    """
    import yaml  # only where a file is read

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            lines: dict[str, int] = {}
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                    if (known := name(key.value)) in lines:
                        at = f"in line {lines[known]} and in line {key.start_mark.line + 1}"
                        raise ValueError(f"the key {known!r} is there twice, {at}: {_UNKNOWN}")
                    lines[known] = key.start_mark.line + 1
            return super().construct_mapping(node, deep)

        def construct_number(self, node: yaml.ScalarNode) -> Any:
            float_ = node.tag.endswith(":float")
            value = super().construct_yaml_float(node) if float_ else super().construct_yaml_int(node)
            if ":" in node.value or (not float_ and re.fullmatch(r"[-+]?0[0-7_]+", node.value)):
                where = f"{node.value} in line {node.start_mark.line + 1}"
                raise ValueError(f"{where} is {value:g} in YAML: write that, or quotes around a text")
            return value

    for kind in ("int", "float"):
        Loader.add_constructor(f"tag:yaml.org,2002:{kind}", Loader.construct_number)
    try:
        return yaml.load(text, Loader)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
