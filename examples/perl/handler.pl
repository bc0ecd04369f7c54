#!/usr/bin/perl
# handler.pl - says which recipients exist, and stores each mail as a file. Copy it and make it yours.
#
# It needs Perl's FCGI (Debian: libfcgi-perl), and a process for each mail at a time, here four:
#
# FCGIMAIL_DIR=/srv/mail spawn-fcgi -n -s /run/fcgimail/app.sock -- /usr/bin/multiwatch -f 4 -- /usr/bin/perl handler.pl
#
# Under fcgiwrap it runs as it is, once for each request. FCGIMAIL_DIR names the folder for the mails, FCGIMAIL_RCPTS
# the recipients, with spaces between them; while nobody is named, everybody passes.
use strict;
use warnings;
use FCGI;
use Fcntl qw(O_WRONLY O_CREAT O_EXCL);
use IO::Handle;

my $folder = $ENV{FCGIMAIL_DIR};    # now: each request brings an environment of its own
my %known  = map { lc($_) => 1 } split ' ', $ENV{FCGIMAIL_RCPTS} // '';

# The fields of one request. STDIN is the mail server's, not a file.
sub read_fields {
    my $form = $ENV{QUERY_STRING} // '';
    if (($ENV{REQUEST_METHOD} // '') eq 'POST') {
        my $length = $ENV{CONTENT_LENGTH} // 0;
        my $got    = $length ? read(STDIN, $form, $length) : 0;
        die "the request was cut\n" unless defined $got && $got == $length;
    }
    my %fields;
    for my $pair (split /&/, $form) {
        my ($name, $value) = (split(/=/, $pair, 2), '', '');
        for ($name, $value) { tr/+/ /; s/%([0-9A-Fa-f]{2})/chr hex $1/ge }
        $fields{$name} = $value;
    }
    return \%fields;
}

sub validate {
    my ($fields) = @_;
    my $recipient = lc($fields->{rcpt_to} // '');
    return '451 4.3.0 no recipient was given' if $recipient eq '';
    return 'PASSED' if !%known || $known{$recipient} || $recipient =~ /^postmaster@/;    # RFC 5321, section 4.5.1
    return '550 5.1.1 no such user';
}

# Stores a mail, or dies: SAVED must not be said of a mail that is not on the disk.
sub save {
    my ($fields) = @_;
    my ($body, $digest) = ($fields->{body}, $fields->{mail_digest} // '');
    die "the mail is not complete\n" unless defined $body && length($body) eq ($fields->{size} // '');
    die "mail_digest is missing\n" unless $digest =~ /\A[0-9a-f]{64}\z/;    # it becomes a file name
    die "FCGIMAIL_DIR names no folder\n" unless defined $folder && -d $folder;

    # Under another name first: nobody ever sees half a mail. The same mail again replaces the first.
    my $draft = sprintf '%s/%s.%d.tmp', $folder, $digest, $$;
    unlink $draft;    # of a process that died
    sysopen(my $file, $draft, O_WRONLY | O_CREAT | O_EXCL, 0600) or die "$draft: $!\n";
    binmode $file;
    my $stored =
           print($file $body)
        && $file->flush
        && $file->sync
        && close($file)
        && rename($draft, "$folder/$digest.eml");
    if (!$stored) {
        my $reason = "$!";
        unlink $draft;
        die "$draft: $reason\n";
    }
    open(my $entries, '<', $folder) or die "$folder: $!\n";
    $entries->sync or die "$folder: $!\n";    # the new name must survive a power cut too
    return 'SAVED id=' . substr $digest, 0, 16;
}

sub answer {
    my ($fields) = @_;
    my $stage = $fields->{stage} // '';
    return $stage eq 'validate' ? validate($fields) : $stage eq 'save' ? save($fields) : die "unknown stage\n";
}

sub run {
    my $request = FCGI::Request();
    binmode STDIN;
    while ($request->Accept() >= 0) {
        my $text = eval { answer(read_fields()) };
        if (!defined $text) {
            print STDERR "handler.pl: $@";    # goes to the log of the mail server
            $text = '451 4.3.0 could not do it now, try again later';
        }
        print "Content-Type: text/plain\r\n\r\n$text";
    }
    return;
}

run() unless caller;
1;
