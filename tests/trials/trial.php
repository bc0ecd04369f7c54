<?php
// The examples, save for some recipients: then what goes wrong in life. FCGIMAIL_EXAMPLES names their folder.
$examples = getenv('FCGIMAIL_EXAMPLES');
if (($_GET['stage'] ?? '') === 'validate') {
    require "$examples/php/validate.php";
    return;
}
switch ($_POST['rcpt_to_0']) {
    case 'rejects@example.com': exit('550 5.7.1 Not this one');
    case 'noisy@example.com': error_log('noise of the script'); break;
    case 'slow@example.com': sleep(60); break;
    case 'dies@example.com': posix_kill(getmypid(), 9); break;
    case 'half@example.com':
        echo 'SAVED';
        while (ob_get_level()) {
            ob_end_flush();
        }
        flush();
        posix_kill(getmypid(), 9);
}
require "$examples/php/save.php";
