"""
Pages of lists: how many entries, and where the next page begins.
"""

from policy_server.errors import InvalidRequest

_DEFAULT_SIZE = 100
_LARGEST_SIZE = 1000
_LARGEST_NUMBER = 2**63 - 1


def read_page_size(size: int) -> int:
    """Return how many entries a page has; 0 asks for the default."""
    return min(size or _DEFAULT_SIZE, _LARGEST_SIZE)


def read_page_token(token: str) -> int | None:
    """
    Return the number of the last entry before the page; None for the first page.

    Raises `InvalidRequest` for a token that no list gave.
    """
    if not token:
        return None
    if not (token.isascii() and token.isdecimal()) or len(token) > len(str(_LARGEST_NUMBER)):
        raise InvalidRequest("page_token is none that this call gave", field="page_token")
    return min(int(token), _LARGEST_NUMBER)


def read_name_token(token: str) -> str:
    """
    Return the name of the last entry before the page; empty for the first page.

    Raises `InvalidRequest` for a token that no list gave.
    """
    if "\x00" in token:
        # No name has it, and PostgreSQL does not compare it.
        raise InvalidRequest("page_token is none that this call gave", field="page_token")
    return token
