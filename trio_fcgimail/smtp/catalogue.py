"""Every reply that the core gives of its own accord, and those an embedder is likely to need.

Replies are chosen from here, never put together where they are sent. The comment names the source of the code.
"""

from __future__ import annotations

from typing import Final

from trio_fcgimail.smtp.replies import EnhancedCode, Reply


def _reply(code: int, enhanced: str, text: str) -> Reply:
    klass, subject, detail = (int(part) for part in enhanced.split("."))
    return Reply(code, EnhancedCode(klass, subject, detail), (text,))


# What goes well
BYE: Final = _reply(221, "2.0.0", "Bye")
OK: Final = _reply(250, "2.0.0", "OK")
CHUNK_OK: Final = _reply(250, "2.0.0", "Chunk received")  # RFC 3030 2
RESET_OK: Final = _reply(250, "2.0.0", "Reset")
SENDER_OK: Final = _reply(250, "2.1.0", "Sender OK")
RECIPIENT_OK: Final = _reply(250, "2.1.5", "Recipient OK")
CANNOT_VERIFY: Final = _reply(252, "2.5.2", "Cannot verify the user; send mail and find out")  # RFC 5321 3.5.3
HELP: Final = _reply(214, "2.0.0", "See RFC 5321")
START_DATA: Final = Reply(354, None, ("End data with <CR><LF>.<CR><LF>",))
READY_FOR_TLS: Final = _reply(220, "2.0.0", "Ready to start TLS")  # RFC 3207 4
AUTHENTICATED: Final = _reply(235, "2.7.0", "Authentication succeeded")  # RFC 4954 6
PLAIN_CHALLENGE: Final = Reply(334, None, ("",))  # RFC 4616 2: PLAIN asks nothing
LOGIN_USERNAME: Final = Reply(334, None, ("VXNlcm5hbWU6",))  # "Username:"
LOGIN_PASSWORD: Final = Reply(334, None, ("UGFzc3dvcmQ6",))  # "Password:"

# The client's mistakes: 500 to 504 and 555 count as bad commands
SYNTAX_ERROR: Final = _reply(500, "5.5.2", "Syntax error")
UNKNOWN_COMMAND: Final = _reply(500, "5.5.1", "Command not recognised")
LINE_TOO_LONG: Final = _reply(500, "5.5.2", "Line too long")
BARE_NEWLINE_IN_COMMAND: Final = _reply(500, "5.5.2", "Only CR LF ends a command")  # RFC 5321 2.3.8
BAD_ARGUMENTS: Final = _reply(501, "5.5.4", "Syntax error in parameters or arguments")
NO_ARGUMENTS: Final = _reply(501, "5.5.4", "The command takes no arguments")
BAD_GREETING_NAME: Final = _reply(501, "5.5.4", "A host name or an address literal is needed")
BAD_SENDER: Final = _reply(501, "5.1.7", "Bad sender address syntax")
BAD_RECIPIENT: Final = _reply(501, "5.1.3", "Bad recipient address syntax")
BAD_PARAMETER_VALUE: Final = _reply(501, "5.5.4", "Bad parameter value")
DOUBLED_PARAMETER: Final = _reply(501, "5.5.4", "A parameter was given twice")
UNKNOWN_PARAMETER: Final = _reply(555, "5.5.4", "Parameter not recognised or not implemented")
NOT_OFFERED: Final = _reply(502, "5.5.1", "Command not implemented")
BAD_CHUNK_SIZE: Final = _reply(501, "5.5.4", "Bad chunk size")
NEED_BDAT: Final = _reply(503, "5.5.1", "BODY=BINARYMIME is sent by BDAT")  # RFC 3030 3
BAD_SEQUENCE: Final = _reply(503, "5.5.1", "Bad sequence of commands")
GREET_FIRST: Final = _reply(503, "5.5.1", "Say hello first")
NESTED_MAIL: Final = _reply(503, "5.5.1", "A mail transaction is under way")
NEED_MAIL: Final = _reply(503, "5.5.1", "MAIL comes first")
NEED_RECIPIENTS: Final = _reply(503, "5.5.1", "No valid recipients")
TLS_IS_ACTIVE: Final = _reply(503, "5.5.1", "TLS is active already")
AUTHENTICATED_ALREADY: Final = _reply(503, "5.5.1", "Authenticated already")  # RFC 4954 4
UNKNOWN_MECHANISM: Final = _reply(504, "5.5.4", "Authentication mechanism not recognised")  # RFC 4954 4
BAD_SASL_RESPONSE: Final = _reply(501, "5.5.2", "Cannot read the response")  # RFC 4954 4
SASL_LINE_TOO_LONG: Final = _reply(500, "5.5.6", "Authentication exchange line is too long")  # RFC 4954 6
AUTH_CANCELLED: Final = _reply(501, "5.7.0", "Authentication cancelled")  # RFC 4954 4
NO_SERVICE_HERE: Final = _reply(503, "5.5.1", "No service here; say QUIT")  # RFC 5321 3.1, after a 554 greeting

# Limits and policy of the core
MESSAGE_TOO_BIG: Final = _reply(552, "5.3.4", "Message too big")  # RFC 1870 6.1
TOO_MANY_RECIPIENTS: Final = _reply(452, "4.5.3", "Too many recipients")  # RFC 5321 4.5.3.1.10
NEED_SMTPUTF8: Final = _reply(553, "5.6.7", "Non-ASCII addresses need SMTPUTF8")  # RFC 6531 3.5
INVALID_U_LABEL: Final = _reply(553, "5.6.7", "The domain is not a valid internationalised name")  # RFC 6531 3.3
BARE_NEWLINE: Final = _reply(550, "5.5.2", "Message holds a bare CR or LF")
BARE_NEWLINE_CLOSE: Final = _reply(521, "5.5.2", "Message holds a bare CR or LF; closing")
TOO_MANY_BAD_COMMANDS: Final = _reply(421, "4.7.0", "Too many bad commands; closing")
TOO_MANY_REFUSED_RECIPIENTS: Final = _reply(421, "4.7.0", "Too many refused recipients; closing")
TOO_MANY_MESSAGES: Final = _reply(421, "4.7.0", "Too many messages on one connection; closing")
TOO_MANY_FAILED_LOGINS: Final = _reply(421, "4.7.0", "Too many failed logins; closing")
ENCRYPTION_REQUIRED: Final = _reply(538, "5.7.11", "Encryption is required; say STARTTLS first")  # RFC 4954 6
PLAINTEXT_BEHIND_STARTTLS: Final = _reply(554, "5.5.1", "Nothing may follow STARTTLS; closing")  # RFC 3207 4.2
NOT_SMTP: Final = _reply(421, "4.7.0", "This is not SMTP; closing")

# For embedders
TIMED_OUT: Final = _reply(421, "4.4.2", "Timed out waiting for you; closing")
TOO_SLOW: Final = _reply(421, "4.4.2", "Data comes too slowly; closing")
SHUTTING_DOWN: Final = _reply(421, "4.3.2", "Shutting down; try again later")
TOO_MANY_CONNECTIONS: Final = _reply(421, "4.7.0", "Too many connections; try again later")
TOO_MANY_CONNECTIONS_HERE: Final = _reply(421, "4.7.0", "Too many connections to this address; try again later")
TOO_MANY_CONNECTIONS_FROM_YOU: Final = _reply(421, "4.7.0", "Too many connections from you; try again later")
CONNECTING_TOO_OFTEN: Final = _reply(421, "4.7.0", "Connecting too often; try again later")
TOO_MANY_MESSAGES_FOR_NOW: Final = _reply(450, "4.7.1", "Too many messages from you; try again later")
TOO_MANY_RECIPIENTS_FOR_NOW: Final = _reply(450, "4.7.1", "Too many recipients from you; try again later")
TALKED_TOO_EARLY: Final = _reply(421, "4.7.0", "You spoke before the banner; closing")  # RFC 5321 3.1
NO_PROXY_HEADER: Final = _reply(421, "4.7.0", "A PROXY header is needed here; closing")
LOCAL_ERROR_CLOSING: Final = _reply(421, "4.3.0", "Local error; closing")
LOCAL_ERROR: Final = _reply(451, "4.3.0", "Local error; try again later")
INSUFFICIENT_STORAGE: Final = _reply(452, "4.3.1", "Insufficient storage; try again later")
TLS_NOT_AVAILABLE: Final = _reply(454, "4.7.0", "TLS is not available for now")  # RFC 3207 4
BAD_CREDENTIALS: Final = _reply(535, "5.7.8", "Authentication credentials invalid")  # RFC 4954 6
AUTH_FAILED_FOR_NOW: Final = _reply(454, "4.7.0", "Temporary authentication failure")  # RFC 4954 6
AUTH_REQUIRED: Final = _reply(530, "5.7.0", "Authentication required")  # RFC 4954 6
NO_SERVICE: Final = _reply(554, "5.7.1", "No service for you")  # RFC 5321 3.1
NOT_WELCOME: Final = _reply(550, "5.7.1", "Not accepted")
HOST_TAKES_NO_MAIL: Final = _reply(521, "5.3.2", "This host takes no mail")  # RFC 7504 3
DOMAIN_TAKES_NO_MAIL: Final = _reply(556, "5.1.10", "This domain takes no mail")  # RFC 7504 4, RFC 7505 4.1
RELAY_DENIED: Final = _reply(550, "5.7.1", "Relaying denied")
NO_SUCH_USER: Final = _reply(550, "5.1.1", "No such user")
MAIL_LOOP: Final = _reply(554, "5.4.6", "Too many hops")
