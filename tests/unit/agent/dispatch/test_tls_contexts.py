import ssl

import pytest

from agent.dispatch.options import options_of
from agent.dispatch.tls_contexts import TlsContexts, TlsUnusable, without_effect
from agent.policy.answer import PathPolicy
from penstock.v1.egress_path_pb2 import EgressPathConfig


def _options(config: EgressPathConfig):
    policy = PathPolicy(
        routing_domain="foo.example",
        egress_source="ip-1",
        site_name="site",
        path_name="ip-1->site",
        provider_name="",
        config=config,
        etag="e",
        revision=1,
    )
    return options_of(policy)


# The module says "deprecated" of options by which protocol versions are chosen.
@pytest.mark.filterwarnings("ignore:.*OP_NO_TLS:DeprecationWarning")
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("NO_TICKET", ssl.OP_NO_TICKET),
        ("OP_NO_TICKET", ssl.OP_NO_TICKET),
        ("SSL_OP_NO_TICKET | no_tlsv1_3", ssl.OP_NO_TICKET | ssl.OP_NO_TLSv1_3),
        ("NO_SUCH_THING|NO_TICKET", ssl.OP_NO_TICKET),
    ],
)
async def test_openssl_options_are_put_into_effect(text, expected):
    contexts = TlsContexts(clock=lambda: 0.0, trusted=ssl.create_default_context)

    plain = await contexts.context(_options(EgressPathConfig()))
    context = await contexts.context(_options(EgressPathConfig(openssl_options=text)))

    assert not plain.options & expected
    assert context.options & expected == expected
    assert context.options & plain.options == plain.options


class _Newer(ssl.SSLContext):
    """A context as of Python 3.15, which can set the suites of TLS 1.3."""

    suites = ""

    def set_ciphersuites(self, suites: str) -> None:
        if not suites.startswith("TLS_"):
            raise ssl.SSLError("no cipher can be selected")
        self.suites = suites


def _newer() -> ssl.SSLContext:
    return _Newer(ssl.PROTOCOL_TLS_CLIENT)


async def test_cipher_suites_are_set_where_python_can():
    contexts = TlsContexts(clock=lambda: 0.0, trusted=_newer)
    config = EgressPathConfig(openssl_cipher_suites="TLS_AES_128_GCM_SHA256")

    context = await contexts.context(_options(config))

    assert isinstance(context, _Newer)
    assert context.suites == "TLS_AES_128_GCM_SHA256"
    with pytest.raises(TlsUnusable):
        await contexts.context(_options(EgressPathConfig(openssl_cipher_suites="NONSENSE")))


@pytest.mark.skipif(
    not hasattr(ssl.SSLContext, "set_ciphersuites"), reason="Python 3.15 is the first to know"
)
async def test_cipher_suites_are_those_of_the_path():
    contexts = TlsContexts(clock=lambda: 0.0, trusted=ssl.create_default_context)
    config = EgressPathConfig(openssl_cipher_suites="TLS_AES_128_GCM_SHA256")

    context = await contexts.context(_options(config))

    newest = [one["name"] for one in context.get_ciphers() if one["protocol"] == "TLSv1.3"]
    assert newest == ["TLS_AES_128_GCM_SHA256"]
    assert without_effect(config) == []


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (EgressPathConfig(), []),
        (EgressPathConfig(openssl_options="NO_TICKET", openssl_cipher_list="HIGH"), []),
        (EgressPathConfig(openssl_options="NO_TICKET | X"), ["openssl_options"]),
        (EgressPathConfig(openssl_cipher_suites="TLS_AES_128_GCM_SHA256"),
         [] if hasattr(ssl.SSLContext, "set_ciphersuites") else ["openssl_cipher_suites"]),
    ],
)  # fmt: skip
def test_what_has_no_effect_is_told(config, expected):
    assert [one.partition(":")[0] for one in without_effect(config)] == expected
