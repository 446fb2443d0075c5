"""Submits the message on standard input with Python's smtplib.

Takes one JSON object as its only argument. Ends with status 1 and the server's answer on standard error when the server
refuses, or when its certificate is not to be trusted.
"""

import json
import smtplib
import ssl
import sys


def submit(job: dict, message: bytes) -> None:
    context = ssl.create_default_context(cafile=job["certificate"])
    if "own" in job:
        context.load_cert_chain(*job["own"])
    name, patience = job["client_name"], 60
    if job["listener"] == "implicit":
        client = smtplib.SMTP_SSL(
            "localhost", job["port"], local_hostname=name, timeout=patience, context=context
        )
    else:
        client = smtplib.SMTP("localhost", job["port"], local_hostname=name, timeout=patience)
        client.starttls(context=context)
    with client:
        client.ehlo()
        client.user, client.password = job["account"], job["password"]
        authenticate = {
            "PLAIN": client.auth_plain,
            "LOGIN": client.auth_login,
            "EXTERNAL": lambda challenge=None: "",
        }
        client.auth(job["mechanism"], authenticate[job["mechanism"]])
        of_mail, of_rcpt = job.get("mail_options", []), job.get("rcpt_options", [])
        if "chunk_size" in job:
            in_chunks(client, job, message, of_mail, of_rcpt)
        else:
            client.sendmail(
                job["reverse_path"], job["recipients"], message, of_mail, of_rcpt
            )


def in_chunks(client: smtplib.SMTP, job: dict, message: bytes, of_mail: list, of_rcpt: list) -> None:
    """smtplib has no BDAT, but leaves room for it."""
    ok(client.mail(job["reverse_path"], of_mail))
    for recipient in job["recipients"]:
        ok(client.rcpt(recipient, of_rcpt))
    size = job["chunk_size"]
    chunks = [message[at : at + size] for at in range(0, len(message), size)]
    for chunk in chunks:
        client.send(b"BDAT %d\r\n" % len(chunk) + chunk)
    client.send(b"BDAT 0 LAST\r\n")
    for _ in [*chunks, b""]:
        ok(client.getreply())


def ok(reply: tuple) -> None:
    if reply[0] != 250:
        raise smtplib.SMTPResponseException(*reply)


try:
    submit(json.loads(sys.argv[1]), sys.stdin.buffer.read())
except smtplib.SMTPResponseException as error:
    sys.exit(f"{error.smtp_code} {error.smtp_error.decode()}")
except (smtplib.SMTPException, OSError) as error:
    sys.exit(f"{type(error).__name__}: {error}")
