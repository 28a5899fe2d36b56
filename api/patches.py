"""Describe a change between two values of JSON, as a value of JSON: the rest is not sent again.

A patch is one of

    null, true, 5, "text", [...]        the new value, which is no object
    {"=": {...}}                        the new value, which is one
    {"~": {key: patch}, "-": [key]}     an object: what changed of it, and which keys are gone
    {"#": length, ">": shift, "@": {index: patch}}
                                        a list: element i is what was element i + shift before,
                                        unless a patch says otherwise
"""

from __future__ import annotations

from typing import Any, Final

SHIFT_MAX = 12
"""The largest shift that is looked for: lists grow at an end between two snapshots."""
SAME: Final[dict[str, Any]] = {"~": {}, "-": []}
"""The patch of a value that did not change."""


def patch_of(old: Any, new: Any) -> Any:
    """Return the patch that makes the new value of the old one; SAME where they are equal."""
    if isinstance(old, dict) and isinstance(new, dict):
        return _of_objects(old, new)
    if isinstance(old, list) and isinstance(new, list) and old and new:
        return _of_lists(old, new)
    # In Python 1 == True == 1.0, and in JSON they differ.
    if type(old) is type(new) and old == new:
        return SAME
    return _whole(new)


def patched(old: Any, patch: Any) -> Any:
    """Return the value that the patch makes of the old one, as the page does."""
    if not isinstance(patch, dict):
        return patch
    if "=" in patch:
        return patch["="]
    if "#" in patch:
        changed, shift = patch["@"], patch[">"]
        return [
            patched(_at(old, place + shift), changed[str(place)])
            if str(place) in changed
            else old[place + shift]
            for place in range(patch["#"])
        ]
    if patch == SAME:
        return old
    kept = {key: value for key, value in old.items() if key not in patch["-"]}
    return kept | {key: patched(old.get(key), one) for key, one in patch["~"].items()}


def _whole(value: Any) -> Any:
    return {"=": value} if isinstance(value, dict) else value


def _of_objects(old: dict[str, Any], new: dict[str, Any]) -> Any:
    changed = {}
    for key, value in new.items():
        one = patch_of(old[key], value) if key in old else _whole(value)
        if one is not SAME:
            changed[key] = one
    gone = [key for key in old if key not in new]
    return {"~": changed, "-": gone} if changed or gone else SAME


def _of_lists(old: list[Any], new: list[Any]) -> Any:
    shift = max(
        range(-SHIFT_MAX, SHIFT_MAX + 1), key=lambda shift: (_equals(old, new, shift), -abs(shift))
    )
    changed = {}
    for place, value in enumerate(new):
        before = place + shift
        one = patch_of(old[before], value) if 0 <= before < len(old) else _whole(value)
        if one is not SAME:
            changed[str(place)] = one
    if not changed and not shift and len(old) == len(new):
        return SAME
    if 2 * len(changed) > len(new) and not isinstance(new[0], dict):
        return new
    return {"#": len(new), ">": shift, "@": changed}


def _equals(old: list[Any], new: list[Any], shift: int) -> int:
    befores = old[shift:] if shift > 0 else old
    afters = new[-shift:] if shift < 0 else new
    return sum(one == other for one, other in zip(befores, afters, strict=False))


def _at(values: list[Any], place: int) -> Any:
    return values[place] if 0 <= place < len(values) else None
