"""The contract of front ends, as a base class for tests."""

from __future__ import annotations

import asyncio
from typing import Final

from kes_core.frontends import FrontendError
from kes_core.testing._clause import clause
from kes_core.testing._frontend import STOP_TIME, FrontendSuite, FrontendTrial, plaintext
from kes_core.testing._running import BrokenError, check, described, heartbeat, refused, same_bytes
from kes_core.testing._secrets import Secrets, marker, texts_of_records

__all__ = ["FrontendContract"]

CLIENTS: Final = 20
"""Clients at once."""
HELD: Final = 0.2
"""Seconds for which a call is held while the front end stops."""
_GARBAGE: Final = (b"", b"\0", b"\n\n", b"GET / HTTP/1.1\r\n\r\n", b"{" * 1000, bytes(range(256)) * 400)


class ServiceClauses(FrontendSuite):
    """What clients get."""

    @clause()
    async def test_encrypted_is_decrypted(self, trial: FrontendTrial) -> None:
        """What a client encrypts is decrypted to the same bytes."""
        for plain in (plaintext(), b"\0", bytes(range(256)), b"\r\n " * 10):
            same_bytes(await trial.decrypt(await trial.encrypt(plain)), plain, "decrypting")

    @clause()
    async def test_configured_identity_asks(self, trial: FrontendTrial) -> None:
        """The front end asks for the configured key, as the configured identity, and for no other."""
        await trial.works("at first")
        asked = {(identity, name) for _operation, identity, name in trial.keys.calls}
        used = {operation for operation, _identity, _name in trial.keys.calls}
        check(asked == {(self.identity, self.key)}, "it asked for another key, or as another identity")
        check("decrypt" in used and used & {"encrypt", "generate"} != set(), "a client got bytes without the keys")

    @clause()
    async def test_refusal_reaches_the_client(self, trial: FrontendTrial) -> None:
        """If the policies do not allow a call, the client gets an error, and the front end goes on."""
        ciphertext = await trial.works("at first")
        await trial.host.set_policy(allow=["/v1/key/*"], deny=["/v1/key/encrypt/*", "/v1/key/generate/*"])
        await trial.fails(trial.encrypt(plaintext()), "with a policy that denies to encrypt")
        await trial.host.set_policy(allow=["/v1/key/*"], deny=["/v1/key/decrypt/*"])
        await trial.fails(trial.decrypt(ciphertext), "with a policy that denies to decrypt")
        await trial.host.set_policy(allow=["/v1/key/*"])
        await trial.works("when it is allowed again")

    @clause()
    async def test_altered_ciphertext_is_refused(self, trial: FrontendTrial) -> None:
        """A client that decrypts an altered ciphertext gets an error, and the front end goes on."""
        ciphertext = bytearray(await trial.works("at first"))
        for position in (0, len(ciphertext) // 2, len(ciphertext) - 1):
            altered = bytearray(ciphertext)
            altered[position] ^= 1
            try:
                found = await trial.decrypt(bytes(altered))
            except Exception:  # the author's own  # noqa: S112
                continue
            # An encoding may ignore a bit, such as the last one of base64.
            check(found == await trial.decrypt(bytes(ciphertext)), "a client got another plaintext and no error")
        await trial.works("afterwards")

    @clause()
    async def test_outage_reaches_the_client(self, trial: FrontendTrial) -> None:
        """While the key store is unreachable, clients get an error; afterwards they are served again."""
        ciphertext = await trial.works("at first")
        with trial.host.outage():
            await trial.fails(trial.encrypt(plaintext()), "during an outage")
            await trial.fails(trial.decrypt(ciphertext), "during an outage")
        await trial.works("after an outage")

    @clause()
    async def test_rotation_is_used(self, trial: FrontendTrial) -> None:
        """After a rotation of the key, its newest version encrypts, and older ciphertexts are decrypted."""
        plain = plaintext()
        before = await trial.encrypt(plain)
        await trial.host.rotate_key(self.key)
        await trial.works("after a rotation")
        check(trial.keys.versions_used[-1:] == [2], "after a rotation, version 2 of the key did not encrypt")
        same_bytes(await trial.decrypt(before), plain, "decrypting a ciphertext of version 1")

    @clause()
    async def test_clients_at_once(self, trial: FrontendTrial) -> None:
        """Many clients at once each get their own answer, and their calls do not wait for one another."""
        texts = [plaintext() for _ in range(CLIENTS)]
        with trial.held(CLIENTS):
            calls = [asyncio.ensure_future(trial.encrypt(plain)) for plain in texts]
            await trial.reached(*calls)
        sealed = await asyncio.gather(*calls)
        opened = await asyncio.gather(*(trial.decrypt(ciphertext) for ciphertext in sealed))
        check(opened == texts, "a client got the plaintext of another one")

    @clause()
    async def test_calls_do_not_block_the_loop(self, trial: FrontendTrial) -> None:
        """No call blocks the event loop, on which the whole server runs."""

        async def work() -> None:
            await trial.works("with a busy loop")

        async with heartbeat() as measure:
            gap = min([await measure(work()) for _ in range(2)])
        check(gap < trial.longest_block, f"a client's calls blocked it for {gap:.2f} s")

    @clause(needs="send_raw")
    async def test_garbage_harms_nobody(self, trial: FrontendTrial) -> None:
        """Bytes that are not of the protocol, and connections that break, do not keep other clients from answers."""
        for data in _GARBAGE:
            await trial.send_raw(data)
            await trial.works(f"after {len(data)} bytes that are not of the protocol")

    @clause(debug_log=True)
    async def test_frontend_shows_no_secret(self, trial: FrontendTrial) -> None:
        """The front end's `repr()` and its log show no plaintext, and no credential."""
        plain = marker()
        secrets = Secrets([plain, *trial.credentials()])
        await trial.decrypt(await trial.encrypt(plain))
        shown = [("repr()", repr(trial.frontend)), ("str()", str(trial.frontend))]
        secrets.look_in("the front end", shown)
        secrets.look_in("the log", texts_of_records(trial.log.records))


class LifeClauses(FrontendSuite):
    """Start, readiness and stop."""

    @clause()
    async def test_ready_while_it_serves(self, trial: FrontendTrial) -> None:
        """`ready` returns while the front end serves."""
        await trial.works("at first")
        await trial.frontend.ready()

    @clause()
    async def test_serves_only_after_start(self, trial: FrontendTrial) -> None:
        """A front end serves nobody before `start`."""
        await trial.stop(trial.frontend)
        later = await trial.make()
        await trial.fails(trial.encrypt(plaintext()), "before start")
        await later.start()
        await trial.works("after start")

    @clause()
    async def test_serves_nobody_after_stop(self, trial: FrontendTrial) -> None:
        """After `stop`, nobody is served, and another front end can start at the same address."""
        await trial.works("at first")
        await trial.stop(trial.frontend)
        await trial.fails(trial.encrypt(plaintext()), "after stop")
        another = await trial.make()
        try:
            await another.start()
        except Exception as error:
            raise BrokenError(f"another one can't start: {described(error)}") from None
        await trial.works("with another one")

    @clause()
    async def test_stop_without_start(self, trial: FrontendTrial) -> None:
        """`stop` returns if the front end has not started, and harms no other one."""
        another = await trial.make()
        try:
            await trial.stop(another)
        except Exception as error:
            raise BrokenError(f"stop raised {described(error)}") from None
        await trial.works("afterwards")

    @clause(excluded_by="takes_over")
    async def test_start_at_a_taken_address(self, trial: FrontendTrial) -> None:
        """Starting where another front end serves raises `FrontendError`, and the other one goes on."""
        another = await trial.make()
        await refused(FrontendError, another.start(), "starting where another one serves")
        await trial.works("after another one could not start")
        await trial.stop(another)
        await trial.works("after another one could not start and was stopped")

    @clause(excluded_by="takes_over = False")
    async def test_new_one_takes_over(self, trial: FrontendTrial) -> None:
        """A new front end can start while an older one serves; once the older one is stopped, the new one serves."""
        another = await trial.make()
        try:
            await another.start()
        except Exception as error:
            raise BrokenError(f"start raised {described(error)}") from None
        await trial.works("with two of them")
        await trial.stop(trial.frontend)
        await trial.works("after the older one was stopped")

    @clause()
    async def test_stop_finishes_calls(self, trial: FrontendTrial) -> None:
        """A call under way when `stop` is called gets its answer."""
        plain = plaintext()
        with trial.held():
            call = asyncio.ensure_future(trial.encrypt(plain))
            await trial.reached(call)
            stopping = asyncio.ensure_future(trial.stop(trial.frontend))
            await asyncio.wait([stopping], timeout=HELD)
        try:
            ciphertext = await call
        except Exception as error:
            raise BrokenError(f"the client got no answer: {described(error)}") from None
        finally:
            await asyncio.wait([stopping], timeout=STOP_TIME)
        another = await trial.make()
        await another.start()
        same_bytes(await trial.decrypt(ciphertext), plain, "decrypting")

    @clause()
    async def test_stop_ends_in_time(self, trial: FrontendTrial) -> None:
        """`stop` returns within 5 seconds, even if a call does not end."""
        with trial.held():
            call = asyncio.ensure_future(trial.encrypt(plaintext()))
            await trial.reached(call)
            try:
                async with asyncio.timeout(STOP_TIME + HELD):
                    await trial.stop(trial.frontend)
            except TimeoutError:
                raise BrokenError("it did not return") from None
            finally:
                call.cancel()
                await asyncio.gather(call, return_exceptions=True)


# pytest runs the tests of the last base class first.
class FrontendContract(LifeClauses, ServiceClauses):
    """Inherit from this class in a class `Test...`; define `make_frontend`, and `encrypt` and `decrypt` of a client.

    Each clause gets its own instance of the class, thread, event loop, keys and front end. To use a fixture of pytest,
    request it in a fixture of the class: `@pytest.fixture(autouse=True)`.
    """
