"""Policies in the Cedar language (https://www.cedarpolicy.com) for kes-core: a policy engine beside the static one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from kes_core import PluginContext, PolicyEngineType, hookimpl
from kes_core.config import Section

if TYPE_CHECKING:
    from kes_cedar.engine import CedarPolicyEngine

__all__ = ["CedarConfig"]

kes_hookspec_version = 1


def _path(value: str) -> str:
    if not value:
        raise ValueError("is empty; expected the path of a file")
    return value


def _one_or_more(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


def _not_empty(value: tuple[str, ...]) -> tuple[str, ...]:
    if not value:
        raise ValueError("names no file; expected files or directories with policies")
    return value


Path = Annotated[str, AfterValidator(_path)]


class CedarConfig(Section):
    """The section `policy_engines.cedar`."""

    policies: Annotated[tuple[Path, ...], BeforeValidator(_one_or_more), AfterValidator(_not_empty)]
    """Files with policies, and directories, of which all files `*.cedar` count. A single path may be a string.
    Relative paths start at the directory of the configuration file."""
    # Not `schema`: pydantic models have a method of that name.
    schema_file: Path | None = Field(default=None, alias="schema")
    """The schema of policies and entities, in Cedar's schema language. The default is the schema in the package."""
    entities: Path | None = None
    """A file with groups and tags of identities and keys, in Cedar's JSON format."""
    default: Literal["abstain", "deny"] = "abstain"
    """The decision on a request that no policy matches: leave it to the other engines, or deny it."""


async def _connect(config: CedarConfig, context: PluginContext) -> CedarPolicyEngine:
    from kes_cedar.engine import CedarPolicyEngine

    return await CedarPolicyEngine.open(config, context.directory)


@hookimpl
def kes_policy_engines() -> Sequence[PolicyEngineType]:
    return [PolicyEngineType(name="cedar", config=CedarConfig, connect=_connect)]
