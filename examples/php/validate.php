<?php
/*
 * validate.php - says whether a recipient exists, before the mail itself is sent. Copy it and make it yours.
 *
 * The mail server calls it once for each recipient, with $_GET['rcpt_to'] (and mail_from, remote_ip, helo, tls_on).
 * Print PASSED to take the recipient, or the reply that the sender shall get:
 *
 *   550 5.1.1 ...   no such user: the mail goes back to its author
 *   451 4.3.0 ...   I cannot tell now: the sender tries again later
 */
declare(strict_types=1);

// Who has a mailbox here. FCGIMAIL_RCPTS in the environment may name more, with spaces between them.
// While nobody is named at all, everybody passes.
$known = [
    // 'info@example.com',
];

/** May this recipient get mail? */
function is_known(string $recipient, array $known): bool
{
    $recipient = strtolower($recipient);
    if (str_starts_with($recipient, 'postmaster@')) {
        return true; // RFC 5321, section 4.5.1: there is always a postmaster
    }
    return $known === [] || in_array($recipient, array_map('strtolower', $known), true);
}

$more = preg_split('/\s+/', getenv('FCGIMAIL_RCPTS') ?: '', -1, PREG_SPLIT_NO_EMPTY);
$recipient = $_GET['rcpt_to'] ?? null;

if (!is_string($recipient) || $recipient === '') {
    echo '451 4.3.0 no recipient was given'; // also when it came as an array (rcpt_to[]=...)
} elseif (is_known($recipient, array_merge($known, $more))) {
    echo 'PASSED';
} else {
    echo '550 5.1.1 no such user';
}
