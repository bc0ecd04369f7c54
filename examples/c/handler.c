/*
 * handler.c - says which recipients exist, and stores each mail as a file. Copy it and make it yours.
 *
 * It needs libfcgi (Debian: libfcgi-dev), and a process for each mail at a time, here four:
 *
 *   cc -O2 -o handler handler.c -lfcgi
 *   FCGIMAIL_DIR=/srv/mail spawn-fcgi -n -s /run/fcgimail/app.sock -- /usr/bin/multiwatch -f 4 -- ./handler
 *
 * FCGIMAIL_DIR names the folder for the mails, FCGIMAIL_RCPTS the recipients, with spaces between them; while nobody is
 * named, everybody passes.
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include <fcgi_stdio.h> /* makes printf, fread, stdin and stderr those of the mail server */

#define MAX_FIELDS 1000 /* the server sends at most 900 */
#define MAX_OCTETS (1UL << 30) /* of a request; a mail may be escaped to three times its size */

struct field {
    char *name;
    char *value;
    size_t octets; /* of the value, which may have a NUL inside */
};

struct request {
    char *form;
    struct field fields[MAX_FIELDS];
    int count;
};

static const char *folder, *known; /* of our own environment: each request brings another one */

static int is_hex(char digit)
{
    return isxdigit((unsigned char)digit) != 0;
}

static int hex(char digit)
{
    return digit <= '9' ? digit - '0' : (digit | 0x20) - 'a' + 10;
}

/* Decodes in place; returns how many octets are left. A NUL is put behind them. */
static size_t decode(char *text, size_t octets)
{
    size_t from, to = 0;
    for (from = 0; from < octets; from++, to++) {
        if (text[from] == '%' && from + 2 < octets && is_hex(text[from + 1]) && is_hex(text[from + 2])) {
            text[to] = (char)(hex(text[from + 1]) << 4 | hex(text[from + 2]));
            from += 2;
        } else {
            text[to] = text[from] == '+' ? ' ' : text[from];
        }
    }
    text[to] = '\0';
    return to;
}

static const char *environment(const char *name)
{
    const char *value = getenv(name);
    return value ? value : "";
}

/* Reads the form into request->form, which is the caller's to free; NULL, or what is wrong. */
static const char *read_fields(struct request *request)
{
    const char *query = environment("QUERY_STRING");
    int post = strcmp(environment("REQUEST_METHOD"), "POST") == 0;
    size_t octets = post ? strtoul(environment("CONTENT_LENGTH"), NULL, 10) : strlen(query);
    char *at, *end;

    request->count = 0;
    request->form = octets < MAX_OCTETS ? malloc(octets + 1) : NULL;
    if (!request->form)
        return "too large";
    if (!post)
        memcpy(request->form, query, octets);
    else if (fread(request->form, 1, octets, stdin) != octets)
        return "the request was cut";

    for (at = request->form, end = at + octets; at < end; request->count++) {
        struct field *field = &request->fields[request->count];
        char *stop = memchr(at, '&', (size_t)(end - at));
        char *equals;
        if (request->count == MAX_FIELDS)
            return "too many fields";
        if (!stop)
            stop = end;
        equals = memchr(at, '=', (size_t)(stop - at));
        if (!equals)
            return "a field without a value";
        field->name = at;
        decode(at, (size_t)(equals - at));
        field->value = equals + 1;
        field->octets = decode(equals + 1, (size_t)(stop - equals - 1));
        at = stop + 1;
    }
    return NULL;
}

static const struct field missing = {"", "", 0};

static const struct field *get(const struct request *request, const char *name)
{
    int at;
    for (at = 0; at < request->count; at++)
        if (strcmp(request->fields[at].name, name) == 0)
            return &request->fields[at];
    return &missing;
}

static int is_known(const char *recipient)
{
    size_t octets = strlen(recipient);
    const char *at = known + strspn(known, " ");
    if (!*at || strncasecmp(recipient, "postmaster@", 11) == 0) /* RFC 5321, section 4.5.1 */
        return 1;
    for (; *at; at += strspn(at, " ")) {
        size_t word = strcspn(at, " ");
        if (word == octets && strncasecmp(at, recipient, octets) == 0)
            return 1;
        at += word;
    }
    return 0;
}

static int write_all(int file, const char *data, size_t octets)
{
    while (octets > 0) {
        ssize_t written = write(file, data, octets);
        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0)
            return -1;
        data += written;
        octets -= (size_t)written;
    }
    return 0;
}

/* Stores a mail: NULL, or what is wrong. SAVED must not be said of a mail that is not on the disk. */
static const char *store(const struct field *body, const char *digest)
{
    static char draft[4096], final[4096];
    int file, entries, stored;

    /* Under another name first: nobody ever sees half a mail. The same mail again replaces the first. */
    if (snprintf(draft, sizeof draft, "%s/%s.%ld.tmp", folder, digest, (long)getpid()) >= (int)sizeof draft)
        return "FCGIMAIL_DIR is too long";
    snprintf(final, sizeof final, "%s/%s.eml", folder, digest);
    unlink(draft); /* of a process that died */
    file = open(draft, O_WRONLY | O_CREAT | O_EXCL, 0600);
    if (file < 0)
        return strerror(errno);
    stored = write_all(file, body->value, body->octets) == 0 && fsync(file) == 0;
    stored = close(file) == 0 && stored && rename(draft, final) == 0;
    if (!stored) {
        const char *reason = strerror(errno);
        unlink(draft);
        return reason;
    }
    entries = open(folder, O_RDONLY | O_DIRECTORY); /* the new name must survive a power cut too */
    stored = entries >= 0 && fsync(entries) == 0;
    if (entries >= 0)
        close(entries);
    return stored ? NULL : "cannot flush the folder";
}

static const char *save(const struct request *request)
{
    const struct field *body = get(request, "body");
    const struct field *digest = get(request, "mail_digest");
    char octets[24];

    snprintf(octets, sizeof octets, "%zu", body->octets);
    if (body == &missing || strcmp(octets, get(request, "size")->value) != 0)
        return "the mail is not complete";
    if (digest->octets != 64 || strspn(digest->value, "0123456789abcdef") != 64) /* it becomes a file name */
        return "mail_digest is missing";
    return store(body, digest->value);
}

static void answer(const struct request *request)
{
    const char *stage = get(request, "stage")->value;
    const char *recipient = get(request, "rcpt_to")->value;
    const char *problem;

    if (strcmp(stage, "validate") == 0) {
        printf(!*recipient           ? "451 4.3.0 no recipient was given"
               : is_known(recipient) ? "PASSED"
                                     : "550 5.1.1 no such user");
        return;
    }
    problem = strcmp(stage, "save") == 0 ? save(request) : "unknown stage";
    if (!problem) {
        printf("SAVED id=%.16s", get(request, "mail_digest")->value);
        return;
    }
    fprintf(stderr, "handler: %s\n", problem); /* goes to the log of the mail server */
    printf("451 4.3.0 could not do it now, try again later");
}

int main(void)
{
    static struct request request;

    folder = strdup(environment("FCGIMAIL_DIR"));
    known = strdup(environment("FCGIMAIL_RCPTS"));
    while (FCGI_Accept() >= 0) {
        const char *problem = read_fields(&request);
        printf("Content-Type: text/plain\r\n\r\n");
        if (problem) {
            fprintf(stderr, "handler: %s\n", problem);
            printf("451 4.3.0 could not do it now, try again later");
        } else {
            answer(&request);
        }
        free(request.form);
    }
    return 0;
}
