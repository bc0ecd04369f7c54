<?php
/*
 * save.php - stores each mail as a file. Copy it and make it yours.
 *
 * The mail server waits for this script. It tells the sender "250 OK, I have your mail" only if the whole output is
 * one line that starts with SAVED. Anything else, a PHP error included, makes the sender try again later. So:
 *
 *   1. print SAVED only when the mail is safe, and print nothing after it;
 *   2. expect the same mail twice: an answer can get lost after you stored the mail. The field mail_digest is the
 *      same for every attempt, so it serves well as a file name or as a unique key in a database.
 *
 * The mail comes as scripts.body of the mail server says; this script takes all three, yours needs only one:
 *
 *   "form"       $_POST['body'], the other fields in $_POST
 *   "multipart"  the file $_FILES['body']['tmp_name'], the other fields in $_POST
 *   "raw"        php://input, the other fields in $_GET
 *
 * The fields: size, mail_digest, mail_from ('' for a bounce), rcpt_to_0, rcpt_to_1 ..., subject, helo, remote_ip,
 * tls_on, queue_id. FCGIMAIL_DIR in the environment names the folder for the mails.
 * Needs PHP 8.1 or later (fsync).
 */
declare(strict_types=1);

/** How the mail came. */
enum Kind
{
    case Form;
    case Multipart;
    case Raw;

    public static function ofRequest(): self
    {
        $type = $_SERVER['CONTENT_TYPE'] ?? '';
        return match (true) {
            str_starts_with($type, 'message/rfc822') => self::Raw,
            str_starts_with($type, 'multipart/form-data') => self::Multipart,
            default => self::Form,
        };
    }

    /** A field, '' when there is none. It may also arrive as an array (name[]=...), so look before you use it. */
    public function field(string $name): string
    {
        $value = ($this === self::Raw ? $_GET : $_POST)[$name] ?? null;
        return is_string($value) ? $value : '';
    }

    /** How many octets of the mail PHP has for us; throws when it has none. */
    public function octets(): int
    {
        return match ($this) {
            self::Form => strlen(self::isText($_POST['body'] ?? null)),
            // PHP says nowhere else that it dropped a file: for being above upload_max_filesize (1), for the end of
            // it being missing (3), for want of a folder (6) or of room in it (7).
            self::Multipart => ($_FILES['body']['error'] ?? 'missing') === UPLOAD_ERR_OK
                ? $_FILES['body']['size']
                : throw new RuntimeException('no upload: error ' . json_encode($_FILES['body']['error'] ?? 'missing')),
            self::Raw => (int) ($_SERVER['CONTENT_LENGTH'] ?? 0), // declared; write() tells what came
        };
    }

    /** Writes the mail to a file and returns how many octets that were. */
    public function write($file): int
    {
        return match ($this) {
            self::Form => fwrite($file, $_POST['body']),
            self::Multipart => stream_copy_to_stream(fopen($_FILES['body']['tmp_name'], 'rb'), $file),
            self::Raw => stream_copy_to_stream(fopen('php://input', 'rb'), $file),
        };
    }

    private static function isText(mixed $value): string
    {
        return is_string($value) ? $value : throw new RuntimeException('the mail is not complete: no body');
    }
}

/** Stores one mail and returns its id; throws when anything at all goes wrong. */
function save_mail(Kind $kind, string $folder): string
{
    $size = $kind->field('size');
    $digest = $kind->field('mail_digest');

    // PHP runs this script even if the mail was cut on its way or dropped for being above post_max_size.
    $octets = $kind->octets();
    if ((string) $octets !== $size) {
        throw new RuntimeException("the mail is not complete: $octets octets");
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
        $written = $kind->write($file);
        if ($written !== $octets) {
            throw new RuntimeException("the mail is not complete: $written octets of $octets");
        }
        if (!fflush($file) || !fsync($file) || !fclose($file)) {
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
    $answer = 'SAVED id=' . save_mail(Kind::ofRequest(), getenv('FCGIMAIL_DIR') ?: temporary_folder());
} catch (Throwable $error) {
    error_log('save.php: ' . $error->getMessage()); // goes to the log of the mail server
    $answer = '451 4.3.0 could not store the mail, try again later';
}
echo $answer;
