<?php
// What a script does that keeps its promise: the mail is on the disk before it says so.
$folder = getenv('BENCHMARK_FOLDER');
$name = $folder . '/' . getmypid();
$file = fopen($name . '.new', 'wb');
$octets = fwrite($file, $_POST['body'] ?? '');
$kept = fflush($file) && fsync($file) && fclose($file) && rename($name . '.new', $name . '.eml');
echo $octets > 0 && $kept ? 'SAVED' : '451 4.3.0 Not saved';
