"""The chain over audit records: a check finds every change of a file, and reports nothing else."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from kes_core.audit.chain import GENESIS, ChainLink, Problem, Verification, make_line, parse_link

RECORDS = st.lists(
    st.fixed_dictionaries({"path": st.text(max_size=40), "code": st.integers(100, 599)}).map(
        lambda record: json.dumps(record, separators=(",", ":"))
    ),
    min_size=1,
    max_size=12,
)
KEYS = st.sampled_from([b"", b"a key"])


def chain(records: Sequence[str], key: bytes = b"", last: ChainLink | None = None) -> tuple[list[str], ChainLink]:
    lines = []
    end = last or ChainLink()
    for number, record in enumerate(records):
        line, end = make_line(record, end, key, first=number == 0)
        lines.append(line)
    return lines, end


def problems(lines: Sequence[str], key: bytes = b"") -> list[Problem]:
    return list(Verification(key).check("f", lines))


def test_format_as_it_is_documented() -> None:
    """The test computes the hashes itself, without the module under test."""
    (one, two), _end = chain(['{"a":1}', '{"b":2}'])
    first = hashlib.sha256(bytes(32) + b'1 first {"a":1}')
    assert one == f'{{"a":1,"chain":{{"n":1,"prev":"{"00" * 32}","hash":"{first.hexdigest()}"}}}}'
    second = hashlib.sha256(first.digest() + b'2 {"b":2}').hexdigest()
    assert two == f'{{"b":2,"chain":{{"n":2,"hash":"{second}"}}}}'
    keyed, _end = make_line('{"a":1}', ChainLink(), b"key")  # not the first of its file
    assert hmac.new(b"key", bytes(32) + b'1 {"a":1}', "sha256").hexdigest() in keyed


@given(RECORDS, KEYS)
def test_sound_chain_has_no_problem(records: list[str], key: bytes) -> None:
    lines, end = chain(records, key)
    assert problems(lines, key) == []
    assert [json.loads(line)["path"] for line in lines] == [json.loads(record)["path"] for record in records]
    assert parse_link(lines[-1]) == end


@given(RECORDS, KEYS, st.data())
def test_any_changed_byte_is_found(records: list[str], key: bytes, data: st.DataObject) -> None:
    lines, _end = chain(records, key)
    index = data.draw(st.integers(0, len(lines) - 1))
    place = data.draw(st.integers(0, len(lines[index]) - 1))
    other = data.draw(st.characters(codec="ascii", exclude_characters=lines[index][place]))
    lines[index] = lines[index][:place] + other + lines[index][place + 1 :]
    assert problems(lines, key)


@given(RECORDS, KEYS, st.data())
def test_removed_line_is_found(records: list[str], key: bytes, data: st.DataObject) -> None:
    """A line missing at the end does not count: only the note beside the file can show it."""
    lines, _end = chain([*records, *records], key)
    index = data.draw(st.integers(0, len(lines) - 2))
    del lines[index]
    (found,) = problems(lines, key)
    assert "missing" in found.message


@given(RECORDS, KEYS, st.data())
def test_reordered_lines_are_found(records: list[str], key: bytes, data: st.DataObject) -> None:
    lines, _end = chain([*records, *records], key)
    one = data.draw(st.integers(0, len(lines) - 1))
    other = data.draw(st.integers(0, len(lines) - 1).filter(lambda index: index != one))
    lines[one], lines[other] = lines[other], lines[one]
    assert problems(lines, key)


def test_one_change_is_one_problem() -> None:
    lines, _end = chain([f'{{"n":{number}}}' for number in range(10)])
    lines[4] = lines[4].replace('"n":4', '"n":5')
    assert [str(problem) for problem in problems(lines)] == [
        "f:5: record 5 was changed, or does not follow from the record before it"
    ]


def test_record_put_in_and_one_put_in_twice_are_found() -> None:
    lines, _end = chain([f'{{"n":{number}}}' for number in range(4)])
    assert [p.message for p in problems([*lines[:2], lines[1], *lines[2:]])] == [
        "record 2 is out of order: 3 was expected"
    ]
    assert [p.message for p in problems([lines[0], '{"n":9}', *lines[1:]])] == [
        "is not a record of a chain: it was changed, cut off or inserted"
    ]


def test_changed_line_with_a_hash_of_its_own_is_found_by_the_next() -> None:
    lines, _end = chain([f'{{"n":{number}}}' for number in range(4)])
    before = parse_link(lines[0])
    assert before is not None
    lines[1], _forged = make_line('{"n":8}', before)
    assert [problem.line for problem in problems(lines)] == [3]


def test_without_the_key_no_chain_can_be_made() -> None:
    forged, _end = chain(['{"n":1}'], b"")
    assert problems(forged, b"the key")
    sound, _end = chain(['{"n":1}'], b"the key")
    assert problems(sound)
    assert not problems(sound, b"the key")


def test_files_that_follow_one_another() -> None:
    first, end = chain(['{"n":1}', '{"n":2}'])
    second, _end = chain(['{"n":3}'], last=end)
    together = Verification()
    assert not [*together.check("1", first), *together.check("2", second)]
    assert (together.first, together.end is not None and together.end.number) == (1, 3)
    alone = Verification()
    assert not list(alone.check("2", second))
    assert alone.first == 3
    gap = Verification()
    found = [*gap.check("1", first[:1]), *gap.check("2", second)]
    assert [str(problem) for problem in found] == ["2:1: record 2 is missing"]
    assert problems(second) == []
    assert [p.message for p in problems(first[1:])] == ["the records before 2 are missing"]


def test_beginning_of_a_file_cannot_be_taken_away_unnoticed() -> None:
    """Removing the first line is found even if the new first line gets the fields of a first line."""
    (one, two, three), _end = chain([f'{{"r":{number}}}' for number in range(3)], b"the key")
    before = parse_link(one)
    assert before is not None
    forged = two.replace('"n":2,', f'"n":2,"prev":"{before.hash.hex()}",')
    assert forged != two
    assert [p.line for p in problems([forged, three], b"the key")] == [1]


def test_genesis_is_what_is_documented() -> None:
    assert bytes(32) == GENESIS
