"""Front ends that are broken on purpose, each in one way, and the clauses that have to find it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import time
from typing import Any, ClassVar

from kes_core import Frontend, FrontendContext, FrontendError, KeyUseError
from kes_core.testing import FrontendContract
from tests.conformance.mutant_stores import PATIENT
from tests.helpers.json_frontend import JSONFrontend, Settings, ask, encode

SOCKET = "front.sock"


class RefusedError(Exception):
    """The front end answered with an error."""


class Mutant(FrontendContract):
    """What is tested: a front end, and the clauses that it breaks."""

    Subject: ClassVar[Any] = JSONFrontend
    breaks: ClassVar[str] = ""
    time_limit = 4.0

    async def make_frontend(self, context: FrontendContext) -> Frontend:
        frontend: Frontend = self.Subject(Settings(socket=SOCKET, identity=self.identity), context)
        return frontend

    async def ask(self, **request: Any) -> bytes:
        answer = await ask(self.tmp_path / SOCKET, name=self.key, **request)
        if "data" not in answer:
            raise RefusedError(answer["error"])
        return base64.b64decode(answer["data"])

    async def encrypt(self, plaintext: bytes) -> bytes:
        return await self.ask(do="encrypt", data=encode(plaintext))

    async def decrypt(self, ciphertext: bytes) -> bytes:
        return await self.ask(do="decrypt", data=encode(ciphertext))

    async def send_raw(self, data: bytes) -> None:
        _reader, writer = await asyncio.open_unix_connection(self.tmp_path / SOCKET)
        writer.write(data)
        await writer.drain()
        writer.close()


class TestSound(Mutant):
    time_limit = PATIENT


class TakesOver(JSONFrontend):
    """Binds beside the socket of the older one, and moves it over that."""

    async def start(self) -> None:
        target = self.path
        self.path = target.with_suffix(f".{id(self)}")
        await super().start()
        self.path.rename(target)

    async def refuse_taken_address(self) -> None:
        return


class TestSoundTakesOver(Mutant):
    time_limit = PATIENT
    takes_over = True
    Subject = TakesOver


class TestStripsPlaintexts(Mutant):
    breaks = "encrypted_is_decrypted"

    class Subject(JSONFrontend):
        async def do(self, asked: Any) -> dict[str, Any]:
            answer = await super().do(asked)
            if asked["do"] == "decrypt":
                answer["data"] = encode(base64.b64decode(answer["data"]).rstrip(b" "))
            return answer


class TestAsksAsTheClientSays(Mutant):
    """Here the client is the admin, if it says so."""

    breaks = "configured_identity_asks refusal_reaches_the_client"

    async def ask(self, **request: Any) -> bytes:
        return await super().ask(identity=self.admin, **request)

    async def make_frontend(self, context: FrontendContext) -> Frontend:
        self.admin = hashlib.sha256(b"the admin").hexdigest()
        return await super().make_frontend(context)


class TestAnswersFromMemory(Mutant):
    """Remembers plaintexts."""

    breaks = "configured_identity_asks refusal_reaches_the_client outage_reaches_the_client"

    class Subject(JSONFrontend):
        known: ClassVar[dict[str, str]] = {}

        async def do(self, asked: Any) -> dict[str, Any]:
            if isinstance(asked, dict) and asked["do"] == "decrypt" and asked["data"] in self.known:
                return {"data": self.known[asked["data"]]}
            answer = await super().do(asked)
            if asked["do"] == "encrypt":
                self.known[answer["data"]] = asked["data"]
            return answer


class TestAnswersErrorsWithNothing(Mutant):
    breaks = "refusal_reaches_the_client altered_ciphertext_is_refused outage_reaches_the_client"

    class Subject(JSONFrontend):
        async def do(self, asked: Any) -> dict[str, Any]:
            try:
                return await super().do(asked)
            except KeyUseError:
                return {"data": ""}


class TestKeepsTheFirstCiphertext(Mutant):
    """Of each plaintext; and after an altered ciphertext it serves nobody."""

    breaks = "altered_ciphertext_is_refused"

    class Subject(JSONFrontend):
        is_broken = False

        async def do(self, asked: Any) -> dict[str, Any]:
            if self.is_broken:
                raise KeyError
            try:
                return await super().do(asked)
            except KeyUseError as error:
                self.is_broken = "not authentic" in str(error)
                raise


class TestGivesUpAtAnOutage(Mutant):
    breaks = "outage_reaches_the_client"

    class Subject(JSONFrontend):
        is_broken = False

        async def do(self, asked: Any) -> dict[str, Any]:
            if self.is_broken:
                raise KeyError
            try:
                return await super().do(asked)
            except KeyUseError as error:
                self.is_broken = error.status == 502
                raise


class TestForgetsOldVersions(Mutant):
    breaks = "rotation_is_used"

    class Subject(JSONFrontend):
        version = 1

        async def do(self, asked: Any) -> dict[str, Any]:
            answer = await super().do(asked)
            if asked["do"] == "encrypt":
                self.version = answer["version"]
                answer["data"] = encode(bytes([self.version]) + base64.b64decode(answer["data"]))
            return answer

        async def answer(self, line: bytes) -> dict[str, Any]:
            with contextlib.suppress(ValueError, TypeError, KeyError):
                asked = json.loads(line)
                if asked["do"] == "decrypt":
                    data = base64.b64decode(asked["data"])
                    if data[:1] != bytes([self.version]):
                        return {"error": "it is too old"}
                    line = json.dumps({**asked, "data": encode(data[1:])}).encode()
            return await super().answer(line)


class TestServesOneAfterAnother(Mutant):
    breaks = "clients_at_once"

    class Subject(JSONFrontend):
        async def do(self, asked: Any) -> dict[str, Any]:
            self.turn = getattr(self, "turn", None) or asyncio.Lock()
            async with self.turn:
                return await super().do(asked)


class TestBlocks(Mutant):
    breaks = "calls_do_not_block_the_loop"
    time_limit = 30.0

    class Subject(JSONFrontend):
        async def do(self, asked: Any) -> dict[str, Any]:
            if isinstance(asked, dict) and asked["do"] == "decrypt":
                time.sleep(0.6)  # noqa: ASYNC251 # the fault
            return await super().do(asked)


class TestDiesOfGarbage(Mutant):
    breaks = "garbage_harms_nobody"

    class Subject(JSONFrontend):
        async def answer(self, line: bytes) -> dict[str, Any]:
            answer = await super().answer(line)
            if answer == {"error": "not a request"}:
                self.context.spawn(self.crash("bad line"))
            return answer


class TestLogsRequests(Mutant):
    breaks = "frontend_shows_no_secret"

    class Subject(JSONFrontend):
        async def do(self, asked: Any) -> dict[str, Any]:
            self.context.logger.debug("asked for %s", asked)
            return await super().do(asked)


class TestIsNeverReady(Mutant):
    breaks = "ready_while_it_serves"

    class Subject(JSONFrontend):
        async def ready(self) -> None:
            raise FrontendError("it has not started")


class TestListensAtOnce(Mutant):
    breaks = "serves_only_after_start"

    class Subject(JSONFrontend):
        async def start(self) -> None:
            if self.server is None:
                await super().start()

    async def make_frontend(self, context: FrontendContext) -> Frontend:
        frontend = await super().make_frontend(context)
        with contextlib.suppress(FrontendError):
            await frontend.start()
        return frontend


class TestGoesOnAfterStop(Mutant):
    breaks = "serves_only_after_start serves_nobody_after_stop stop_finishes_calls"

    class Subject(JSONFrontend):
        async def stop(self) -> None:
            self.context.spawn(self.end())

        async def end(self) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                await super().stop()


class TestStopsWhatItHasNotStarted(Mutant):
    breaks = "stop_without_start start_at_a_taken_address"

    class Subject(JSONFrontend):
        async def stop(self) -> None:
            self.path.unlink(missing_ok=True)
            await super().stop()


class TestTellsOfATakenAddressInItsOwnWay(Mutant):
    breaks = "start_at_a_taken_address"

    class Subject(JSONFrontend):
        async def start(self) -> None:
            try:
                await super().start()
            except FrontendError:
                raise OSError("the address is in use") from None


class TestTakesTheSocketAway(Mutant):
    breaks = "start_at_a_taken_address"

    class Subject(JSONFrontend):
        async def refuse_taken_address(self) -> None:
            self.path.unlink(missing_ok=True)


class TestDoesNotTakeOver(Mutant):
    breaks = "new_one_takes_over"
    takes_over = True


class TestBreaksCallsOff(Mutant):
    breaks = "stop_finishes_calls"

    class Subject(JSONFrontend):
        grace = 0.0


class TestWaitsForEver(Mutant):
    breaks = "stop_ends_in_time"
    time_limit = 8.0

    class Subject(JSONFrontend):
        grace = 60.0
