"""Checks a decoded value against a schema: type names, maps of schemas, or arrays of those and of literals."""

import re
from typing import Any

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")

TYPES = {
    "text": lambda value: isinstance(value, str),
    "time": lambda value: isinstance(value, str) and TIME.fullmatch(value) is not None,
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= 0,
    "boolean": lambda value: isinstance(value, bool),
    "array": lambda value: isinstance(value, list),
    "bytes": lambda value: isinstance(value, bytes),
    "bytes16": lambda value: isinstance(value, bytes) and len(value) == 16,
    "bytes32": lambda value: isinstance(value, bytes) and len(value) == 32,
}


def schema_faults(schema: Any, value: Any, where: str) -> list[str]:
    """One line for each difference; a key that the schema does not know is one."""
    if isinstance(schema, dict):
        return map_faults(schema, value, where)
    if isinstance(schema, list):
        allowed = any(
            not schema_faults(choice, value, where) if isinstance(choice, dict) or choice in TYPES
            else choice == value
            for choice in schema
        )
        return [] if allowed else [f"{where} is {value!r}, which is not among what is allowed"]
    return [] if TYPES[schema](value) else [f"{where} is {value!r}, not {schema}"]


def map_faults(schema: dict, value: Any, where: str) -> list[str]:
    if not isinstance(value, dict):
        return [f"{where} is {value!r}, not a map"]
    faults = [f"{where}.{key} is missing" for key in schema.keys() - value.keys()]
    faults += [f"{where}.{key} is not in the schema" for key in value.keys() - schema.keys()]
    for key in sorted(schema.keys() & value.keys()):
        faults += schema_faults(schema[key], value[key], f"{where}.{key}")
    return faults
