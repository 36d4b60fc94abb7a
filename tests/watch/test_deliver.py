"""`backfill.watch.deliver`: one message by one channel, to a real server and a real program."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from backfill.errors import ProjectError
from backfill.settings_notify import Channel
from backfill.url import UrlVariable
from backfill.watch.deliver import UndeliveredError, deliver, slack_text
from backfill.watch.message import trial
from tests.watch.receiver import SECRET, Receiver, heard, program

MESSAGE = trial(by="ada@laptop", at=datetime(2026, 11, 21, 10, tzinfo=UTC))


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver().serving() as receiver:
        yield receiver


def webhook(url: str | None) -> Channel:
    return Channel(name="ops", webhook=UrlVariable(name="HOOK", named_in="a file", raw=url))


def send(channel: Channel, *, seconds: float = 10.0, folder: Path | None = None) -> str:
    return deliver(channel, MESSAGE, environ=os.environ, folder=folder, seconds=seconds)


def refused(channel: Channel, *, seconds: float = 10.0) -> UndeliveredError:
    with pytest.raises(UndeliveredError) as caught:
        send(channel, seconds=seconds)
    assert SECRET not in str(caught.value)
    assert "127.0.0.1" not in str(caught.value)
    return caught.value


# ------------------------------------------------------------------------------------- the webhook


def test_a_webhook_is_posted_the_text_alone(receiver: Receiver) -> None:
    assert send(webhook(receiver.url)) == "the webhook (HOOK) answered 200: ok"
    assert receiver.got == [{"text": MESSAGE.text}]
    assert receiver.headers[0]["Content-Type"] == "application/json"


def test_a_login_in_the_url_is_sent_as_basic_authentication(receiver: Receiver) -> None:
    send(webhook(receiver.url.replace("http://", "http://ada:p%40ss@")))
    assert receiver.headers[0]["Authorization"] == "Basic YWRhOnBAc3M="
    assert "@" not in receiver.headers[0]["Host"]


@pytest.mark.parametrize("status", [400, 404, 429, 500])
def test_any_other_answer_is_told_with_the_word_that_slack_says(
    receiver: Receiver, status: int
) -> None:
    receiver.status, receiver.body = status, "no_service"
    assert (
        str(refused(webhook(receiver.url))) == f"the webhook (HOOK) answered {status}: no_service"
    )


@pytest.mark.parametrize("body", [f"no page at /services/{SECRET}", "services", "x" * 100_000, ""])
def test_an_answer_that_may_quote_the_url_is_left_out(receiver: Receiver, body: str) -> None:
    receiver.status, receiver.body = 404, body
    assert str(refused(webhook(receiver.url))) == "the webhook (HOOK) answered 404"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(receiver: Receiver, status: int) -> None:
    with Receiver().serving() as elsewhere:
        receiver.status, receiver.location = status, elsewhere.url
        error = refused(webhook(receiver.url))
        assert str(error).endswith(f"answered {status}: a redirect, which is not followed")
        assert elsewhere.requests == []
    assert len(receiver.requests) == 1


def test_a_slow_server_is_given_up_in_time(receiver: Receiver) -> None:
    answered = threading.Event()
    receiver.before_answer = lambda: answered.wait(20)
    began = time.monotonic()
    assert "did not answer in time" in str(refused(webhook(receiver.url), seconds=0.3))
    assert time.monotonic() - began < 5
    answered.set()


@pytest.mark.parametrize(
    "url",
    [
        f"http://127.0.0.1:1/{SECRET}",
        f"http://no-such-host.invalid/{SECRET}",
        f"http://127.0.0.1:1/{SECRET} and more",
    ],
)
def test_a_server_that_cannot_be_reached_is_told_without_its_url(url: str) -> None:
    assert str(refused(webhook(url))).startswith("the webhook (HOOK) cannot be reached: ")


def test_a_variable_that_is_not_set_is_named() -> None:
    with pytest.raises(ProjectError, match=r"^the environment variable HOOK is not set"):
        send(webhook(None))
    for url in (f"ftp://{SECRET}", f"http://ada:{SECRET}@127.0.0.1:port/", f"http://[{SECRET}/"):
        with pytest.raises(ProjectError, match="holds no URL") as caught:
            send(webhook(url))
        assert SECRET not in str(caught.value)


def test_no_text_calls_a_channel_or_makes_a_link() -> None:
    assert slack_text("<!channel> & <http://x|y>") == "&lt;!channel&gt; &amp; &lt;http://x|y&gt;"


# ------------------------------------------------------------------------------------- the command


def command(*arguments: str) -> Channel:
    return Channel(name="pager", command=arguments)


def test_a_command_reads_all_fields_and_gets_its_arguments_as_they_are(tmp_path: Path) -> None:
    told = send(command(*program(tmp_path, then="open('args', 'w').write(repr(sys.argv[1:]))"),
                        "a b", "$HOME; true"), folder=tmp_path)  # fmt: skip
    assert told.endswith("took it")
    assert heard(tmp_path) == [MESSAGE.to_json()]
    assert (tmp_path / "args").read_text() == "['a b', '$HOME; true']", "no shell, in the folder"


def test_what_a_command_prints_is_kept_apart_from_why_it_failed(tmp_path: Path) -> None:
    error = refused(command(*program(tmp_path, code=3, then=f"print({SECRET!r}, flush=True)")))
    assert str(error).endswith("ended with code 3")
    assert error.output == SECRET


def test_a_command_that_does_not_read_or_does_not_exist_is_no_crash(tmp_path: Path) -> None:
    assert send(command("true")) == "the command true took it"
    for name, told in (("nothing", "No such file"), ("folder", "Permission denied")):
        (tmp_path / "folder").mkdir(exist_ok=True)
        with pytest.raises(ProjectError, match=f"command {name} cannot be started: {told}"):
            send(command(str(tmp_path / name)))


def test_a_slow_command_is_ended_with_its_children(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    slow = command("sh", "-c", f"sleep 600 & echo $! > {pid_file}; wait")
    assert "was not done in 1 s" in str(refused(slow, seconds=1.0))
    child = Path(f"/proc/{pid_file.read_text().strip()}")
    deadline = time.monotonic() + 10
    while child.exists() and "Z" not in (child / "stat").read_text().split()[2]:
        assert time.monotonic() < deadline, "the grandchild still runs"
        time.sleep(0.02)
