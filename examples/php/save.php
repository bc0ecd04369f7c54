<?php
/*
 * save.php - stores each mail as a file. Copy it and make it yours.
 *
 * The mail server waits for this script. It tells the sender "250 OK, I have your mail" only if the whole output is
 * one line that starts with SAVED. Anything else, a PHP error included, makes the sender try again later. So:
 *
 *   1. print SAVED only when the mail is safe, and print nothing after it;
 *   2. expect the same mail twice: an answer can get lost after you stored the mail. $_POST['mail_digest'] is the
 *      same for every attempt, so it serves well as a file name or as a unique key in a database.
 *
 * $_POST has: body, size, mail_digest, mail_from ('' for a bounce), rcpt_to_0, rcpt_to_1 ..., subject, helo,
 * remote_ip, tls_on, queue_id. FCGIMAIL_DIR in the environment names the folder for the mails.
 * Needs PHP 8.1 or later (fsync).
 */
declare(strict_types=1);

/** Stores one mail and returns its id; throws when anything at all goes wrong. */
function save_mail(string $folder): string
{
    // A field may also arrive as an array (name[]=...) or not at all, so look before you use it.
    $field = fn (string $name): string => is_string($_POST[$name] ?? null) ? $_POST[$name] : '';
    $body = $field('body');
    $digest = $field('mail_digest');

    // PHP runs this script even if the mail was cut on its way or dropped for being above post_max_size.
    if (!isset($_POST['body']) || (string) strlen($body) !== $field('size')) {
        throw new RuntimeException('the mail is not complete: ' . strlen($body) . ' octets');
    }
    // It becomes part of a file name, so it must be what it claims to be.
    if (preg_match('/\A[0-9a-f]{64}\z/', $digest) !== 1) {
        throw new RuntimeException('mail_digest is missing');
    }

    if (!is_dir($folder) && !@mkdir($folder, 0700, true) && !is_dir($folder)) {
        throw new RuntimeException("cannot make the folder $folder");
    }

    // Write under another name, push it to the disk, then rename: nobody ever sees half a mail.
    // A second attempt of the same mail just replaces the first.
    $final = "$folder/$digest.eml";
    $draft = "$final." . bin2hex(random_bytes(6)) . '.tmp';
    try {
        $file = fopen($draft, 'xb');
        if (fwrite($file, $body) !== strlen($body) || !fflush($file) || !fsync($file) || !fclose($file)) {
            throw new RuntimeException("cannot write $draft");
        }
        rename($draft, $final);
        fsync(fopen($folder, 'r')); // the new name must survive a power cut too
    } finally {
        if (is_file($draft)) {
            unlink($draft);
        }
    }
    return substr($digest, 0, 16);
}

/** The folder for a first try. What lies in /tmp may be gone after a restart: name a better one with FCGIMAIL_DIR. */
function temporary_folder(): string
{
    $me = function_exists('posix_geteuid') ? posix_geteuid() : get_current_user();
    $folder = sys_get_temp_dir() . "/fcgimail-$me";
    @mkdir($folder, 0700);
    if (is_link($folder) || (fileperms($folder) & 0077) !== 0) {
        throw new RuntimeException("$folder is open to others"); // who else made it?
    }
    return $folder;
}

// Let every warning stop us: a warning from fopen() or rename() means that the mail is not stored.
set_error_handler(function (int $level, string $message, string $file, int $line): bool {
    if ((error_reporting() & $level) === 0) {
        return false; // this one was silenced with @
    }
    throw new ErrorException($message, 0, $level, $file, $line);
});

try {
    umask(0077); // mail is private
    $answer = 'SAVED id=' . save_mail(getenv('FCGIMAIL_DIR') ?: temporary_folder());
} catch (Throwable $error) {
    error_log('save.php: ' . $error->getMessage()); // goes to the log of the mail server
    $answer = '451 4.3.0 could not store the mail, try again later';
}
echo $answer;
