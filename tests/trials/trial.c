/* The example, save for some recipients: then what goes wrong in life. EXAMPLE is its path. */
#define main example_main
#include EXAMPLE
#undef main

#include <signal.h>

static int is_for(const struct request *request, const char *recipient)
{
    return strcmp(get(request, "rcpt_to_0")->value, recipient) == 0;
}

int main(void)
{
    static struct request request;

    folder = strdup(environment("FCGIMAIL_DIR"));
    known = strdup(environment("FCGIMAIL_RCPTS"));
    while (FCGI_Accept() >= 0) {
        if (read_fields(&request))
            return 1;
        if (is_for(&request, "dies@example.com"))
            kill(getpid(), SIGKILL);
        printf("Content-Type: text/plain\r\n\r\n");
        if (is_for(&request, "half@example.com")) {
            printf("SAVED");
            fflush(stdout);
            kill(getpid(), SIGKILL);
        }
        if (is_for(&request, "noisy@example.com"))
            fprintf(stderr, "noise of the script");
        if (is_for(&request, "slow@example.com"))
            sleep(60);
        if (is_for(&request, "rejects@example.com"))
            printf("550 5.7.1 Not this one");
        else
            answer(&request);
        free(request.form);
    }
    return 0;
}
