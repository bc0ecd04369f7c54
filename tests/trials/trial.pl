#!/usr/bin/perl
# The example, save for some recipients: then what goes wrong in life. FCGIMAIL_EXAMPLES names the folder above it.
use strict;
use warnings;

require "$ENV{FCGIMAIL_EXAMPLES}/perl/handler.pl";

my $answer = \&main::answer;
my %trials = (
    'rejects@example.com' => sub { return '550 5.7.1 Not this one' },
    'noisy@example.com'   => sub { print STDERR 'noise of the script'; return },
    'slow@example.com'    => sub { sleep 60; return },
    'dies@example.com'    => sub { kill 9, $$ },
    'half@example.com'    => sub { $| = 1; print "Content-Type: text/plain\r\n\r\nSAVED"; kill 9, $$ },
);
no warnings 'redefine';
*main::answer = sub {
    my ($fields) = @_;
    my $trial = $trials{ $fields->{rcpt_to_0} // '' };
    return ($trial && $trial->()) || $answer->($fields);
};
run();
