"""The auth service over HTTP."""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Response
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema

from holdfast import ids
from holdfast.auth import passwords
from holdfast.auth.accounts import Accounts, Session, User
from holdfast.auth.addresses import LETTERS_MAX, Address, parse_address
from holdfast.auth.identity import administrator, signed_in
from holdfast.auth.position import Since
from holdfast.auth.setup import SetupLinks, setup_page
from holdfast.auth.sign_ins import SignIns
from holdfast.auth.tokens import Identity, Role, Tokens
from holdfast.clock import rfc3339
from holdfast.errors import refuse

_JWKS_SECONDS = 300
_NEVER_STORED = {"Cache-Control": "no-store"}


def auth_routes(accounts: Accounts, tokens: Tokens, setup_links: SetupLinks, sign_ins: SignIns) -> APIRouter:
    """The routes of users, sessions, keys and the first administrator."""
    router = APIRouter(tags=["users"])
    limited = [Depends(sign_ins.admit)]
    caller = Depends(signed_in(tokens))
    administrator_alone = Depends(administrator(tokens, accounts.is_administrator))

    @router.post("/users/register", status_code=201, dependencies=limited)
    async def register(body: Registration, response: Response) -> UserShown:
        """Makes a buyer. 409 email_taken."""
        response.headers.update(_NEVER_STORED)
        return UserShown.of(await accounts.register(_address(body.email), body.password, body.name))

    @router.post("/users/login", dependencies=limited)
    async def log_in(body: Credentials, response: Response) -> SessionShown:
        """Begins a session. 401 credentials_invalid, 429 rate_limited after too many failures."""
        response.headers.update(_NEVER_STORED)
        return SessionShown.of(await accounts.log_in(_address(body.email), body.password))

    @router.post("/users/refresh", dependencies=limited)
    async def refresh(body: RefreshToken, response: Response) -> SessionShown:
        """Uses a refresh token up for a new pair. One shown twice ends its session. 401 refresh_token_invalid."""
        response.headers.update(_NEVER_STORED)
        return SessionShown.of(await accounts.refresh(body.refresh_token))

    @router.post("/users/logout", status_code=204)
    async def log_out(body: RefreshToken) -> None:
        """Ends the session of a refresh token."""
        await accounts.log_out(body.refresh_token)

    @router.post("/users/administrator", status_code=201, dependencies=limited)
    async def create_administrator(body: Setup, response: Response) -> UserShown:
        """Makes the first administrator with the token of a set-up link. 410 setup_link_invalid."""
        response.headers.update(_NEVER_STORED)
        return UserShown.of(await setup_links.claim(body.token, body.email, body.password))

    @router.get("/users/me")
    async def me(response: Response, since: Since, identity: Identity = caller) -> UserShown:
        """The user whose token this is."""
        response.headers.update(_NEVER_STORED)
        user = await accounts.user(identity.user_id, since)
        if user is None:
            raise refuse("token_invalid", "This user no longer exists.")
        return UserShown.of(user)

    @router.post("/users/{user_id}/role")
    async def change_role(
        user_id: str, body: RoleGiven, response: Response, identity: Identity = administrator_alone
    ) -> UserShown:
        """Gives a user another role; for administrators. 409 invalid_state for the last administrator."""
        response.headers.update(_NEVER_STORED)
        decoded = ids.decode(ids.USER, user_id)
        if decoded is None:
            raise refuse("not_found")
        return UserShown.of(await accounts.change_role(decoded, body.role))

    _add_keys(router, tokens)
    _add_setup_page(router)
    return router


def _add_keys(router: APIRouter, tokens: Tokens) -> None:
    headers = {"Cache-Control": f"public, max-age={_JWKS_SECONDS}"}

    @router.get("/.well-known/jwks.json", response_model=KeySet)
    async def jwks() -> Response:
        """The public keys of the access tokens (RFC 7517)."""
        return JSONResponse(tokens.jwks(), headers=headers)


def _add_setup_page(router: APIRouter) -> None:
    page = setup_page()
    headers = {
        **_NEVER_STORED,
        "Content-Security-Policy": page.content_security_policy,
        "Referrer-Policy": "no-referrer",
        "X-Frame-Options": "DENY",
    }

    @router.get("/setup", response_class=HTMLResponse)
    async def setup() -> Response:
        """The page of the set-up link; the link's secret stays in the browser until it is posted."""
        return HTMLResponse(page.html, headers=headers)


def _parsable(text: str) -> str:
    if parse_address(text) is None:
        raise ValueError("This is not an e-mail address.")
    return text


def _acceptable(password: str) -> str:
    fault = passwords.password_fault(password)
    if fault is not None:
        raise ValueError(fault)
    return password


def _printable(name: str) -> str:
    if not name.strip() or any(ord(letter) < 32 or ord(letter) == 127 for letter in name):
        raise ValueError("A name is one line of text.")
    return name.strip()


def _address(text: str) -> Address:
    """The address of a text that was validated."""
    parsed = parse_address(text)
    if parsed is None:
        raise ValueError("not validated")
    return parsed


_Email = Annotated[
    str,
    Field(max_length=LETTERS_MAX),
    AfterValidator(_parsable),
    WithJsonSchema({"type": "string", "format": "email", "maxLength": LETTERS_MAX}),
]
_NewPassword = Annotated[
    str,
    AfterValidator(_acceptable),
    WithJsonSchema({"type": "string", "minLength": passwords.LETTERS_MIN, "maxLength": passwords.LETTERS_MAX}),
]
# Looser than a new one: what cannot be anybody's password is simply wrong.
_Password = Annotated[str, Field(min_length=1, max_length=1024)]
_Secret = Annotated[str, Field(min_length=1, max_length=512)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Registration(_Body):
    """Who wants an account."""

    email: _Email
    password: _NewPassword
    name: Annotated[str, Field(max_length=200), AfterValidator(_printable)] | None = None


class Credentials(_Body):
    """Who wants to log in."""

    email: _Email
    password: _Password


class RefreshToken(_Body):
    """A session's present refresh token."""

    refresh_token: _Secret


class Setup(_Body):
    """The first administrator, and the token of the link."""

    token: _Secret
    email: _Email
    password: _NewPassword


class RoleGiven(_Body):
    """The role a user shall have."""

    role: Role


class UserShown(BaseModel):
    """A user on the wire."""

    id: str
    email: str
    name: str | None
    role: Role
    created_at: str

    @classmethod
    def of(cls, user: User) -> "UserShown":
        return cls(
            id=ids.encode(ids.USER, user.id),
            email=user.email,
            name=user.name,
            role=user.role,
            created_at=rfc3339(user.created_at),
        )


class KeySet(BaseModel):
    """A JWK set on the wire."""

    keys: list[dict[str, str | list[str]]]


class SessionShown(BaseModel):
    """A session on the wire."""

    access_token: str
    token_type: Literal["Bearer"] = "Bearer"  # noqa: S105
    expires_in: int
    refresh_token: str

    @classmethod
    def of(cls, session: Session) -> "SessionShown":
        return cls(
            access_token=session.access_token, expires_in=session.expires_in, refresh_token=session.refresh_token
        )
