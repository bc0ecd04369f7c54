"""One mail: its envelope, trace header, digest and form, and what a script's answer to it means. No input or output."""

from trio_fcgimail.mail.body import BodyKind, SaveRequest, mail_parameters, save_request
from trio_fcgimail.mail.delivery import delivery_header, recipient_hash
from trio_fcgimail.mail.digest import MailDigest
from trio_fcgimail.mail.domains import comparable_domain
from trio_fcgimail.mail.draft import EnvelopeDraft
from trio_fcgimail.mail.envelope import (
    ClientCertificate,
    DsnWish,
    Envelope,
    Peer,
    Session,
    TlsFacts,
    WithKeyword,
    new_queue_id,
)
from trio_fcgimail.mail.fields import HeaderField, are_header_lines, parse_header
from trio_fcgimail.mail.form import BodyEncoder, BodyLines, BodyMeter, encode_fields
from trio_fcgimail.mail.headers import HeaderFacts, HeaderReader, decode_subject
from trio_fcgimail.mail.lines import LfLines
from trio_fcgimail.mail.multipart import BOUNDARY_RANDOM_OCTETS
from trio_fcgimail.mail.redact import hide_in_stderr, hide_password, judge_login
from trio_fcgimail.mail.request import (
    Field,
    Parameter,
    Received,
    auth_fields,
    get_parameters,
    has_room,
    mail_fields,
    octets_of,
    post_parameters,
    recipient_fields,
    save_fields,
    session_fields,
    validate_fields,
)
from trio_fcgimail.mail.text import clean, clean_ends
from trio_fcgimail.mail.trace import address_literal, received_header
from trio_fcgimail.mail.verdict import (
    LOSS_OCTETS,
    MAX_ANSWER_OCTETS,
    MAX_STDERR_OCTETS,
    Answer,
    Meaning,
    Stage,
    Unexpected,
    Verdict,
    failed,
    find_loss,
    judge,
    judge_each,
    taken,
)

__all__ = [
    "BOUNDARY_RANDOM_OCTETS",
    "LOSS_OCTETS",
    "MAX_ANSWER_OCTETS",
    "MAX_STDERR_OCTETS",
    "Answer",
    "BodyEncoder",
    "BodyKind",
    "BodyLines",
    "BodyMeter",
    "ClientCertificate",
    "DsnWish",
    "Envelope",
    "EnvelopeDraft",
    "Field",
    "HeaderFacts",
    "HeaderField",
    "HeaderReader",
    "LfLines",
    "MailDigest",
    "Meaning",
    "Parameter",
    "Peer",
    "Received",
    "SaveRequest",
    "Session",
    "Stage",
    "TlsFacts",
    "Unexpected",
    "Verdict",
    "WithKeyword",
    "address_literal",
    "are_header_lines",
    "auth_fields",
    "clean",
    "clean_ends",
    "comparable_domain",
    "decode_subject",
    "delivery_header",
    "encode_fields",
    "failed",
    "find_loss",
    "get_parameters",
    "has_room",
    "hide_in_stderr",
    "hide_password",
    "judge",
    "judge_each",
    "judge_login",
    "mail_fields",
    "mail_parameters",
    "new_queue_id",
    "octets_of",
    "parse_header",
    "post_parameters",
    "received_header",
    "recipient_fields",
    "recipient_hash",
    "save_fields",
    "save_request",
    "session_fields",
    "taken",
    "validate_fields",
]
