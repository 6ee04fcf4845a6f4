"""Rule files from http addresses: a real server that behaves well, badly and slowly."""

import asyncio
from datetime import timedelta

import pytest
from aiohttp import web

from policy_server.rule_files.remote import fetch_rule_file, is_remote

_RULES = '["default"]\nconnection_limit = 10\n'


@pytest.fixture
async def site():
    """The address of a server with rule files and traps."""
    stop = asyncio.Event()

    async def rules(_request):
        return web.Response(text=_RULES)

    async def as_json(_request):
        return web.json_response({"default": {"connection_limit": 10}})

    async def drip(request):
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"#")
        await stop.wait()
        return response

    async def endless(request):
        response = web.StreamResponse()
        await response.prepare(request)
        while not stop.is_set():
            await response.write(b"#" * 65536)
        return response

    async def redirect(request):
        raise web.HTTPFound(request.query["to"])

    async def nowhere(_request):
        return web.Response(status=302)

    async def again(request):
        raise web.HTTPFound("/again")

    async def broken(_request):
        return web.Response(body=b'["default"\n\xff')

    app = web.Application()
    for path, handler in (
        ("/custom.toml", rules),
        ("/my rules.toml", rules),
        ("/api", as_json),
        ("/drip.toml", drip),
        ("/endless.toml", endless),
        ("/redirect", redirect),
        ("/nowhere", nowhere),
        ("/again", again),
        ("/broken.toml", broken),
    ):
        app.router.add_get(path, handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    tcp = web.TCPSite(runner, "127.0.0.1", 0)
    await tcp.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    stop.set()
    await runner.cleanup()


async def _fetch(address, **bounds):
    bounds = {"time_limit": timedelta(seconds=5), "max_size": 1024 * 1024} | bounds
    return await fetch_rule_file(address, **bounds)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/custom.toml", "custom"),
        ("/custom.toml?token=hunter2#part", "custom"),
        ("/my%20rules.toml", "my rules"),
        ("/api", "api"),
        ("/redirect?to=/custom.toml", "redirect"),
    ],
)
async def test_a_file_becomes_the_layer_of_its_stem(site, path, name):
    draft, issues = await _fetch(site + path)

    assert issues == ()
    assert (draft.name, draft.blocks[0].options) == (name, {"connection_limit": 10})
    assert "hunter2" not in draft.file


@pytest.mark.parametrize(
    ("path", "bounds", "words"),
    [
        ("/absent.toml", {}, "404 Not Found"),
        ("/drip.toml", {"time_limit": timedelta(seconds=0.2)}, "not fetched within 0.2 s"),
        ("/endless.toml", {}, "larger than 1 MiB"),
        ("/again", {}, "more than 5 redirects"),
        ("/nowhere", {}, "without a location"),
        ("/redirect?to=file:///etc/passwd", {}, "no http or https address"),
        ("/redirect?to=ftp://127.0.0.1/x", {}, "no http or https address"),
    ],
)
async def test_what_goes_wrong_is_an_issue(site, path, bounds, words):
    draft, (issue,) = await _fetch(site + path, **bounds)

    assert (issue.code, issue.file) == ("unreadable_file", (site + path).partition("?")[0])
    assert words in issue.message
    assert draft.blocks == ()


async def test_content_is_read_as_a_local_file_is(site):
    _, (issue,) = await _fetch(f"{site}/broken.toml")

    assert (issue.code, issue.line) == ("not_utf8", 2)


@pytest.mark.parametrize(
    "address",
    [
        "http://user:hunter2@127.0.0.1:1/x.toml",
        "http://127.0.0.1:1/x.toml?key=hunter2",
        "http://",
        "http://[::1/x",
        "http://127.0.0.1:99999/",
        "https://127.0.0.1:1/",
    ],
)
async def test_an_address_that_leads_nowhere_is_an_issue_without_its_secrets(address):
    _, (issue,) = await _fetch(address)

    assert "hunter2" not in issue.file + issue.message


def test_only_http_addresses_are_fetched():
    names = ["HTTP://a/x.toml", "https://a/x", "http.toml", "file:///x", "/http://x"]

    assert [is_remote(name) for name in names] == [True, True, False, False, False]
