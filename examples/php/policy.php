<?php
/*
 * policy.php - one script for every stage but save: who may connect, log in and send. Copy it and make it yours.
 *
 *     [scripts]
 *     connect = "/srv/mail/policy.php"     # and helo, auth, mail, validate: each is optional
 *
 * Print PASSED to let pass, or the reply that the client shall get. Nothing at all, or an error of PHP, means "try again
 * later". The field `stage` says what is asked. At auth the fields come by POST, elsewhere in the query.
 *
 * FCGIMAIL_USERS in the environment names a file of users, a line of name:hash for each. A hash is made by
 *     php -r 'echo password_hash(trim(fgets(STDIN)), PASSWORD_DEFAULT), "\n";'
 * FCGIMAIL_STATE names a folder for what has to be remembered. What is older than a week in it may be deleted.
 */
declare(strict_types=1);

const BLOCKED = [];                 // addresses that are not served, such as '192.0.2.66'
const WRONG_PASSWORDS = 10;         // from one address in ten minutes
const MAILS_PER_HOUR = 100;         // of one user
const GREYLIST_SECONDS = 300;       // how long a stranger has to wait before a first mail is taken

/** A field of the request; '' when it is missing. */
function field(string $name): string
{
    $value = $_POST[$name] ?? $_GET[$name] ?? '';
    return is_string($value) ? $value : '';
}

/**
 * How long ago something happened for the first time, in seconds, and how often since.
 * It is forgotten when that was longer ago than $memory.
 */
function tally(string $what, int $memory, int $more = 1): array
{
    $folder = getenv('FCGIMAIL_STATE') ?: throw new RuntimeException('FCGIMAIL_STATE is not set');
    if (!is_dir($folder)) {
        @mkdir($folder, 0700, true); // another worker may do so at the same time
    }
    $file = fopen($folder . '/' . hash('sha256', $what), 'c+');
    flock($file, LOCK_EX); // until the file is closed
    $now = time();
    $known = sscanf((string) stream_get_contents($file), '%d %d');
    [$since, $count] = is_array($known) && isset($known[1]) && $now - $known[0] <= $memory ? $known : [$now, 0];
    ftruncate($file, 0);
    rewind($file);
    fwrite($file, $since . ' ' . ($count + $more));
    fclose($file);
    return [$now - $since, $count + $more];
}

function on_connect(): string
{
    return in_array(field('remote_ip'), BLOCKED, true) ? '554 5.7.1 You are not served here' : 'PASSED';
}

function on_helo(): string
{
    // Who calls itself by our name lies.
    return strcasecmp(field('helo'), $_SERVER['SERVER_NAME']) === 0 ? '550 5.7.1 That is my name' : 'PASSED';
}

/** PASSED is 235. The password is in clear: never print it, never log it. */
function on_auth(): string
{
    $client = 'login ' . field('remote_ip');
    if (tally($client, 600, 0)[1] >= WRONG_PASSWORDS) {
        return '421 4.7.0 Too many wrong passwords, try again later';
    }
    $found = password_hash('nobody', PASSWORD_DEFAULT); // who is not there takes as long as who is
    foreach (file((string) getenv('FCGIMAIL_USERS'), FILE_IGNORE_NEW_LINES) as $line) {
        [$name, $hash] = explode(':', $line, 2) + ['', ''];
        if ($name !== '' && $name === field('username')) {
            $found = $hash;
            $is_user = true;
        }
    }
    if (password_verify(field('password'), $found) && isset($is_user)) {
        return 'PASSED';
    }
    tally($client, 600);
    return '535 5.7.8 Wrong name or password';
}

function on_mail(): string
{
    $user = field('auth_user');
    if ($user === '') {
        return 'PASSED'; // a mail from elsewhere: see on_validate
    }
    if (strcasecmp(field('mail_from'), $user) !== 0) {
        return '553 5.7.1 That is not your address';
    }
    return tally("mails $user", 3600)[1] > MAILS_PER_HOUR ? '450 4.7.1 Too many mails in an hour' : 'PASSED';
}

/** The place for your own check of the recipient; here are all known. */
function on_validate(): string
{
    $address = inet_pton(field('remote_ip') ?: '127.0.0.1');
    if (field('auth_user') !== '' || $address === inet_pton('127.0.0.1')) {
        return 'PASSED';
    }
    // A greylist: mail servers try again, what sends spam seldom does. Servers of one network may take turns.
    $network = bin2hex(substr($address, 0, strlen($address) === 4 ? 3 : 8));
    $triple = 'grey ' . $network . ' ' . strtolower(field('mail_from') . ' ' . field('rcpt_to'));
    [$age] = tally($triple, 7 * 86400);
    return $age < GREYLIST_SECONDS ? '450 4.7.1 Greylisted, try again in some minutes' : 'PASSED';
}

// Every warning stops us: what cannot be remembered cannot be judged.
set_error_handler(function (int $level, string $message, string $file, int $line): bool {
    if ((error_reporting() & $level) === 0) {
        return false; // this one was silenced with @
    }
    throw new ErrorException($message, 0, $level, $file, $line);
});

try {
    $answer = match (field('stage')) {
        'connect' => on_connect(),
        'helo' => on_helo(),
        'auth' => on_auth(),
        'mail' => on_mail(),
        'validate' => on_validate(),
    };
} catch (Throwable $error) {
    error_log('policy.php: ' . get_class($error) . ' in line ' . $error->getLine()); // no message: it could show a password
    $answer = '451 4.3.0 Cannot tell now, try again later';
}
echo $answer;
