<?php
// As little as can be done with a mail: look whether it is there. "raw" has it on php://input, the others in a form.
$octets = isset($_POST['body']) ? strlen($_POST['body']) : strlen(file_get_contents('php://input'));
echo $octets > 0 ? 'SAVED' : '451 4.3.0 No mail';
