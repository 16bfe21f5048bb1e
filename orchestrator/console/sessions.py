"""Who is at the other end: the console's token, signed session cookies, and a token for every form."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import TYPE_CHECKING

import msgspec

from orchestrator.errors import DefiniteError, ErrorCode
from orchestrator.files import REAL_FILES

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SESSION_S = 12 * 3_600
WHO_LENGTH_MAX = 64
WHO_DEFAULT = "console"
_TOKEN_BYTES = 32
_COOKIE_LENGTH_MAX = 1_024


class Session(msgspec.Struct, frozen=True):
    """One browser: an id, whom it acts for ("" = not logged in), and when that ends (Unix s)."""

    id: str
    who: str
    ends_s: float


class Sessions:
    """Issues and checks sessions; the secret lives in this process, so that its end ends them all.

    Args:
        clock: Unix time, s.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._secret = secrets.token_bytes(_TOKEN_BYTES)
        self._revoked: dict[str, float] = {}

    def issue(self, who: str) -> Session:
        """A new session; a login never keeps the id that the browser had before."""
        return Session(secrets.token_urlsafe(16), who, self._clock() + SESSION_S)

    def cookie(self, session: Session) -> str:
        """What the browser keeps of it."""
        body = urlsafe_b64encode(msgspec.json.encode(session)).decode()
        return f"{body}.{self._sign('session', body)}"

    def read(self, cookie: str) -> Session | None:
        """The session of a cookie; None where it is not ours, has ended or was revoked."""
        body, _, signature = cookie[:_COOKIE_LENGTH_MAX].rpartition(".")
        if not _same(signature, self._sign("session", body)):
            return None
        session = msgspec.json.decode(urlsafe_b64decode(body), type=Session)
        return session if session.ends_s > self._clock() and session.id not in self._revoked else None

    def revoke(self, session: Session) -> None:
        """End a session before its time."""
        now_s = self._clock()
        self._revoked = {known: ends_s for known, ends_s in self._revoked.items() if ends_s > now_s}
        self._revoked[session.id] = session.ends_s

    def form_token(self, session: Session) -> str:
        """What every form of this session carries, and another site cannot know."""
        return self._sign("form", session.id)

    def is_form_token(self, session: Session, text: str) -> bool:
        """Whether a form was this session's own."""
        return _same(text, self.form_token(session))

    def _sign(self, purpose: str, text: str) -> str:
        return hmac.new(self._secret, f"{purpose}:{text}".encode(), hashlib.sha256).hexdigest()


class AccessToken:
    """The secret that a person shows once; it lies in a file (0600) and is made where there is none.

    Args:
        path: of the file.
        renew: make another one, whatever was there.

    Attributes:
        text: the token.
        made: whether it is new, and has to be told.

    Raises:
        DefiniteError: E_DATA_DIR: it cannot be written, or others may read it.
    """

    def __init__(self, path: Path, *, renew: bool = False) -> None:
        try:
            self.made = renew or not path.is_file()
            if self.made:
                path.unlink(missing_ok=True)
                file = REAL_FILES.open(path, create=True)  # 0600
                file.write(secrets.token_urlsafe(_TOKEN_BYTES).encode(), 0)
                file.close()
            elif path.stat().st_mode & 0o077:
                raise DefiniteError(
                    ErrorCode.DATA_DIR, f"{path}: others may read it: make a new token (`raytx console --new-token`)")
            self.text = path.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise DefiniteError(ErrorCode.DATA_DIR, f"{path}: the console's token cannot be had: {error}") from None
        if len(self.text) < _TOKEN_BYTES:
            raise DefiniteError(ErrorCode.DATA_DIR, f"{path}: it holds no token: make a new one (`raytx console --new-token`)")

    def matches(self, text: str) -> bool:
        """Whether that is the token; takes as long for a near miss as for any other."""
        return _same(text.strip(), self.text)


def checked_who(text: str) -> str:
    """A person's name as the acts will carry it.

    Raises:
        DefiniteError: E_INVALID_INPUT: empty, too long, or not printable.
    """
    who = text.strip()
    if not who or len(who) > WHO_LENGTH_MAX or not who.isprintable():
        raise DefiniteError(
            ErrorCode.INVALID_INPUT, f"name: write 1 to {WHO_LENGTH_MAX} printable characters; every act is recorded with it")
    return who


def _same(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode(), expected.encode())
