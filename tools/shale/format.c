/*
 * format.c - attributes of files as ls(1) and stat(1) show them.
 */
#include "shale.h"
#include <grp.h>
#include <pwd.h>
#include <string.h>
#include <unistd.h>

static char type_letter(uint32_t mode)
{
    switch (mode & S_IFMT) {
    case S_IFREG: return '-';
    case S_IFDIR: return 'd';
    case S_IFLNK: return 'l';
    case S_IFIFO: return 'p';
    case S_IFSOCK: return 's';
    case S_IFCHR: return 'c';
    case S_IFBLK: return 'b';
    default: return '?';
    }
}

void format_mode(uint32_t mode, char out[MODE_TEXT_BYTES])
{
    static const char letters[] = "rwxrwxrwx";
    out[0] = type_letter(mode);
    for (unsigned i = 0; i < 9; i++)
        out[1 + i] = mode & (0400u >> i) ? letters[i] : '-';
    out[10] = '\0';
    if (mode & S_ISUID)
        out[3] = mode & S_IXUSR ? 's' : 'S';
    if (mode & S_ISGID)
        out[6] = mode & S_IXGRP ? 's' : 'S';
    if (mode & S_ISVTX)
        out[9] = mode & S_IXOTH ? 't' : 'T';
}

const char *format_type(const struct fs_attr *attr)
{
    switch (attr->mode & S_IFMT) {
    case S_IFREG: return attr->size ? "regular file" : "regular empty file";
    case S_IFDIR: return "directory";
    case S_IFLNK: return "symbolic link";
    case S_IFIFO: return "fifo";
    case S_IFSOCK: return "socket";
    case S_IFCHR: return "character special file";
    case S_IFBLK: return "block special file";
    default: return "weird file";
    }
}

void format_user(uint32_t uid, char out[OWNER_TEXT_BYTES])
{
    const struct passwd *pw = getpwuid(uid);
    if (pw)
        snprintf(out, OWNER_TEXT_BYTES, "%s", pw->pw_name);
    else
        snprintf(out, OWNER_TEXT_BYTES, "%u", uid);
}

void format_group(uint32_t gid, char out[OWNER_TEXT_BYTES])
{
    const struct group *gr = getgrgid(gid);
    if (gr)
        snprintf(out, OWNER_TEXT_BYTES, "%s", gr->gr_name);
    else
        snprintf(out, OWNER_TEXT_BYTES, "%u", gid);
}

void print_name(const char *name, size_t len)
{
    static int terminal = -1;
    if (terminal < 0)
        terminal = isatty(STDOUT_FILENO);
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)name[i];
        putchar(terminal && (c < 0x20 || c == 0x7f) ? '?' : c);
    }
}
