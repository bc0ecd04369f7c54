<?php
// As little as a recipient check can do.
echo str_contains($_GET['rcpt_to'] ?? '', '@') ? 'PASSED' : 'no such user';
