"""The contract: every clause with its number and its sentence, in one table. The other modules check them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from kes_core.hookspecs import HOOKSPEC_VERSION

__all__ = ["CONTRACT_VERSION", "ENGINE_CLAUSES", "STORE_CLAUSES", "Clause", "contract", "contract_table"]

CONTRACT_VERSION: Final = HOOKSPEC_VERSION
"""The contract belongs to the hook specifications of the same version. Within a version no clause changes its number or
comes to ask for more; a release may add clauses, which say since when they exist."""


@dataclass(frozen=True, slots=True)
class Clause:
    """One promise of a plugin."""

    id: str
    """`KS-` for key stores, `PE-` for policy engines, its subject, and a number that it keeps for good."""
    sentence: str
    needs: str = ""
    """The optional method of the test class without which the clause is not applicable."""
    since: str = "0.1.0"
    """The release of kes-core that brought it."""
    patience: int = 1
    """How many times `time_limit` it may take: more for a clause that makes many calls."""

    def __str__(self) -> str:
        return f"{self.id}: {self.sentence}"


STORE_CLAUSES: Final = (
    Clause("KS-CREATE-1", "a created key can be read as soon as create returns"),
    Clause("KS-CREATE-2", "creating a key whose name is taken raises KeyExistsError, even with the same value"),
    Clause("KS-CREATE-3", "a refused create leaves what is stored as it was"),
    Clause("KS-GET-1", "get returns an object of type bytes"),
    Clause("KS-GET-2", "getting a key that is not there raises KeyNotFoundError"),
    Clause("KS-GET-3", "reading a key changes nothing: it can be read again and again"),
    Clause("KS-BYTES-1", "a value with every byte from 0 to 255 comes back exactly"),
    Clause("KS-BYTES-2", "an empty value comes back empty"),
    Clause("KS-BYTES-3", "values of up to 64 KiB come back exactly"),
    Clause("KS-BYTES-4", "a value that is not UTF-8 comes back exactly"),
    Clause("KS-BYTES-5", "line ends, spaces and zero bytes at the ends of a value are kept"),
    Clause("KS-BYTES-6", "a value that looks like JSON, base64, a number or an escape is not interpreted"),
    Clause("KS-NAME-1", "every character of a valid name can be used, at every place where it is valid"),
    Clause("KS-NAME-2", "names of 1 and of 80 characters can be used"),
    Clause("KS-NAME-3", "names that differ in case only are different keys"),
    Clause("KS-NAME-4", "a name that is the beginning of another is a different key"),
    Clause("KS-NAME-5", "names that mean something elsewhere (data, nul, 007, __init__) are ordinary names"),
    Clause("KS-LIST-1", "the listing of an empty store is an empty page, with no next name"),
    Clause("KS-LIST-2", "a listing holds the name of every key once, and nothing else"),
    Clause("KS-LIST-3", "names are in ascending order of their bytes"),
    Clause("KS-LIST-4", "with a prefix, a listing holds exactly the names that begin with it"),
    Clause("KS-LIST-5", "a listing begins with the first name that is not less than start"),
    Clause("KS-LIST-6", "a page holds at most limit names, and fewer only if there are no more"),
    Clause("KS-LIST-7", "next is the first name that did not fit on the page, and empty if all did"),
    Clause("KS-LIST-8", "a limit of 0 or less means a page of 1024 names"),
    Clause("KS-LIST-9", "going from page to page by next meets every name once, in order"),
    Clause("KS-LIST-10", "of more than 1024 keys, a page without a limit holds the first 1024", patience=6),
    Clause("KS-DELETE-1", "a deleted key can't be read"),
    Clause("KS-DELETE-2", "a deleted key is not listed"),
    Clause(
        "KS-DELETE-3", "deleting a key that is not there raises KeyNotFoundError, or returns if the store can't tell"
    ),
    Clause("KS-DELETE-4", "a deleted key can be created again, and then has its new value"),
    Clause("KS-DELETE-5", "deleting a key leaves all other keys as they were"),
    Clause("KS-STATUS-1", "status returns while the store works"),
    Clause("KS-RACE-1", "of many concurrent creates of one name exactly one succeeds, and its value is stored"),
    Clause("KS-RACE-2", "a reader during a create sees the whole value or none"),
    Clause("KS-RACE-3", "keys that are created concurrently all have their own value"),
    Clause("KS-RACE-4", "a listing during creates and deletes holds every key that was there all the time, once"),
    Clause("KS-RACE-5", "concurrent deletes of one key remove it and fail with nothing but KeyNotFoundError"),
    Clause("KS-CANCEL-1", "a create that is cancelled leaves the key whole or not there"),
    Clause("KS-CANCEL-2", "the store goes on working after calls that were cancelled"),
    Clause("KS-LOOP-1", "no call holds up the event loop"),
    Clause("KS-ERROR-1", "a value over 64 KiB is stored exactly or refused with a KeyStoreError"),
    Clause("KS-ERROR-2", "the message of an error is one line that says something"),
    Clause("KS-SECRET-1", "repr() and str() of the store show no value"),
    Clause("KS-SECRET-2", "no error, nor what caused it, shows a value"),
    Clause("KS-SECRET-3", "nothing that is logged, at any level, shows a value"),
    Clause("KS-SECRET-4", "neither the store's repr(), nor its errors, nor its log show a credential", needs="secrets"),
    Clause(
        "KS-SECRET-5",
        "while the store is unreachable neither its errors nor its log show a value or a credential",
        needs="make_unreachable",
    ),
    Clause("KS-CLOSE-1", "close can be called twice"),
    Clause("KS-DURABLE-1", "keys are there after the store was closed and opened again", needs="reopen"),
    Clause("KS-DURABLE-2", "a store that was opened again refuses to create a key that is there", needs="reopen"),
    Clause("KS-DURABLE-3", "a deleted key is gone after the store was closed and opened again", needs="reopen"),
    Clause("KS-DURABLE-4", "what one open store does another one on the same data sees at once", needs="reopen"),
    Clause("KS-DURABLE-5", "of concurrent creates of one name by two open stores exactly one succeeds", needs="reopen"),
    Clause(
        "KS-UNREACHABLE-1",
        "every method raises KeyStoreUnreachableError while the store does not answer",
        needs="make_unreachable",
        patience=3,
    ),
    Clause("KS-UNREACHABLE-2", "the store works again once it answers, with the keys it had", needs="make_unreachable"),
)
"""What a key store promises, in the order of the reference."""

ENGINE_CLAUSES: Final = (
    Clause("PE-VERDICT-1", "authorize returns a Verdict with a Decision"),
    Clause("PE-VERDICT-2", "the reason is one line of printable text that says something, whatever the request holds"),
    Clause("PE-ALLOW-1", "the request of allowed() is answered with ALLOW", needs="allowed"),
    Clause("PE-DENY-1", "the request of denied() is answered with DENY", needs="denied"),
    Clause("PE-UNKNOWN-1", "a request of an unknown identity is not allowed"),
    Clause("PE-SAME-1", "asked again, the engine decides the same"),
    Clause("PE-SAME-2", "concurrent requests are decided as they are one at a time"),
    Clause("PE-REQUEST-1", "the request is not changed"),
    Clause("PE-REQUEST-2", "the request is not kept once it is answered"),
    Clause(
        "PE-ODD-1", "odd requests (empty, very long, control characters, no certificate) are answered, not raised at"
    ),
    Clause("PE-ODD-2", "odd requests of an unknown identity are not allowed"),
    Clause("PE-CANCEL-1", "the engine goes on working after questions that were cancelled"),
    Clause("PE-LOOP-1", "no question holds up the event loop"),
    Clause("PE-REPR-1", "repr() and str() of the engine are one line"),
    Clause("PE-SECRET-1", "neither a reason, nor the engine's repr(), nor its log shows a credential", needs="secrets"),
    Clause("PE-CLOSE-1", "close can be called twice"),
)
"""What a policy engine promises, in the order of the reference."""


def contract() -> tuple[Clause, ...]:
    """Return all clauses, those of key stores first."""
    return STORE_CLAUSES + ENGINE_CLAUSES


def contract_table() -> str:
    """Return the contract as a table in Markdown, as it stands in the documentation."""
    rows = ["| clause | promise | needs | since |", "|---|---|---|---|"]
    for clause in contract():
        needs = f"`{clause.needs}()`" if clause.needs else ""
        rows.append(f"| {clause.id} | {clause.sentence} | {needs} | {clause.since} |")
    return "\n".join(rows) + "\n"
