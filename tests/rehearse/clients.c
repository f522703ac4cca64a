/*
 * clients.c - rehearse_clients: many clients of one mount at once.
 *
 *   rehearse_clients DIRECTORY COUNT ROUNDS
 *
 * COUNT processes (the directory must exist), each with a file of its own, open all the time, and a file that all share.
 * When all have begun, each writes, reads back and compares ROUNDS times, and appends a line to the shared file. All
 * stay until the last has finished, then the number of their open files is what the daemon has to bear; SIGUSR1 to
 * the parent lets them go, so that its memory can be looked at meanwhile. Says "ready" when all have finished.
 *
 * Exit status 1 if anything went wrong in any of them.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define OWN_BYTES 3000u
#define LINE_BYTES 16u

static int complain(const char *what, unsigned i)
{
    fprintf(stderr, "client %u: %s: %s\n", i, what, strerror(errno));
    return 1;
}

static int work(int own, int shared, unsigned i, unsigned rounds)
{
    char out[OWN_BYTES], in[OWN_BYTES], line[LINE_BYTES + 1];

    for (unsigned r = 0; r < rounds; r++) {
        memset(out, (int)('a' + (i + r) % 26), sizeof(out));
        if (pwrite(own, out, sizeof(out), (off_t)(r % 4 * sizeof(out))) != (ssize_t)sizeof(out))
            return complain("write", i);
        if (pread(own, in, sizeof(in), (off_t)(r % 4 * sizeof(in))) != (ssize_t)sizeof(in))
            return complain("read", i);
        if (memcmp(in, out, sizeof(in)) != 0)
            return complain("something else is read than was written", i);
    }
    snprintf(line, sizeof(line), "%15u\n", i);
    return write(shared, line, LINE_BYTES) == (ssize_t)LINE_BYTES ? 0 : complain("append", i);
}

/* begin: closed when all are there. done: gets a byte from each. go: closed when they may leave. */
static int client(const char *directory, unsigned i, unsigned rounds, int begin, int done, int go)
{
    char path[4096], byte;
    int own, shared, rc = 0;

    snprintf(path, sizeof(path), "%s/own%u", directory, i);
    own = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (own < 0)
        rc = complain(path, i);
    snprintf(path, sizeof(path), "%s/shared", directory);
    shared = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (shared < 0)
        rc = complain(path, i);
    if (rc == 0 && read(begin, &byte, 1) == 0)
        rc = work(own, shared, i, rounds);
    if (write(done, ".", 1) != 1 || read(go, &byte, 1) != 0)
        rc = 1;
    return rc;
}

static void nothing(int sig) { (void)sig; }

int main(int argc, char **argv)
{
    unsigned count, rounds, failed = 0;
    int begin[2], done[2], go[2], status;
    sigset_t set;
    char byte;

    if (argc != 4) {
        fprintf(stderr, "usage: rehearse_clients DIRECTORY COUNT ROUNDS\n");
        return 2;
    }
    count = (unsigned)strtoul(argv[2], NULL, 10);
    rounds = (unsigned)strtoul(argv[3], NULL, 10);
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, NULL);
    signal(SIGUSR1, nothing);
    if (pipe(begin) < 0 || pipe(done) < 0 || pipe(go) < 0)
        return complain("pipe", 0);
    for (unsigned i = 0; i < count; i++) {
        pid_t child = fork();
        if (child < 0)
            return complain("fork", i); /* the others see their pipes end */
        if (child == 0) {
            close(begin[1]);
            close(done[0]);
            close(go[1]);
            _exit(client(argv[1], i, rounds, begin[0], done[1], go[0]));
        }
    }
    close(begin[0]);
    close(done[1]);
    close(go[0]);
    close(begin[1]); /* now all begin */
    for (unsigned i = 0; i < count && read(done[0], &byte, 1) == 1; i++)
        ; /* it ends early if all that are left have died */
    printf("ready\n");
    fflush(stdout);
    sigwaitinfo(&set, NULL);
    close(go[1]);
    for (unsigned i = 0; i < count; i++)
        if (wait(&status) < 0 || !WIFEXITED(status) || WEXITSTATUS(status) != 0)
            failed++;
    return failed ? 1 : 0;
}
