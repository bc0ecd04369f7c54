<?php
/*
 * probe.php - tells what this PHP is set to, for
 *
 *     python -m trio_fcgimail check --probe-script /srv/mail/probe.php
 *
 * Copy it to where php-fpm may read it and name it there by the path that php-fpm sees. It answers nobody but the mail
 * server, reads settings only, and changes nothing; remove it when you like. Needs PHP 7.4 or later.
 */
declare(strict_types=1);
ini_set('display_errors', '0');
error_reporting(0); // a file that may not be read is an answer, too

// A web server says its own name here, so whoever finds this file by HTTP learns nothing.
if (strncmp($_SERVER['SERVER_SOFTWARE'] ?? '', 'trio_fcgimail/', 14) !== 0) {
    http_response_code(404);
    exit;
}

/** The configuration file of the php-fpm that runs us, as its title says; null when there is none to be seen. */
function fpm_configuration(): ?string
{
    preg_match('/^\d+ \(.*\) \S (\d+) /s', (string) file_get_contents('/proc/self/stat'), $stat);
    $title = (string) file_get_contents('/proc/' . ($stat[1] ?? '0') . '/cmdline');
    return preg_match('/master process \((.+)\)/', $title, $found) === 1 ? $found[1] : null;
}

/** The lines of our pool, from the configuration file and those that it includes: [[file, number, text], ...]. */
function pool_lines(?string $main, string $pool): array
{
    $lines = [];
    $files = $main === null ? [] : [$main];
    while (($file = array_shift($files)) !== null) {
        $section = '';
        foreach (file($file) ?: [] as $number => $text) {
            if (preg_match('/^\s*\[([^\]]+)\]/', $text, $found) === 1) {
                $section = $found[1];
            } elseif (preg_match('/^\s*include\s*=\s*"?([^"\s;]+)/', $text, $found) === 1) {
                array_push($files, ...(glob($found[1]) ?: []));
            } elseif ($section === $pool) {
                $lines[] = [$file, $number + 1, $text];
            }
        }
    }
    return $lines;
}

/** The lines of php.ini and of the files beside it. */
function ini_lines(): array
{
    $lines = [];
    foreach ([php_ini_loaded_file(), ...explode(',', (string) php_ini_scanned_files())] as $file) {
        foreach (file(trim((string) $file)) ?: [] as $number => $text) {
            $lines[] = [trim((string) $file), $number + 1, $text];
        }
    }
    return $lines;
}

/** Where a name was set last, and to what; null when none of these lines sets it. */
function last_of(array $lines, string $pattern): ?array
{
    foreach (array_reverse($lines) as [$file, $number, $text]) {
        if (preg_match("/^\s*$pattern\s*=\s*\"?([^\";\s]*)/", $text, $found) === 1) {
            return ['file' => $file, 'line' => $number, 'value' => end($found)];
        }
    }
    return null;
}

$status = function_exists('fpm_get_status') ? fpm_get_status() : false;
$pool = is_array($status) ? $status['pool'] : null;
$of_pool = $pool === null ? [] : pool_lines(fpm_configuration(), $pool);
$of_ini = ini_lines();

$settings = [];
foreach (
    [
        'display_errors', 'enable_post_data_reading', 'error_log', 'file_uploads', 'log_errors', 'max_file_uploads',
        'max_input_vars', 'max_multipart_body_parts', 'memory_limit', 'post_max_size', 'upload_max_filesize',
        'upload_tmp_dir',
    ] as $name
) {
    $in_pool = last_of($of_pool, "php_(?:admin_)?(?:value|flag)\[$name\]");
    $place = $in_pool ?? last_of($of_ini, $name);
    $value = ini_get($name);
    if ($name === 'error_log' && is_dir((string) $value)) {
        $value = ''; // what php-fpm makes of an empty one in a pool; nothing is logged there
    }
    $settings[$name] = [
        'value' => $value === false ? null : $value,
        'place' => $place === null ? null : ['file' => $place['file'], 'line' => $place['line']],
        'of_pool' => $in_pool !== null,
    ];
}

$directives = [];
foreach ($of_pool === [] ? [] : ['pm.max_children', 'request_terminate_timeout'] as $name) {
    $place = last_of($of_pool, preg_quote($name));
    $directives[$name] = [
        'value' => $place['value'] ?? null,
        'place' => $place === null ? null : ['file' => $place['file'], 'line' => $place['line']],
        'of_pool' => true,
    ];
}

// Where PHP puts what it cannot hold. tempnam() goes elsewhere when it may not write there.
$folder = ini_get('upload_tmp_dir') ?: sys_get_temp_dir();
$file = tempnam($folder, 'fcgimail');
$is_writable = $file !== false && dirname($file) === realpath($folder);
if ($file !== false) {
    unlink($file);
}

echo json_encode([
    'fcgimail_probe' => 1,
    'sapi' => PHP_SAPI,
    'version' => PHP_VERSION,
    'pool' => $pool,
    'settings' => $settings,
    'directives' => (object) $directives,
    'folder' => [
        'path' => $folder,
        'is_writable' => $is_writable,
        'free_octets' => (int) disk_free_space($folder),
    ],
], JSON_INVALID_UTF8_SUBSTITUTE);
