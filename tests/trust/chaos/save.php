<?php
/*
 * Stores each mail with its fields in a file of its own, so that the same mail twice is two files:
 * NUMBER.CONNECTION.RANDOM, a line of JSON, then the mail. The number is the subject, the connection the helo.
 * CHAOS_FOLDER names the folder, CHAOS_FSYNC=1 has each file pushed to the disk.
 */
declare(strict_types=1);

set_error_handler(function (int $level, string $message, string $file, int $line): bool {
    throw new ErrorException($message, 0, $level, $file, $line);
});

/** Fields and mail, whatever scripts.body is. */
function what_came(): array
{
    $type = $_SERVER['CONTENT_TYPE'] ?? '';
    if (str_starts_with($type, 'message/rfc822')) {
        return [$_GET, file_get_contents('php://input')];
    }
    if (str_starts_with($type, 'multipart/form-data')) {
        $upload = $_FILES['body'] ?? ['error' => 'missing'];
        return [$_POST, $upload['error'] === UPLOAD_ERR_OK ? file_get_contents($upload['tmp_name']) : ''];
    }
    $fields = $_POST;
    unset($fields['body']);
    return [$fields, $_POST['body'] ?? ''];
}

/** A chance of one in so many to stay here for some milliseconds, that a kill may find us. */
function linger(int $one_in): void
{
    if (random_int(1, $one_in) === 1) {
        usleep(random_int(1000, 150000));
    }
}

$folder = getenv('CHAOS_FOLDER');
$id = bin2hex(random_bytes(6));
try {
    [$fields, $mail] = what_came();
    if ((string) strlen($mail) !== ($fields['size'] ?? '')) {
        file_put_contents("$folder/cut/$id", json_encode(['octets' => strlen($mail)] + $fields));
        exit('451 4.3.0 the mail is not complete');
    }
    linger(60);
    $connection = strtok($fields['helo'], '.');
    $draft = "$folder/drafts/$id";
    $file = fopen($draft, 'xb');
    fwrite($file, json_encode($fields, JSON_INVALID_UTF8_SUBSTITUTE) . "\n");
    $written = fwrite($file, $mail);
    if ($written !== strlen($mail) || !fflush($file)) {
        exit('451 4.3.0 cannot write');
    }
    if (getenv('CHAOS_FSYNC') === '1') {
        fsync($file);
    }
    fclose($file);
    rename($draft, "$folder/stored/{$fields['subject']}.$connection.$id");
    linger(60);
} catch (Throwable $error) {
    error_log('save.php: ' . $error->getMessage());
    exit('451 4.3.0 could not store the mail');
}
echo 'SAVED';
