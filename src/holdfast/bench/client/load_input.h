/* What load.c is given: its options, the requests to send, and the lines to fill them with. Part of load.c, like which
 * it says in one sentence what cannot be used, and ends with exit status 2.
 */

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { CONNECTIONS_MAX = 10000, TEMPLATES_MAX = 10000 };

typedef struct { char *data; size_t length, room; } Text;
typedef struct { const char *text; size_t length; } Slice;
typedef struct { Slice literal; unsigned char placeholder; } Piece; /* '1' to '9', 'n', 'i'd, 'l'ength, or 0 for none */
typedef struct { Piece *pieces; size_t count, body; int fields; bool needs_id; } Template; /* body: its first piece */

static const char *host, *port, *lines_file, *log_file, *then_file, *template_files[TEMPLATES_MAX];
static double connection_count, seconds, rate, count_max, drain_seconds = 10, timeout_seconds = 10;
static bool uses_lines_once;

static Template templates[TEMPLATES_MAX], follow_up;
static int64_t template_count, line_count;
static Text lines;
static size_t *line_starts; /* one more than there are lines */

static void read_options(int count, char **arguments), read_template(Template *, const char *file), read_lines(void);
static void add_piece(Template *, const char *text, size_t length, unsigned char placeholder);
static unsigned char placeholder_at(const char *text, size_t left, size_t *length);
static double number_of(const char *option, const char *text, double least, double most);
static Text read_file(const char *file);
static void append(Text *, const char *data, size_t length), append_number(Text *, int64_t number, char after);
static void *resize(void *memory, size_t size);
_Noreturn static void stop(const char *sentence, ...) __attribute__((format(printf, 1, 2)));

static void read_input(int count, char **arguments)
{
    read_options(count, arguments);
    for (int i = 0; i < template_count; i++)
        read_template(&templates[i], template_files[i]);
    if (then_file != NULL)
        read_template(&follow_up, then_file);
    read_lines();
}

static void read_options(int count, char **arguments)
{
    static const struct { const char *name; double *number, least, most; const char **text; } known[] = {
        {"host", NULL, 0, 0, &host}, {"port", NULL, 0, 0, &port}, {"lines", NULL, 0, 0, &lines_file},
        {"log", NULL, 0, 0, &log_file}, {"then", NULL, 0, 0, &then_file}, {"seconds", &seconds, 0.001, 86400, NULL},
        {"connections", &connection_count, 1, CONNECTIONS_MAX, NULL}, {"rate", &rate, 0.001, 1e6, NULL},
        {"count", &count_max, 1, 1e12, NULL}, {"drain-seconds", &drain_seconds, 0, 3600, NULL},
        {"timeout-seconds", &timeout_seconds, 0.001, 3600, NULL}};
    enum { KNOWN = sizeof known / sizeof *known };
    for (int i = 1; i < count; i++) {
        const char *name = arguments[i], *value = i + 1 < count ? arguments[i + 1] : "";
        int which = 0;
        while (which < KNOWN && (strncmp(name, "--", 2) != 0 || strcmp(name + 2, known[which].name) != 0))
            which++;
        if (strcmp(name, "--once") == 0) {
            uses_lines_once = true;
            continue;
        }
        if (strcmp(name, "--template") == 0 && template_count < TEMPLATES_MAX)
            template_files[template_count++] = value;
        else if (which == KNOWN)
            stop("%s is not an option of the load client, or is there too often.", name);
        else if (known[which].number != NULL)
            *known[which].number = number_of(known[which].name, value, known[which].least, known[which].most);
        else
            *known[which].text = value;
        i++;
    }
    if (!host || !port || !log_file || connection_count < 1 || seconds <= 0 || template_count == 0)
        stop("--host, --port, --connections, --seconds, --template and --log are needed.");
}

static double number_of(const char *option, const char *text, double least, double most)
{
    char *after;
    double number = strtod(text, &after);
    if (after == text || *after != '\0' || !(number >= least && number <= most))
        stop("--%s takes a number from %g to %g.", option, least, most);
    return number;
}

/* Cuts a request into literals, each with the placeholder that follows it. */
static void read_template(Template *into, const char *file)
{
    Text text = read_file(file);
    const char *head_end = memmem(text.data, text.length, "\r\n\r\n", 4);
    if (head_end == NULL)
        stop("%s has no empty line after its head, or no CRLF there.", file);
    size_t body = (size_t)(head_end - text.data) + 4, from = 0, length = 0;
    for (size_t at = 0; at <= text.length; at++) {
        unsigned char placeholder = placeholder_at(text.data + at, text.length - at, &length);
        if (at == body) { /* the first piece of the body is one of its own */
            add_piece(into, text.data + from, at - from, 0);
            into->body = into->count;
            from = at;
        }
        if (placeholder != 0 || at == text.length) {
            add_piece(into, text.data + from, at - from, placeholder);
            from = at + length;
            at = placeholder != 0 ? from - 1 : at;
        }
    }
}

static unsigned char placeholder_at(const char *text, size_t left, size_t *length)
{
    static const char *const names[] = {"@1@", "@2@", "@3@", "@4@", "@5@", "@6@", "@7@", "@8@", "@9@",
                                        "@n@", "@id@", "@length@"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        *length = strlen(names[i]);
        if (*length <= left && memcmp(text, names[i], *length) == 0)
            return (unsigned char)names[i][1];
    }
    return 0;
}

static void add_piece(Template *into, const char *text, size_t length, unsigned char placeholder)
{
    into->pieces = resize(into->pieces, (into->count + 1) * sizeof *into->pieces);
    into->pieces[into->count++] = (Piece){{text, length}, placeholder};
    into->needs_id |= placeholder == 'i';
    if (isdigit(placeholder) && placeholder - '0' > into->fields)
        into->fields = placeholder - '0';
}

/* Every line is looked at now, so that none can end a run in its middle. */
static void read_lines(void)
{
    int fields = follow_up.fields;
    for (int i = 0; i < template_count; i++)
        fields = templates[i].fields > fields ? templates[i].fields : fields;
    if (lines_file == NULL) {
        if (fields > 0 || uses_lines_once)
            stop("--once and @1@ to @9@ are about lines: give a file with --lines.");
        return;
    }
    lines = read_file(lines_file);
    if (lines.length > 0 && lines.data[lines.length - 1] != '\n')
        append(&lines, "\n", 1);
    size_t room = 0;
    for (size_t at = 0;; line_count++) {
        if ((size_t)line_count >= room)
            line_starts = resize(line_starts, (room = 2 * room + 1024) * sizeof *line_starts);
        line_starts[line_count] = at;
        if (at == lines.length)
            break;
        int has = 1;
        for (; lines.data[at] != '\n'; at++)
            has += lines.data[at] == '\t';
        at++;
        if (has < fields)
            stop("Line %lld of %s has %d of the %d fields that a template asks for.", (long long)line_count + 1,
                 lines_file, has, fields);
    }
    if (line_count == 0)
        stop("%s has no lines.", lines_file);
}

/* ---- Texts and memory ---- */

static Text read_file(const char *file)
{
    Text text = {0};
    static char part[1 << 16];
    int fd = open(file, O_RDONLY | O_CLOEXEC);
    ssize_t count = fd < 0 ? -1 : 1;
    append(&text, part, 0);
    while (count > 0 && (count = read(fd, part, sizeof part)) > 0)
        append(&text, part, (size_t)count);
    if (count < 0)
        stop("%s cannot be read: %s.", file, strerror(errno));
    close(fd);
    return text;
}

static void append(Text *text, const char *data, size_t length)
{
    if (text->length + length >= text->room) {
        text->room = 2 * (text->length + length) + 1024;
        text->data = resize(text->data, text->room);
    }
    memcpy(text->data + text->length, data, length);
    text->length += length;
}

static void append_number(Text *text, int64_t number, char after)
{
    char digits[24], *at = digits + sizeof digits;
    uint64_t left = number < 0 ? -(uint64_t)number : (uint64_t)number;
    *--at = after;
    do
        *--at = (char)('0' + left % 10);
    while ((left /= 10) > 0);
    if (number < 0)
        *--at = '-';
    append(text, at, (size_t)(digits + sizeof digits - at));
}

static void *resize(void *memory, size_t size)
{
    memory = realloc(memory, size);
    if (memory == NULL)
        stop("There is no memory left.");
    return memory;
}

static void stop(const char *sentence, ...)
{
    va_list parts;
    va_start(parts, sentence);
    vfprintf(stderr, sentence, parts);
    va_end(parts);
    fputc('\n', stderr);
    exit(2);
}
