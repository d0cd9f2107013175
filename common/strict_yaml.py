"""YAML with unambiguous numbers and keys: 010 is not read as 8, and a repeated key is refused."""
import re

import yaml


class StrictLoader(yaml.SafeLoader):
    """Refuses octal numbers and repeated keys, which SafeLoader reads without an error. Errors are yaml.YAMLError."""

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        if re.fullmatch(r"[-+]?0[0-9_]+", node.value):
            plain = node.value.lstrip("+-0_") or "0"
            advice = f"write {plain}, or '{node.value}' in quotes if it is a name"
            problem = f"{node.value} with a leading zero: {advice}"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return super().construct_yaml_int(node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [key for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        mapping, seen = super().construct_mapping(node, deep), set()
        for key in keys:
            name = self.construct_object(key, deep=True)
            if name in seen:
                problem = f"key {name} twice: keep one of them"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(name)
        return mapping


StrictLoader.add_constructor("tag:yaml.org,2002:int", StrictLoader.construct_yaml_int)


def strict_load(text: str):
    """The value of a YAML text. Raises yaml.YAMLError."""
    return yaml.load(text, StrictLoader)
