/*
 * cmd_check.c - `shale check`: reads all of a store that is not in use and says what is damaged.
 *
 * First the engine's files (lsm_verify), then what the filesystem keeps in them (fs_check). Problems go to
 * stdout as they are found, a summary to the end; progress goes to stderr if that is a terminal.
 * With --repair the files are repaired in between, and the tree is checked again.
 */
#include "check.h"
#include "shale.h"
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define CHECK_MEMORY_BYTES (64u << 20)
#define PROGRESS_AFTER_MS 1000
#define PROGRESS_EVERY_MS 200

/* Exit codes: part of the interface. With --repair 1 says that all was repaired, 3 that something is left. */
enum check_exit { CHECK_CLEAN = 0, CHECK_PROBLEMS = 1, CHECK_USAGE = 2, CHECK_INCOMPLETE = 3 };

struct checking {
    const struct command *cmd;
    const char *store;
    bool json, repair;
    uint64_t printed; /* problems and notes */
    bool terminal, shown;
    uint64_t began_ms, next_ms;
    const char *stage;
};

/* ---- progress ---- */

static uint64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static void on_progress(void *arg, uint64_t done, uint64_t total)
{
    struct checking *c = arg;
    uint64_t now = c->terminal ? now_ms() : 0;
    if (!c->terminal || now < c->next_ms)
        return;
    c->next_ms = now + PROGRESS_EVERY_MS;
    c->shown = true;
    if (total)
        fprintf(stderr, "\r\033[Kshale: check: %s: %" PRIu64 " of %" PRIu64 " MiB", c->stage, done >> 20,
                total >> 20);
    else
        fprintf(stderr, "\r\033[Kshale: check: %s: %" PRIu64, c->stage, done);
    fflush(stderr);
}

static void begin_stage(struct checking *c, const char *stage) { c->stage = stage; }

static void clear_progress(struct checking *c)
{
    if (c->shown)
        fputs("\r\033[K", stderr);
    c->shown = false;
}

/* ---- reports ---- */

/* Length of the UTF-8 sequence at s, 0 if there is none. */
static size_t utf8_length(const unsigned char *s)
{
    size_t n = s[0] < 0xc2 ? 0 : s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : s[0] < 0xf5 ? 4 : 0;
    for (size_t i = 1; i < n; i++)
        if ((s[i] & 0xc0) != 0x80)
            return 0;
    if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f) || (s[0] == 0xf0 && s[1] < 0x90) ||
        (s[0] == 0xf4 && s[1] > 0x8f))
        return 0;
    return n;
}

/* A byte that is no UTF-8 becomes a lone surrogate, \udc80 to \udcff, as Python has it: nothing is lost. */
static void print_json_string(const char *text)
{
    putchar('"');
    for (const unsigned char *s = (const unsigned char *)text; *s;) {
        size_t n = *s < 0x80 ? 1 : utf8_length(s);
        if (n == 0)
            printf("\\udc%02x", *s);
        else if (*s == '"' || *s == '\\')
            printf("\\%c", *s);
        else if (*s < 0x20)
            printf("\\u%04x", *s);
        else
            fwrite(s, 1, n, stdout);
        s += n ? n : 1;
    }
    putchar('"');
}

static void json_next(struct checking *c) { fputs(c->printed++ ? ",\n    " : "\n    ", stdout); }

static void on_engine_problem(void *arg, const struct lsm_problem *p)
{
    struct checking *c = arg;
    clear_progress(c);
    if (c->json) {
        json_next(c);
        printf("{\"kind\": \"%s\", \"file\": ", p->damage ? "file" : "note");
        print_json_string(p->file);
        printf(", \"offset\": %" PRIu64 ", \"what\": ", p->offset);
        print_json_string(p->what);
        putchar('}');
        return;
    }
    c->printed++;
    if (!p->damage)
        fputs("note: ", stdout);
    if (p->file[0])
        printf("%s, offset %" PRIu64 ": ", p->file, p->offset);
    puts(p->what);
}

/* What verifying has said already is said once. */
static void on_repair(void *arg, const struct lsm_problem *p)
{
    if (!p->damage)
        on_engine_problem(arg, p);
}

static void on_fs_problem(void *arg, const struct fs_problem *p)
{
    struct checking *c = arg;
    clear_progress(c);
    if (c->json) {
        json_next(c);
        fputs("{\"kind\": \"path\", \"path\": ", stdout);
        if (p->path)
            print_json_string(p->path);
        else
            fputs("null", stdout);
        printf(", \"inode\": %" PRIu64 ", \"what\": ", p->id);
        print_json_string(p->what);
        putchar('}');
        return;
    }
    c->printed++;
    if (p->path)
        print_name(p->path, strlen(p->path));
    else if (p->id)
        printf("inode %" PRIu64, p->id);
    printf("%s%s\n", p->path || p->id ? ": " : "", p->what);
}

static void print_summary(const struct checking *c, const struct lsm_verified *files,
                          const struct fs_checked *tree, bool tree_checked, int status)
{
    if (c->json) {
        printf("%s],\n  \"clean\": %s, \"damaged\": %" PRIu64 ", \"notes\": %" PRIu64 ", \"tables\": %" PRIu64
               ", \"table_bytes\": %" PRIu64 ", \"log_records\": %" PRIu64 ",\n",
               c->printed ? "\n  " : "", status == CHECK_CLEAN ? "true" : "false", files->damaged,
               files->notes, files->tables, files->table_bytes, files->log_records);
        printf("  \"filesystem\": ");
        if (tree_checked)
            printf("{\"problems\": %" PRIu64 ", \"directories\": %" PRIu64 ", \"files\": %" PRIu64
                   ", \"bytes\": %" PRIu64 ", \"orphans\": %" PRIu64 "}\n}\n",
                   tree->problems, tree->directories, tree->files, tree->bytes, tree->orphans);
        else
            fputs("null\n}\n", stdout);
        return;
    }
    printf("%s: %s: %" PRIu64 " tables, %" PRIu64 " log records", c->store,
           status == CHECK_CLEAN ? "clean" : "DAMAGED", files->tables, files->log_records);
    if (tree_checked)
        printf(", %" PRIu64 " directories, %" PRIu64 " files", tree->directories, tree->files);
    if (status != CHECK_CLEAN)
        printf("; %" PRIu64 " places in files, %" PRIu64 " in the tree%s", files->damaged, tree->problems,
               tree_checked ? "" : " (which can't be read)");
    putchar('\n');
}

/* ---- the command ---- */

static int fail(struct checking *c, int error)
{
    clear_progress(c);
    if (error == -EBUSY)
        store_fail_busy(c->cmd, c->store);
    else
        cli_fail(c->cmd, "%s: %s", c->store,
                 error == -ENOENT        ? "not a ShaleFS store"
                 : error == -EMEDIUMTYPE ? "a key-value store, but it holds no filesystem"
                                         : store_error(error));
    return CHECK_INCOMPLETE;
}

/* The tree, if it can be read at all; a negative errno if it could not be checked. */
static int check_tree(struct checking *c, const struct fs_options *options, bool damaged,
                      struct fs_checked *tree, bool *readable)
{
    begin_stage(c, "files and directories");
    int r = fs_check(c->store, options, on_fs_problem, c, tree);
    *readable = r == 0;
    return r == -EUCLEAN || r == -EIO || (r == -EMEDIUMTYPE && damaged) ? 0 : r;
}

static void ignore_fs_problem(void *arg, const struct fs_problem *p) { (void)arg, (void)p; }

/* Files first, then the tree in them. *left: what could not be repaired. */
static int repair(struct checking *c, const struct fs_options *options, bool files_damaged,
                  struct fs_checked *tree, bool *readable, uint64_t *left)
{
    struct lsm_repaired done = {0};
    struct fs_checked after = {0};
    begin_stage(c, "repairing files");
    int r = files_damaged ? fs_repair_files(c->store, options, on_repair, c, &done) : 0;
    clear_progress(c);
    if (r < 0)
        return r;
    if (!c->json && files_damaged)
        printf("files repaired%s, %" PRIu64 " tables rewritten; what the tree has lost:\n",
               done.rebuilt ? " without a manifest" : "", done.tables_rewritten);
    begin_stage(c, "repairing files and directories");
    r = fs_repair_tree(c->store, options, on_fs_problem, c, tree);
    *readable = r == 0;
    if (r == 0)
        r = fs_check(c->store, options, ignore_fs_problem, c, &after);
    *left = after.problems + !*readable;
    return r == -EUCLEAN || r == -EIO || r == -EMEDIUMTYPE ? 0 : r;
}

static int check(struct checking *c)
{
    struct lsm_verified files;
    struct fs_checked tree = {0};
    struct fs_options options = {
        .lsm = {.memory_bytes = CHECK_MEMORY_BYTES, .progress = on_progress, .progress_arg = c}};
    begin_stage(c, "files");
    int r = lsm_verify(c->store, &options.lsm, on_engine_problem, c, &files);
    bool readable = false;
    uint64_t left = 0;
    if (r == 0 && c->repair)
        r = repair(c, &options, files.damaged > 0, &tree, &readable, &left);
    else if (r == 0 && !files.unreadable)
        r = check_tree(c, &options, files.damaged, &tree, &readable);
    if (r < 0)
        return fail(c, r);
    clear_progress(c);
    int status = files.damaged || tree.problems || !readable ? CHECK_PROBLEMS : CHECK_CLEAN;
    print_summary(c, &files, &tree, readable, status);
    if (left) {
        if (!c->json)
            printf("%" PRIu64 " problems could not be repaired\n", left);
        status = CHECK_INCOMPLETE;
    }
    return cli_flush(c->cmd) == SHALE_OK ? status : CHECK_INCOMPLETE;
}

static int run(const struct command *cmd, int argc, char **argv)
{
    static const struct option longs[] = {
        {"json", no_argument, NULL, 'j'}, {"repair", no_argument, NULL, 'r'}, OPTION_HELP_LONG, {0}};
    struct checking c = {.cmd = cmd, .terminal = isatty(STDERR_FILENO)};
    int option;
    while ((option = cli_getopt(cmd, argc, argv, "", longs)) != -1) {
        if (option != 'j' && option != 'r')
            return cli_option_exit(option);
        c.json |= option == 'j';
        c.repair |= option == 'r';
    }
    if (!cli_arguments(cmd, argc, 1, 1))
        return CHECK_USAGE;
    c.store = argv[optind];
    c.next_ms = now_ms() + PROGRESS_AFTER_MS;
    if (c.json) {
        fputs("{\"store\": ", stdout);
        print_json_string(c.store);
        fputs(", \"problems\": [", stdout);
    }
    return check(&c);
}

const struct command cmd_check = {
    .name = "check",
    .arguments = "[--json] [--repair] STORE",
    .summary = "Verify everything in a store",
    .help =
        "  --json    for programs: one object\n"
        "  --repair  make a store that opens out of what is undamaged; damaged files go to STORE/lost\n"
        "\n"
        "Reads every file of the store and every record in it, and prints what is damaged: files of the\n"
        "store with the offset, files and directories in it by path. Without --repair nothing is changed. A\n"
        "'note' is no damage, but what a crash may leave. The store must not be mounted.\n"
        "Exit status: 0 clean; 1 damaged (with --repair: and all of it repaired); 2 wrong usage;\n"
        "3 it could not be checked, or not everything could be repaired.\n",
    .run = run,
};
