"""A message as e-mail: text and HTML, with the picture of drift."""

from __future__ import annotations

import smtplib
import ssl
from collections.abc import Sequence
from email.message import EmailMessage
from email.utils import formatdate, make_msgid, parseaddr
from pathlib import Path

from flows.attempts import DeliveryError, deliver
from flows.messages import Message
from flows.notify_settings import MailServer

TIMEOUT_S = 20.0
WAITS_S = (5.0, 30.0)
MOST_PICTURE_BYTES = 300_000
STYLE = "font: 15px/1.5 system-ui, Arial, sans-serif; max-width: 46em"


def send_mail(
    server: MailServer,
    message: Message,
    picture: Path | None = None,
    timeout_s: float = TIMEOUT_S,
    waits_s: Sequence[float] = WAITS_S,
) -> None:
    """Sends a message; tries again when there is no connection or the server says "later" (4xx).

    Args:
        server: Where to and for whom.
        message: Its title is the subject.
        picture: A PNG that is shown below the text, unless it is large or missing.
        timeout_s: Of each step of the conversation.
        waits_s: Seconds before each further try.

    Raises:
        DeliveryError: It was not sent to everybody.
    """
    mail = build_mail(server, message, picture)
    deliver(lambda: _send(server, mail, timeout_s), waits_s)


def build_mail(server: MailServer, message: Message, picture: Path | None = None) -> EmailMessage:
    """The mail with all its parts."""
    mail = EmailMessage()
    mail["Subject"] = f"[Segtrail] {message.title}"
    mail["From"], mail["To"] = server.sender, ", ".join(server.recipients)
    mail["Date"] = formatdate()
    mail["Message-ID"] = make_msgid("segtrail", domain=parseaddr(server.sender)[1].rpartition("@")[2])
    mail["Auto-Submitted"] = "auto-generated"  # no answer of a machine, please
    mail.set_content(message.text)
    shown = picture is not None and picture.is_file() and picture.stat().st_size <= MOST_PICTURE_BYTES
    identity = make_msgid("drift", domain="segtrail")
    image = (
        f'<p><img src="cid:{identity[1:-1]}" alt="drift of the new cases" width="640"></p>' if shown else ""
    )
    mail.add_alternative(
        f'<!doctype html><html><body style="{STYLE}">\n{message.html}\n{image}</body></html>\n',
        subtype="html",
    )
    if picture is not None and shown:
        page = mail.get_payload()[1]  # type: ignore[index]
        page.add_related(  # type: ignore[union-attr]
            picture.read_bytes(), "image", "png", cid=identity, filename=picture.name, disposition="inline"
        )
    return mail


def _send(server: MailServer, mail: EmailMessage, timeout_s: float) -> None:
    try:
        with _connect(server, timeout_s) as connection:
            if server.user:
                connection.login(server.user, server.password)
            refused = connection.send_message(mail)
    except smtplib.SMTPRecipientsRefused as error:
        codes = {code for code, _ in error.recipients.values()}
        raise _refusal("all recipients were refused", min(codes)) from None
    except smtplib.SMTPAuthenticationError as error:
        raise _refusal("user or password were refused", error.smtp_code) from None
    except UnicodeEncodeError:
        raise DeliveryError(
            "user, password or an address hold letters that SMTP cannot carry", again=False
        ) from None
    except smtplib.SMTPResponseException as error:
        raise _refusal("the server refused the mail", error.smtp_code) from None
    except smtplib.SMTPNotSupportedError:
        lacking = "STARTTLS" if server.scheme == "smtp+starttls" else "a way to log in that this program has"
        raise DeliveryError(f"the server does not offer {lacking}", again=False) from None
    except ssl.SSLCertVerificationError as error:
        raise DeliveryError(f"its certificate is not trusted: {error.verify_message}", again=False) from None
    except (smtplib.SMTPException, OSError) as error:
        reason = "no answer in time" if isinstance(error, TimeoutError) else f"no connection: {error}"
        raise DeliveryError(reason, again=True) from None
    if refused:
        count = f"{len(refused)} of {len(server.recipients)} recipients were refused"
        raise DeliveryError(count, again=False)  # the others have it


def _refusal(what: str, code: int) -> DeliveryError:
    return DeliveryError(f"{what} (code {code})", again=400 <= code < 500)


def _connect(server: MailServer, timeout_s: float) -> smtplib.SMTP:
    context = ssl.create_default_context()
    if server.scheme == "smtps":
        return smtplib.SMTP_SSL(server.host, server.port, timeout=timeout_s, context=context)
    connection = smtplib.SMTP(server.host, server.port, timeout=timeout_s)
    if server.scheme == "smtp+starttls":
        try:
            connection.starttls(context=context)
        except BaseException:
            connection.close()
            raise
    return connection
