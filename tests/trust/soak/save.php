<?php
/* Stores each mail, in place of another one of the same subject: the disk of a soak must not fill up. */
declare(strict_types=1);
$mail = $_POST['body'] ?? '';
if ((string) strlen($mail) !== ($_POST['size'] ?? '')) {
    exit('451 4.3.0 the mail is not complete');
}
$folder = getenv('SOAK_FOLDER');
$draft = "$folder/" . bin2hex(random_bytes(8)) . '.draft';
if (file_put_contents($draft, $mail) !== strlen($mail) || !rename($draft, "$folder/" . (int) $_POST['subject'])) {
    exit('451 4.3.0 cannot write');
}
echo 'SAVED';
