"""Lines and places in, the lines at those places out, whatever is known of where they begin."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streams.lines import WHOLE, Lines, newlines

LINES = st.lists(st.binary(max_size=9).map(lambda line: line.replace(b"\n", b"")), min_size=1)


def ended(lines: list[bytes]) -> bytes:
    return b"".join(line + b"\n" for line in lines)


@given(LINES, st.data())
def test_lines_are_found_by_their_places(lines: list[bytes], data: st.DataObject) -> None:
    wanted = data.draw(st.lists(st.sampled_from(range(len(lines)))))
    known = sorted({0, *data.draw(st.sets(st.sampled_from(range(len(lines)))))})
    starts = [len(ended(lines[:place])) for place in known]
    found = Lines(np.array(known), np.array(starts)).at(ended(lines), np.array(wanted, dtype=int))
    assert found == [lines[place] for place in wanted]
    assert found == WHOLE.at(ended(lines), np.array(wanted, dtype=int))


def test_newlines_are_found_between_two_places() -> None:
    assert newlines(b"a\nb\n\nc\n", 2, 5).tolist() == [3, 4]
