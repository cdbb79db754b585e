"""YAML as recipes are written: a key that is there twice is an error, not the last one alone."""

from __future__ import annotations

from typing import Any

import yaml


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: dict[tuple[str, str], yaml.Node] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            if first := seen.get((key.tag, key.value)):
                raise yaml.constructor.ConstructorError(
                    None,
                    None,
                    f"the key `{key.value}` is there twice, first in line {first.start_mark.line + 1}: keep one",
                    key.start_mark,
                )
            seen[key.tag, key.value] = key
        return super().construct_mapping(node, deep)


def load_yaml(text: str) -> Any:
    """The values of a YAML text. Raises yaml.YAMLError, with its place, for what is not valid or is there twice."""
    return yaml.load(text, _Loader)
