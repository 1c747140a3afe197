"""Messages of the policy engine: a part of the reference of messages."""

from __future__ import annotations

from typing import Final

from kes_core.messages import Message, MessageSection

__all__ = ["SECTION"]

SECTION: Final = MessageSection(
    "Cedar",
    "Of `kes-cedar`. About files: met at start, reload and with `kes doctor`. About requests: in the error log, in the "
    "reason of a refusal.",
    (
        Message(
            ("is empty; expected the path of a file", "names no file; expected files or directories with policies"),
            "A field of `policy_engines.cedar` has no value.",
            "`policies: /etc/kes/policies`.",
        ),
        Message(
            "policy engine cedar: …: can't be read: …",
            "A file is not there, or the user of the server may not read it.",
            "Check `policies`, `schema` and `entities` of `policy_engines.cedar`, and the modes.",
        ),
        Message(
            ("policy engine cedar: …: is not a file", "policy engine cedar: …: is not UTF-8"),
            "A pipe or device, or a file in another encoding.",
            "Name plain files in UTF-8.",
        ),
        Message(
            (
                "policy engine cedar: …: the directory has no file whose name ends in .cedar",
                "policy engine cedar: …: has no policy",
            ),
            "There is nothing to decide by: most often a file that is not written yet.",
            "Put policies there, or take the path out of `policies`.",
        ),
        Message(
            "policy engine cedar: …: is a template, which nothing links; write a policy without ?principal",
            "Templates are for applications that fill them in.",
            "Write a policy for each case.",
        ),
        Message(
            (
                "policy engine cedar: …: is nested more than … levels deep",
                "policy engine cedar: …: is nested more than … levels deep; split it into policies",
                "policy engine cedar: …: is nested too deep",
            ),
            "Brackets in brackets in brackets: Cedar's parser could fail on them.",
            "Split it up.",
        ),
        Message(
            "policy engine cedar: …: is not JSON: …",
            "The file of entities can't be understood. The line stands behind its name.",
            "Mend it: `python3 -m json.tool FILE`.",
        ),
        Message(
            "policy engine cedar: …: the schema does not fit requests for …: …",
            "A schema of your own lacks an action, or says otherwise what it is about.",
            "Begin with the schema of the package, and add to it.",
        ),
        Message(
            ("policy engine cedar: …: …", "policy engine cedar: …: … (and … more)"),
            "Cedar refuses a policy, the schema or the entities. File and line come first, then Cedar's own reason.",
            "Mend it. Names of actions and attributes are those of the schema: see the README of the package.",
        ),
        Message(
            "forbidden by …",
            "A `forbid` matches. What follows is its `@id` and where it stands.",
            "Narrow it, if the request should be allowed.",
        ),
        Message(
            ("no policy matches", "no policy matches, and the default is deny"),
            "No `permit` is for this request.",
            "Add one, if it should be allowed. With `default: abstain` the other engines decide.",
        ),
        Message(
            ("Cedar failed: …", "Cedar can't be asked: …"),
            "A policy could not be evaluated for this request; it is refused then.",
            "Mostly an attribute that is not always there: write `principal has team && principal.team == …`.",
        ),
        Message(
            "this version of kes-cedar has no action for …",
            "The server has an API that the plugin does not know.",
            "`pip install --upgrade kes-cedar`.",
        ),
    ),
)
