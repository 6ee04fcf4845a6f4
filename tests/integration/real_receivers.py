"""
Mail servers that are not ours, as receivers: Postfix and its smtp-sink, Exim, OpenSMTPD, Dovecot.

Each runs on loopback with a configuration in a directory of its own and touches nothing else of the
host. Debian's mail servers exclude each other as packages: unpack the others with `dpkg -x` and
name that directory by PENSTOCK_PEERS.
"""

import asyncio
import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from abc import abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

import pytest
import trustme

from tests.acceptance.fleet import free_port

_SBIN = ("/usr/sbin", "/usr/lib/postfix/sbin", "/usr/bin")
#: Whose mail is taken, and the largest message.
DOMAINS = ("big.example", "sender.example")
LARGEST = 6_000_000


def program(name: str, *, user: str = "") -> str:
    """The path of a program, or the test is skipped; so it is where *user* does not exist."""
    roots = ("", os.environ.get("PENSTOCK_PEERS", ""))
    path = os.pathsep.join(root + place for root in roots for place in _SBIN)
    found = shutil.which(name, path=path)
    if found is None:
        pytest.skip(
            f"{name} is not installed (Debian: postfix, exim4-daemon-light, dovecot-lmtpd, swaks)"
        )
    if user and os.geteuid() != 0:
        pytest.skip(f"{name} needs root to start")
    if user:
        try:
            pwd.getpwnam(user)
        except KeyError:
            pytest.skip(f"{name} needs the user {user}")
    return found


class Receiver(Protocol):
    """A mail server: how it is started, and what it took."""

    #: The user it changes to, which may read its directory.
    user: str
    use_lmtp: bool

    @abstractmethod
    def prepare(self, directory: Path, port: int) -> list[str]:
        """Write the configuration; return the command. Skips where it is not installed."""

    @abstractmethod
    def bodies(self, directory: Path) -> list[bytes]:
        """The bodies of the messages it has, with line feeds as line ends."""


class Postfix:
    """Postfix, delivering into a Maildir."""

    user, use_lmtp = "postfix", False

    def prepare(self, directory: Path, port: int) -> list[str]:
        command = program("postfix", user=self.user)
        (directory / "main.cf").write_text(_POSTFIX.format(dir=directory, size=LARGEST))
        (directory / "master.cf").write_text(
            f"127.0.0.1:{port} inet n - n - - smtpd\n" + _POSTFIX_SERVICES
        )
        (directory / "mailboxes").write_text("if !/^gone/\n/./ inbox/\nendif\n")
        for name in ("spool", "data", "mail"):
            (directory / name).mkdir()
        shutil.chown(directory / "data", self.user)
        shutil.chown(directory / "mail", "nobody")
        # It makes what is missing. Started by it, the server would be in a session of its own.
        subprocess.run([command, "-c", str(directory), "check"], capture_output=True, check=True)
        return [program("master"), "-c", str(directory), "-d"]

    def bodies(self, directory: Path) -> list[bytes]:
        return _maildir(directory / "mail" / "inbox")


class Exim:
    """Exim, which keeps what it took in its queue."""

    user, use_lmtp = "Debian-exim", False

    def prepare(self, directory: Path, port: int) -> list[str]:
        command = program("exim4", user=self.user)
        (directory / "spool").mkdir()
        shutil.chown(directory / "spool", self.user, self.user)
        for path in (directory, directory / "key.pem"):
            shutil.chown(path, self.user, self.user)
        config = directory / "exim.conf"
        config.write_text(_EXIM.format(dir=directory, port=port, size=LARGEST))
        return [command, "-C", str(config), "-bdf"]

    def bodies(self, directory: Path) -> list[bytes]:
        found = (directory / "spool" / "input").rglob("*-D")
        return [path.read_bytes().partition(b"\n")[2] for path in found]


class OpenSmtpd:
    """OpenSMTPD, delivering into a Maildir; its fixed places are its own, in a mount namespace."""

    user, use_lmtp = "opensmtpd", False

    def prepare(self, directory: Path, port: int) -> list[str]:
        # Postfix has a program of that name too, but not the other one.
        command = Path(program("smtpctl", user=self.user)).with_name("smtpd")
        helpers = command.parents[1] / "libexec" / "opensmtpd"
        config = directory / "smtpd.conf"
        config.write_text(_OPENSMTPD.format(dir=directory, port=port, size=LARGEST))
        (directory / "mail").mkdir()
        shutil.chown(directory / "mail", "nobody")
        shutil.copytree(helpers, directory / "libexec" / "opensmtpd")
        script = directory / "start.sh"
        script.write_text(_OPENSMTPD_START.format(dir=directory, command=command))
        return [program("unshare"), "--mount", "--propagation", "private", "sh", str(script)]

    def bodies(self, directory: Path) -> list[bytes]:
        return _maildir(directory / "mail" / "inbox")


class Dovecot:
    """Dovecot's LMTP, delivering into Maildirs."""

    user, use_lmtp = "dovecot", True

    def prepare(self, directory: Path, port: int) -> list[str]:
        command = program("dovecot", user=self.user)
        nobody = pwd.getpwnam("nobody")
        names = ("a", "ok", "also", "from", *(f"n{number}" for number in range(20)))
        lines = [
            f"{name}::{nobody.pw_uid}:{nobody.pw_gid}::{directory}/mail/{name}" for name in names
        ]
        (directory / "users").write_text("\n".join(lines) + "\n")
        (directory / "mail").mkdir()
        shutil.chown(directory / "mail", "nobody")
        config = directory / "dovecot.conf"
        config.write_text(_dovecot_config(command, directory, port))
        return [command, "-F", "-c", str(config)]

    def bodies(self, directory: Path) -> list[bytes]:
        return [body for box in (directory / "mail").glob("*/Maildir") for body in _maildir(box)]


def _dovecot_config(command: str, directory: Path, port: int) -> str:
    said = subprocess.run((command, "--version"), capture_output=True, text=True, check=True)
    version = said.stdout.split()[0].partition("-")[0]
    is_new = tuple(map(int, version.split(".")[:2])) >= (2, 4)
    # The version of the file has to come first.
    head = f"dovecot_config_version = {version}\ndovecot_storage_version = {version}\n"
    text = (head if is_new else "") + _DOVECOT + (_DOVECOT_2_4 if is_new else _DOVECOT_2_3)
    listen = "listen" if is_new else "address"
    return text.format(dir=directory, port=port, listen=listen)


class SmtpSink:
    """Postfix's smtp-sink, one file a message; over LMTP with *use_lmtp*."""

    user = ""

    def __init__(self, *, use_lmtp: bool = False) -> None:
        self.use_lmtp = use_lmtp

    def prepare(self, directory: Path, port: int) -> list[str]:
        command = [program("smtp-sink")]
        if os.geteuid() == 0:
            command += ["-u", "root"]
        if self.use_lmtp:
            command.append("-L")
        (directory / "mail").mkdir()
        return [*command, "-8", "-d", f"{directory}/mail/%M.", f"127.0.0.1:{port}", "64"]

    def bodies(self, directory: Path) -> list[bytes]:
        return [_body(path.read_bytes()) for path in (directory / "mail").iterdir()]


class Running:
    """A receiver that runs."""

    def __init__(self, receiver: Receiver, directory: Path, port: int) -> None:
        self._receiver, self._directory = receiver, directory
        self.port = port

    def bodies(self) -> list[bytes]:
        """What it took so far."""
        return self._receiver.bodies(self._directory)


@asynccontextmanager
async def running(receiver: Receiver, authority: trustme.CA) -> AsyncIterator[Running]:
    """Run *receiver* as mx.big.example, with a certificate of *authority*."""
    # Not under pytest's directory, which the servers' users may not enter.
    directory = Path(tempfile.mkdtemp(prefix="penstock-"))
    os.chmod(directory, 0o755)
    try:
        port = free_port()
        certificate = authority.issue_cert("mx.big.example")
        (directory / "cert.pem").write_bytes(
            b"".join(blob.bytes() for blob in certificate.cert_chain_pems)
        )
        (directory / "key.pem").write_bytes(certificate.private_key_pem.bytes())
        (directory / "key.pem").chmod(0o640)
        command = receiver.prepare(directory, port)
        with (directory / "output").open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                *command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )
        try:
            await _greets(port, process, directory)
            yield Running(receiver, directory, port)
        finally:
            # All of it: servers have helpers of their own, in one session with them.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            await _ends(process)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


async def _ends(process: "asyncio.subprocess.Process") -> None:
    try:
        await asyncio.wait_for(process.wait(), 10)
    except TimeoutError:
        os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


async def _greets(port: int, process: "asyncio.subprocess.Process", directory: Path) -> None:
    async with asyncio.timeout(30):
        while process.returncode is None:
            if await asyncio.to_thread(_is_greeted, port):
                return
            await asyncio.sleep(0.05)
    raise AssertionError(_logs(directory))


def _logs(directory: Path) -> str:
    logs = [directory / name for name in ("output", "log", "mainlog")]
    return "".join(path.read_text(errors="replace") for path in logs if path.exists())


def _is_greeted(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
            greeting = client.recv(200)
            client.sendall(b"QUIT\r\n")
    except OSError:
        return False
    return greeting.startswith(b"220")


def _maildir(box: Path) -> list[bytes]:
    return [_body(path.read_bytes()) for path in (box / "new").glob("*")]


def _body(message: bytes) -> bytes:
    return message.replace(b"\r\n", b"\n").partition(b"\n\n")[2]


_POSTFIX = """
compatibility_level = 3.6
queue_directory = {dir}/spool
data_directory = {dir}/data
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
mail_owner = postfix
setgid_group = postdrop
maillog_file = {dir}/log
maillog_file_prefixes = {dir}
myhostname = mx.big.example
mydestination =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 127.0.0.99/32
smtpd_peername_lookup = no
smtpd_relay_restrictions = reject_unauth_destination
virtual_mailbox_domains = big.example, sender.example
virtual_mailbox_base = {dir}/mail
virtual_mailbox_maps = regexp:{dir}/mailboxes
virtual_uid_maps = static:65534
virtual_gid_maps = static:65534
virtual_mailbox_limit = 0
message_size_limit = {size}
smtputf8_enable = yes
smtpd_tls_security_level = may
smtpd_tls_chain_files = {dir}/key.pem, {dir}/cert.pem
default_database_type = texthash
alias_maps =
alias_database =
"""
_POSTFIX_SERVICES = """
postlog unix-dgram n - n - 1 postlogd
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
proxymap unix - - n - - proxymap
smtp unix - - n - - smtp
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
virtual unix - n n - - virtual
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
"""
_EXIM = """
primary_hostname = mx.big.example
spool_directory = {dir}/spool
log_file_path = {dir}/%slog
pid_file_path = {dir}/pid
local_interfaces = 127.0.0.1
daemon_smtp_ports = {port}
queue_only = true
host_lookup =
rfc1413_query_timeout = 0s
acl_smtp_rcpt = check_rcpt
message_size_limit = {size}
smtp_accept_max = 200
smtp_accept_max_nonmail = 100
tls_advertise_hosts = *
tls_certificate = {dir}/cert.pem
tls_privatekey = {dir}/key.pem
smtputf8_advertise_hosts = *

begin acl
check_rcpt:
  deny
    local_parts = ^gone
    message = 5.1.1 no such user
  accept

begin routers
begin transports
begin retry
begin authenticators
plain:
  driver = plaintext
  public_name = PLAIN
  server_prompts = :
  server_condition = ${{if and{{{{eq{{$auth2}}{{relay}}}}{{eq{{$auth3}}{{secret}}}}}}}}
  server_advertise_condition = ${{if def:tls_in_cipher}}
"""
_OPENSMTPD = """
table gone {{ "gone1@big.example", "gone2@big.example", "gone3@big.example", "gone4@big.example" }}
table everyone {{ "@" = "nobody" }}
smtp max-message-size "{size}"
listen on 127.0.0.1 port {port} hostname mx.big.example
action "keep" maildir "{dir}/mail/inbox" virtual <everyone>
match from any for rcpt-to <gone> reject
match from any for domain {{ "big.example", "sender.example" }} action "keep"
"""
_OPENSMTPD_START = """
set -e
for place in /var/spool /var/lib /run; do mount -t tmpfs penstock-test $place; done
mkdir -p -m 0711 /var/lib/opensmtpd /var/lib/opensmtpd/empty /var/spool/smtpd
mkdir -p -m 0700 /var/spool/smtpd/queue /var/spool/smtpd/corrupt /var/spool/smtpd/incoming \\
  /var/spool/smtpd/purge /var/spool/smtpd/temporary
mkdir -m 0770 /var/spool/smtpd/offline
for place in queue corrupt incoming purge temporary; do
  chown opensmtpq:root /var/spool/smtpd/$place
done
chown root:opensmtpq /var/spool/smtpd/offline
mkdir -p /usr/libexec
mount --bind {dir}/libexec /usr/libexec
exec {command} -d -f {dir}/smtpd.conf
"""
_DOVECOT = """
base_dir = {dir}/run
state_dir = {dir}/state
log_path = {dir}/log
protocols = lmtp
ssl = no
hostname = mx.big.example
first_valid_uid = 1
service lmtp {{
  inet_listener lmtp {{
    {listen} = 127.0.0.1
    port = {port}
  }}
}}
"""
#: What is written in another way from Dovecot 2.4 on.
_DOVECOT_2_3 = """
auth_username_format = %Ln
mail_location = maildir:~/Maildir
userdb {{
  driver = passwd-file
  args = {dir}/users
}}
passdb {{
  driver = passwd-file
  args = {dir}/users
}}
"""
_DOVECOT_2_4 = """
auth_username_format = %{{user | username | lower}}
mail_driver = maildir
mail_path = ~/Maildir
userdb passwd-file {{
  passwd_file_path = {dir}/users
}}
passdb passwd-file {{
  passwd_file_path = {dir}/users
}}
"""
