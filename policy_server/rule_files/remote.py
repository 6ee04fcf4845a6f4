"""
Fetches rule files from http and https addresses, with every cost bounded.

Redirects are followed by hand: each must lead to http or https, and never from https back to
http, where anybody on the way could write the rules.
"""

import asyncio
from datetime import timedelta
from pathlib import PurePosixPath
from urllib.parse import unquote, urljoin, urlsplit

import aiohttp

from policy_server.rule_files.reader import MAX_FILE_SIZE, FileFormat, find_format, read_content
from policy_server.rules.layers import Issue, LayerDraft

TIME_LIMIT = timedelta(seconds=30)
_MAX_REDIRECTS = 5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_SCHEMES = frozenset({"http", "https"})
_OK = 200


class _FetchError(Exception):
    """The file can't be had from there."""


def is_remote(name: str) -> bool:
    """Whether a file is named by an http or https address."""
    return name.lower().startswith(("http://", "https://"))


async def fetch_rule_file(
    address: str, *, time_limit: timedelta = TIME_LIMIT, max_size: int = MAX_FILE_SIZE
) -> tuple[LayerDraft, tuple[Issue, ...]]:
    """
    Fetch and read the rule file at *address*, as the layer of its stem's name.

    What goes wrong on the way is an issue, as with a file that can't be read.
    """
    shown = _hide_password(address)
    name = PurePosixPath(unquote(address.partition("?")[0])).stem or "rules"
    try:
        async with asyncio.timeout(time_limit.total_seconds()):
            content, format = await _fetch(address, max_size)
    except TimeoutError:
        reason = f"not fetched within {time_limit.total_seconds():g} s"
    except (_FetchError, ValueError) as error:
        reason = f"cannot be fetched: {error}"
    except (aiohttp.ClientError, OSError) as error:
        reason = f"cannot be fetched: {error or type(error).__name__}"
    else:
        return await asyncio.to_thread(read_content, content, name=name, file=shown, format=format)
    return LayerDraft(name=name, file=shown), (
        Issue(code="unreadable_file", message=reason, file=shown),
    )


async def _fetch(url: str, max_size: int) -> tuple[bytes, FileFormat]:
    # Not compressed, so that the size on the wire is the size in memory.
    async with aiohttp.ClientSession(headers={"Accept-Encoding": "identity"}) as session:
        for _ in range(_MAX_REDIRECTS + 1):
            _check_address(url)
            async with session.get(url, allow_redirects=False) as response:
                if response.status in _REDIRECTS:
                    url = _follow(url, response.headers.get("Location", ""))
                    continue
                if response.status != _OK:
                    raise _FetchError(f"the server says {response.status} {response.reason}")
                is_json = response.content_type == "application/json"
                format = FileFormat.JSON if is_json else find_format(urlsplit(url).path)
                return await _read(response, max_size), format
    raise _FetchError(f"more than {_MAX_REDIRECTS} redirects")


def _check_address(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in _SCHEMES or not parts.hostname:
        raise _FetchError(f'"{_hide_password(url)}" is no http or https address')


def _follow(url: str, location: str) -> str:
    if not location:
        raise _FetchError("a redirect without a location")
    target = urljoin(url, location)
    if url.lower().startswith("https:") and target.lower().startswith("http:"):
        raise _FetchError("a redirect from https to http, which could be tampered with")
    return target


def _hide_password(url: str) -> str:
    """Leave out what is nobody's business but the other server's: passwords and tokens."""
    url = url.partition("?")[0]
    scheme, slashes, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{slashes}{host.rpartition('@')[2]}{slash}{path}"


async def _read(response: aiohttp.ClientResponse, max_size: int) -> bytes:
    content = bytearray()
    async for chunk in response.content.iter_chunked(64 * 1024):
        content += chunk
        if len(content) > max_size:
            raise _FetchError(f"larger than {max_size // (1024 * 1024)} MiB: split the file")
    return bytes(content)
