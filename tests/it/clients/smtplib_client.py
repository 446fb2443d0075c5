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
        authenticate = {"PLAIN": client.auth_plain, "LOGIN": client.auth_login}
        client.auth(job["mechanism"], authenticate[job["mechanism"]])
        options = [] if message.isascii() else ["BODY=8BITMIME"]
        client.sendmail(job["reverse_path"], job["recipients"], message, mail_options=options)


try:
    submit(json.loads(sys.argv[1]), sys.stdin.buffer.read())
except smtplib.SMTPResponseException as error:
    sys.exit(f"{error.smtp_code} {error.smtp_error.decode()}")
except (smtplib.SMTPException, OSError) as error:
    sys.exit(f"{type(error).__name__}: {error}")
