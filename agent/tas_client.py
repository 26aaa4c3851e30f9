"""The attestation service's client: new nonce, new key, new evidence for every try, one deadline for all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from agent.core.backoff import Backoff
from agent.core.config import TasConfig
from agent.core.errors import DeadlineExceeded, TransportError
from agent.core.exchange import Attempt, Request, Wrapped, version_answer, version_request
from agent.core.model import Endorsements, Evidence, Nonce, Secret
from agent.core.ports import Deadline, Response, Transport
from agent.deadline import part
from agent.quoter import Quotes
from agent.retry import CHANCE, persist

API_KEY_HEADER = "X-API-KEY"
PAUSES = Backoff(base=0.5, cap=8.0)
ADDED_ROOT = "the service decided under an added root of trust, not under the vendor's"
"""What is said of a secret that was released so."""
T = TypeVar("T")


class Unwrapper(Protocol):
    """What agent.unseal.WrappingKey is: the key of one try."""

    @property
    def public_der(self) -> bytes: ...

    def unseal(self, wrapped: Wrapped) -> Secret: ...


class TasClient:
    """Talks to one service. ``endorsements`` finds vendor certificates that came with a piece of evidence.

    ``new_key`` makes the wrapping key of one try. ``notice`` is told, in words, what a successful answer
    had to say beside the secret. ``chance`` gives random numbers in [0, 1) for the pauses.
    """

    def __init__(
        self,
        config: TasConfig,
        transport: Transport,
        quotes: Quotes,
        endorsements: Callable[[Evidence], Endorsements],
        *,
        api_key: str,
        new_key: Callable[[], Unwrapper],
        notice: Callable[[str], None] = lambda _: None,
        chance: Callable[[], float] = CHANCE,
    ) -> None:
        self._config = config
        self._transport = transport
        self._quotes = quotes
        self._endorsements = endorsements
        self._api_key = api_key
        self._new_key = new_key
        self._notice = notice
        self._chance = chance

    def version(self, deadline: Deadline) -> str:
        """The service's version, asked once. Raises TransportError and its kin, Denied, ProtocolError, ServerError."""
        return version_answer(self.send(version_request(), deadline))

    def nonce(self, deadline: Deadline) -> Nonce:
        """A fresh nonce, asked once: what status uses to see whether key and service are good."""
        attempt = Attempt("")
        return attempt.nonce_answer(self.send(attempt.nonce_request(), deadline))

    def fetch_secret(self, policy_id: str, deadline: Deadline) -> Secret:
        """The secret that ``policy_id`` releases to this machine's evidence.

        Tries again where that may help, each time with a new nonce, key and evidence. Raises Denied, ProtocolError,
        SecretError, PlatformError, FirmwareError, TlsError (final), or the last retryable error when the tries are
        used up, or DeadlineExceeded naming it.
        """
        return self._persist(lambda: self._once(policy_id, deadline), deadline)

    def fetch_wrapped(self, policy_id: str, wrapping_key: bytes, deadline: Deadline) -> Wrapped:
        """The same for another process, which made ``wrapping_key`` (PKCS#1 DER) and alone can open the answer.

        Each try has a new nonce and new evidence; the key is the one given. Raises as fetch_secret, but SecretError.
        """
        return self._persist(lambda: self._wrapped(policy_id, lambda: wrapping_key, deadline), deadline)

    def _persist(self, once: Callable[[], T], deadline: Deadline) -> T:
        return persist(once, deadline, PAUSES, attempts=self._config.attempts, chance=self._chance)

    def _once(self, policy_id: str, deadline: Deadline) -> Secret:
        made: list[Unwrapper] = []

        def new_key() -> bytes:
            made.append(self._new_key())
            return made[0].public_der

        wrapped = self._wrapped(policy_id, new_key, deadline)
        secret = made[0].unseal(wrapped)
        if wrapped.added_root:
            self._notice(ADDED_ROOT)
        return secret

    def _wrapped(self, policy_id: str, wrapping_key: Callable[[], bytes], deadline: Deadline) -> Wrapped:
        """One try. ``wrapping_key`` is asked for after the nonce: a service that is down costs no key."""
        attempt = Attempt(policy_id, self._config.secret_field)
        nonce = attempt.nonce_answer(self.send(attempt.nonce_request(), deadline))
        key = wrapping_key()
        evidence = self._quotes.tas(nonce, key, deadline=deadline)
        request = attempt.secret_request(evidence, key, self._endorsements(evidence))
        return attempt.secret_answer(self.send(request, deadline))

    def send(self, request: Request, deadline: Deadline) -> Response:
        """One request with the client's API key, once. Raises TransportError and its kin, DeadlineExceeded."""
        limit = part(deadline, self._config.request_seconds, f"{request.method} {request.path}")
        try:
            return self._transport.request(
                request.method,
                request.path,
                headers={**request.headers, API_KEY_HEADER: self._api_key},
                body=request.body,
                max_bytes=self._config.answer_bytes,
                deadline=limit,
            )
        except DeadlineExceeded as error:
            # Only this request's time, as far as is known here: if the whole deadline has passed, the loop says so.
            raise TransportError(error.message, code="transport.timeout") from error
