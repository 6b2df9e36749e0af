/* The bench's load client: HTTP/1.1 over keep-alive connections, one thread, epoll, nothing but libc.
 *
 * It shares its cores with the server that it measures, so a request costs it three system calls and no allocation.
 * Closed loop: each connection asks again when its answer has come. Open loop (--rate): request i is due at
 * start + i/rate whatever the server does, and its latency counts from then, so that a stall is felt by every request
 * that was due in it. Every request leaves exactly one line in the log, with what became of it:
 *
 *     stage  status  latency_us  at_us  line_index  id
 *
 * A status below 1 is no answer: 0 never sent, -1 the connection broke or could not be made, -2 timed out. What was
 * asked and has status -1 or -2 may or may not have been done. One JSON object with the totals goes to stdout, and a
 * line a second to stderr. What cannot go on says so in one sentence on stderr and ends with exit status 2.
 */

#define _GNU_SOURCE
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum {
    CONNECTIONS_MAX = 10000,
    TEMPLATES_MAX = 10000,
    KEPT_MAX = 8192,       /* what is kept of an answer: its head, and the beginning of its body for the id */
    HEAD_MAX = 4096,
    ID_MAX = 64,
    EVENTS_MAX = 256,
    LOG_BUFFER = 1 << 18,
    TICK_MS = 10,          /* how often time-outs are looked for */
    UNSENT = 0, BROKEN = -1, TIMED_OUT = -2,
};

#define SECOND 1000000000LL
#define REST (SECOND / 10)          /* a closed-loop connection that broke rests, or it would fill the log */

typedef struct { char *data; size_t length, room; } Text;
typedef struct { char kind; const char *text; size_t length; } Piece; /* a literal, then '1'..'9', 'n', 'i'd or nothing */
typedef struct { Piece *pieces; size_t count; } Pattern;
typedef struct { Pattern head, body; bool has_length, needs_id; int fields; } Template;
typedef struct { const char *text; size_t length; } Field;

typedef enum { CLOSED, OPENING, OPEN } State;

typedef struct Connection {
    struct Connection *next, *previous; /* among the idle ones or the closed ones; open loop only */
    State state;
    int fd;
    uint32_t generation;    /* an event that was meant for an earlier socket of this connection is not for this one */
    bool asking;            /* a request is under way, or will be when the connection is open */
    int stage;
    int64_t number;         /* which request */
    int64_t from;           /* its latency counts from here: when it was due, or in the closed loop when it began */
    int64_t begun;          /* its time-out counts from here; after an outage: when it may begin again */
    Text out;
    size_t sent;
    size_t kept_length, scanned;
    bool watches_out;       /* whether the socket is watched for room to write, as it is while it opens */
    bool has_head, close_after, until_end;
    int status;
    int64_t body_left;
    char id[ID_MAX + 1];
    char kept[KEPT_MAX];
} Connection;

typedef struct { Connection *first, *last; } List;

static struct {
    const char *host, *port, *lines_file, *log_file;
    int connections;
    double seconds, rate, drain_seconds, timeout_seconds;
    int64_t count;
    bool once;
} asked = {.drain_seconds = 10, .timeout_seconds = 10};

static Template templates[TEMPLATES_MAX], follow_up;
static int template_count;
static bool has_follow_up;

static Text lines;
static size_t *line_starts;
static int64_t line_count;

static Connection *connections;
static List idle, closed;
static struct sockaddr_storage address;
static socklen_t address_length;
static int poll_fd, timer_fd, log_fd;
static Text outcomes;

static int64_t now, start, end, drained_by, armed_for, next_tick;
static int64_t next_number, number_max;  /* the next request, and the first that is not asked any more */
static bool may_run_out;                 /* lines or --count may end the run before its time */
static bool starved;                     /* a request is due and every connection is taken */
static int64_t free_since;               /* since when there has been a free connection */
static int64_t last_outcome;
static int64_t under_way, opened, sent, broken, timed_out, unsent;
static int64_t answers[2][1000], in_window[2][1000];
static int32_t *late_us;
static size_t late_count, late_room;

static void read_options(int count, char **arguments);
static void read_template(Template *into, const char *file, bool follows);
static void read_lines(void);
static void prepare(void);
static void drive(void);
static void log_the_rest(void);
static void report(double used);
static void on_event(Connection *connection, uint32_t flags);
static void on_tick(void);
static void ask(Connection *connection, int stage, int64_t number, int64_t from);
static void open_socket(Connection *connection);
static void send_rest(Connection *connection);
static void receive(Connection *connection);
static bool read_head(Connection *connection);
static void answered(Connection *connection);
static void failed(Connection *connection, int status);
static void close_socket(Connection *connection);
static void make_socket(Connection *connection);
static int socket_error(int fd);
static void send_due(void);
static void render(Text *out, const Template *template, int64_t number, const char *id);
static void log_outcome(int stage, int status, int64_t from, int64_t number, const char *id);
static void flush_log(void);
static void show_progress(void);
static int64_t clock_ns(void);
static double cpu_seconds(void);
static Text read_file(const char *file);
static void append(Text *text, const char *data, size_t length);
static void append_number(Text *text, int64_t number, char after);
_Noreturn static void stop(const char *sentence, ...) __attribute__((format(printf, 1, 2)));

int main(int count, char **arguments)
{
    read_options(count, arguments);
    read_lines();
    prepare();
    double before = cpu_seconds();
    start = now = clock_ns();
    end = start + (int64_t)(asked.seconds * SECOND);
    drained_by = end + (int64_t)(asked.drain_seconds * SECOND);
    next_tick = start;
    drive();
    double used = cpu_seconds() - before;
    log_the_rest();
    report(used);
    return 0;
}

/* ---- The loop ---- */

static int64_t due(int64_t number)
{
    return start + (int64_t)((double)number * (double)SECOND / asked.rate);
}

/* The closed loop ends with its window; the open loop owes every request that was due in it. */
static bool may_ask(void)
{
    return next_number < number_max && (asked.rate > 0 || now < end);
}

static bool is_over(void)
{
    return (!may_ask() && under_way == 0) || now >= drained_by;
}

/* An absolute timer, because epoll_wait counts in milliseconds. Set only when the next due time has changed. */
static void arm_timer(void)
{
    if (asked.rate <= 0 || starved || next_number >= number_max || armed_for == due(next_number))
        return;
    armed_for = due(next_number);
    struct itimerspec at = {.it_value = {.tv_sec = armed_for / SECOND, .tv_nsec = armed_for % SECOND}};
    timerfd_settime(timer_fd, TFD_TIMER_ABSTIME, &at, NULL);
}

static void drive(void)
{
    struct epoll_event events[EVENTS_MAX];
    for (int i = 0; asked.rate <= 0 && i < asked.connections && may_ask(); i++, now = clock_ns())
        ask(&connections[i], 0, next_number++, now);
    while (!is_over()) {
        arm_timer();
        int count = epoll_wait(poll_fd, events, EVENTS_MAX, TICK_MS);
        if (count < 0 && errno != EINTR)
            stop("epoll_wait failed: %s.", strerror(errno));
        now = clock_ns();
        for (int i = 0; i < count; i++) {
            uint32_t slot = (uint32_t)events[i].data.u64;
            if (slot < (uint32_t)asked.connections && connections[slot].generation == events[i].data.u64 >> 32)
                on_event(&connections[slot], events[i].events);
            send_due(); /* answers may take a while to read, and what is due meanwhile shall not be late */
        }
        send_due();
        if (now >= next_tick)
            on_tick();
    }
}

static void on_event(Connection *connection, uint32_t flags)
{
    if (connection->state == OPENING) {
        if (socket_error(connection->fd) != 0) {
            failed(connection, BROKEN);
            return;
        }
        connection->state = OPEN;
        send_rest(connection);
        return;
    }
    if (connection->state == OPEN && flags & EPOLLOUT)
        send_rest(connection);
    if (connection->state == OPEN && flags & ~(uint32_t)EPOLLOUT)
        receive(connection);
}

/* Looks for time-outs, and lets closed-loop connections that broke begin again. */
static void on_tick(void)
{
    int64_t timeout = (int64_t)(asked.timeout_seconds * SECOND);
    for (int i = 0; i < asked.connections; i++) {
        Connection *connection = &connections[i];
        if (connection->asking && now - connection->begun > timeout)
            failed(connection, TIMED_OUT);
        else if (asked.rate <= 0 && !connection->asking && now >= connection->begun && may_ask())
            ask(connection, 0, next_number++, now);
    }
    next_tick = now + TICK_MS * 1000000LL;
    show_progress();
}

/* ---- The open loop ---- */

static void push(List *list, Connection *connection)
{
    connection->previous = list->last;
    connection->next = NULL;
    *(list->last ? &list->last->next : &list->first) = connection;
    list->last = connection;
}

static void take_out(List *list, Connection *connection)
{
    *(connection->previous ? &connection->previous->next : &list->first) = connection->next;
    *(connection->next ? &connection->next->previous : &list->last) = connection->previous;
}

static void note_late(int64_t microseconds)
{
    if (late_count == late_room) {
        late_room = late_room ? 2 * late_room : 65536;
        late_us = realloc(late_us, late_room * sizeof *late_us);
        if (late_us == NULL)
            stop("There is no memory left.");
    }
    late_us[late_count++] = microseconds < INT32_MAX ? (int32_t)microseconds : INT32_MAX;
}

/* Sends all that is due, to the connection that has been idle longest: that spreads them over the server's processes.
 * A request that finds none free waits; its own lateness counts from when one was. */
static void send_due(void)
{
    if (asked.rate <= 0)
        return;
    now = clock_ns();
    while (next_number < number_max && due(next_number) <= now) {
        List *from = idle.first ? &idle : &closed;
        Connection *connection = from->first;
        starved = connection == NULL;
        if (starved)
            return;
        take_out(from, connection);
        int64_t intended = due(next_number);
        note_late((now - (intended > free_since ? intended : free_since)) / 1000);
        ask(connection, 0, next_number++, intended);
        now = clock_ns();
    }
}

/* The connection has no request any more: the next one is its own (closed loop) or whatever is due (open loop). */
static void release(Connection *connection)
{
    if (asked.rate <= 0) {
        if (connection->begun <= now && may_ask())
            ask(connection, 0, next_number++, now);
        return;
    }
    if (starved)
        free_since = now;
    starved = false;
    push(connection->state == CLOSED ? &closed : &idle, connection);
}

/* ---- Asking ---- */

static void ask(Connection *connection, int stage, int64_t number, int64_t from)
{
    connection->asking = true;
    connection->stage = stage;
    connection->number = number;
    connection->from = from;
    connection->begun = now;
    connection->sent = connection->out.length = connection->kept_length = connection->scanned = 0;
    connection->has_head = connection->close_after = connection->until_end = false;
    under_way++;
    const Template *template = stage == 0 ? &templates[number % template_count] : &follow_up;
    render(&connection->out, template, number, connection->id);
    if (connection->state == CLOSED)
        open_socket(connection);
    else
        send_rest(connection);
}

static void watch(Connection *connection, int operation, uint32_t flags)
{
    connection->watches_out = flags & EPOLLOUT;
    struct epoll_event event = {.events = flags};
    event.data.u64 = (uint64_t)connection->generation << 32 | (uint64_t)(connection - connections);
    if (epoll_ctl(poll_fd, operation, connection->fd, &event) < 0)
        stop("epoll_ctl failed: %s.", strerror(errno));
}

static void make_socket(Connection *connection)
{
    int on = 1, fd = socket(address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        stop("No more sockets can be had (%s): ask for fewer connections or raise `ulimit -n`.", strerror(errno));
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    connection->fd = fd;
    connection->state = OPENING;
    watch(connection, EPOLL_CTL_ADD, EPOLLIN | EPOLLOUT);
    opened++;
}

static int socket_error(int fd)
{
    int error = 0;
    socklen_t length = sizeof error;
    getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length);
    return error;
}

static void open_socket(Connection *connection)
{
    make_socket(connection);
    if (connect(connection->fd, (struct sockaddr *)&address, address_length) < 0 && errno != EINPROGRESS)
        failed(connection, BROKEN);
}

static void close_socket(Connection *connection)
{
    if (connection->state == CLOSED)
        return;
    close(connection->fd);
    connection->generation++;
    connection->state = CLOSED;
}

static void send_rest(Connection *connection)
{
    while (connection->sent < connection->out.length) {
        const char *rest = connection->out.data + connection->sent;
        ssize_t count = send(connection->fd, rest, connection->out.length - connection->sent, MSG_NOSIGNAL);
        if (count < 0 && errno == EINTR)
            continue;
        if (count < 0 && errno != EAGAIN) {
            failed(connection, BROKEN);
            return;
        }
        if (count < 0) {
            if (!connection->watches_out)
                watch(connection, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
            return;
        }
        connection->sent += (size_t)count;
    }
    if (connection->watches_out)
        watch(connection, EPOLL_CTL_MOD, EPOLLIN);
}

/* ---- The answer ---- */

/* Nothing was asked: the server has closed the connection, or says what belongs to no request. */
static void drop_idle(Connection *connection)
{
    close_socket(connection);
    if (asked.rate > 0) {
        take_out(&idle, connection);
        push(&closed, connection);
    }
}

static void receive(Connection *connection)
{
    static char unkept[1 << 16];
    for (;;) {
        bool keeps = connection->kept_length < KEPT_MAX;
        size_t room = keeps ? KEPT_MAX - connection->kept_length : sizeof unkept;
        ssize_t count = recv(connection->fd, keeps ? connection->kept + connection->kept_length : unkept, room, 0);
        now = clock_ns();
        if (count < 0 && errno == EAGAIN)
            return;
        if (count < 0 && errno == EINTR)
            continue;
        if (!connection->asking) {
            drop_idle(connection);
            return;
        }
        if (count <= 0) {
            connection->close_after = true;
            if (count == 0 && connection->has_head && connection->until_end)
                answered(connection);
            else
                failed(connection, BROKEN);
            return;
        }
        if (keeps)
            connection->kept_length += (size_t)count;
        if (connection->has_head)
            connection->body_left -= count;
        else if (!read_head(connection)) {
            failed(connection, BROKEN);
            return;
        }
        if (connection->has_head && connection->body_left <= 0) {
            answered(connection);
            return;
        }
        if ((size_t)count < room)
            return;
    }
}

/* The value of a header if it is the named one. Every line ends with CRLF, and so does every value. */
static const char *value_of(const char *line, const char *name)
{
    size_t length = strlen(name);
    if (strncasecmp(line, name, length) != 0 || line[length] != ':')
        return NULL;
    line += length + 1;
    return line + strspn(line, " \t");
}

static bool says_close(const char *value)
{
    for (; *value != '\r'; value++)
        if (strncasecmp(value, "close", 5) == 0)
            return true;
    return false;
}

/* Reads the headers that decide where the answer ends. False for what no HTTP server says. */
static bool read_headers(Connection *connection, const char *line, const char *head_end)
{
    int64_t length = -1;
    for (; line < head_end; line = (const char *)memchr(line, '\n', (size_t)(head_end - line)) + 1) {
        const char *value;
        if ((value = value_of(line, "Content-Length")) != NULL) {
            char *after;
            errno = 0;
            int64_t found = strtoll(value, &after, 10);
            if (!isdigit((unsigned char)*value) || errno != 0 || (*after != '\r' && *after != ' ')
                || (length >= 0 && length != found))
                return false;
            length = found;
        } else if ((value = value_of(line, "Connection")) != NULL)
            connection->close_after |= says_close(value);
        else if (value_of(line, "Transfer-Encoding") != NULL)
            stop("The server answers with Transfer-Encoding, which this client does not read: it wants Content-Length.");
    }
    bool has_no_body = connection->status == 204 || connection->status == 304;
    connection->until_end = length < 0 && !has_no_body;
    connection->body_left = has_no_body ? 0 : connection->until_end ? INT64_MAX : length;
    return true;
}

/* Looks for the end of the head in what has come so far, and reads the head when it is there. False when this is not
 * an answer. */
static bool read_head(Connection *connection)
{
    char *kept = connection->kept;
    for (;;) {
        size_t length = connection->kept_length, known = length < 7 ? length : 7;
        if (memcmp(kept, "HTTP/1.", known) != 0)
            return false;
        char *found = memmem(kept + connection->scanned, length - connection->scanned, "\r\n\r\n", 4);
        if (found == NULL) {
            connection->scanned = length < 3 ? 0 : length - 3;
            return length < HEAD_MAX;
        }
        size_t head_length = (size_t)(found - kept) + 4;
        if (head_length < 14 || !isdigit((unsigned char)kept[9]) || !isdigit((unsigned char)kept[10])
            || !isdigit((unsigned char)kept[11]))
            return false;
        connection->status = (kept[9] - '0') * 100 + (kept[10] - '0') * 10 + kept[11] - '0';
        if (connection->status >= 200) {
            connection->close_after = kept[7] == '0'; /* HTTP/1.0 */
            const char *headers = (const char *)memchr(kept, '\n', head_length) + 1;
            if (!read_headers(connection, headers, found + 2))
                return false;
            connection->has_head = true;
            connection->scanned = head_length;
            connection->body_left -= (int64_t)(length - head_length);
            return true;
        }
        if (connection->status < 100 || connection->status == 101)
            return false;
        /* 100 Continue and its like: the answer itself comes after it. */
        memmove(kept, kept + head_length, length - head_length);
        connection->kept_length -= head_length;
        connection->scanned = 0;
    }
}

/* The first "id":"…" of the body, or "" where there is none that could stand in the log and in a path. */
static void find_id(Connection *connection)
{
    const char *at = connection->kept + connection->scanned, *stop_at = connection->kept + connection->kept_length;
    connection->id[0] = '\0';
    while ((at = memmem(at, (size_t)(stop_at - at), "\"id\"", 4)) != NULL) {
        at += 4;
        while (at < stop_at && (*at == ' ' || *at == ':'))
            at++;
        if (at == stop_at || *at++ != '"')
            continue;
        size_t length = 0;
        while (at + length < stop_at && length < ID_MAX && (isalnum((unsigned char)at[length]) || strchr("_-.", at[length])))
            length++;
        if (at + length < stop_at && at[length] == '"') {
            memcpy(connection->id, at, length);
            connection->id[length] = '\0';
        }
        return;
    }
}

static void answered(Connection *connection)
{
    int stage = connection->stage, status = connection->status;
    bool is_success = status >= 200 && status < 300;
    if (connection->body_left < 0) { /* more has come than the answer: the connection cannot be trusted any more */
        if (connection->kept_length < KEPT_MAX)
            connection->kept_length -= (size_t)-connection->body_left;
        connection->close_after = true;
    }
    if (is_success)
        find_id(connection);
    else
        connection->id[0] = '\0';
    connection->asking = false;
    under_way--;
    answers[stage][status]++;
    in_window[stage][status] += now <= end;
    log_outcome(stage, status, connection->from, connection->number, connection->id);
    if (connection->close_after || connection->sent < connection->out.length)
        close_socket(connection);
    if (is_success && has_follow_up && stage == 0) {
        if (connection->id[0] != '\0' || !follow_up.needs_id) {
            ask(connection, 1, connection->number, now);
            return;
        }
        log_outcome(1, UNSENT, now, connection->number, "");
    }
    release(connection);
}

static void failed(Connection *connection, int status)
{
    close_socket(connection);
    connection->asking = false;
    connection->begun = now + REST;
    under_way--;
    log_outcome(connection->stage, status, connection->from, connection->number, "");
    release(connection);
}

/* ---- What is written down ---- */

static void log_outcome(int stage, int status, int64_t from, int64_t number, const char *id)
{
    sent += status != UNSENT;
    unsent += status == UNSENT;
    broken += status == BROKEN;
    timed_out += status == TIMED_OUT;
    last_outcome = now;
    append_number(&outcomes, stage, '\t');
    append_number(&outcomes, status, '\t');
    append_number(&outcomes, (now - from) / 1000, '\t');
    append_number(&outcomes, (from - start) / 1000, '\t');
    append_number(&outcomes, line_count > 0 ? number % line_count : 0, '\t');
    append(&outcomes, *id ? id : "-", *id ? strlen(id) : 1);
    append(&outcomes, "\n", 1);
    if (outcomes.length > LOG_BUFFER)
        flush_log();
}

static void flush_log(void)
{
    for (size_t done = 0; done < outcomes.length;) {
        ssize_t count = write(log_fd, outcomes.data + done, outcomes.length - done);
        if (count < 0 && errno != EINTR)
            stop("The log %s cannot be written: %s.", asked.log_file, strerror(errno));
        done += count > 0 ? (size_t)count : 0;
    }
    outcomes.length = 0;
}

/* After the drain: what is still under way has timed out, and what is still waiting was never sent. */
static void log_the_rest(void)
{
    now = clock_ns();
    for (int i = 0; i < asked.connections; i++)
        if (connections[i].asking)
            log_outcome(connections[i].stage, TIMED_OUT, connections[i].from, connections[i].number, "");
    for (; asked.rate > 0 && next_number < number_max; next_number++)
        log_outcome(0, UNSENT, due(next_number), next_number, "");
    flush_log();
    if (close(log_fd) < 0)
        stop("The log %s cannot be written: %s.", asked.log_file, strerror(errno));
}

static void put_grouped(char *into, int64_t number)
{
    char digits[24];
    int length = sprintf(digits, "%lld", (long long)number);
    for (int i = 0; i < length; i++) {
        if (i > 0 && (length - i) % 3 == 0)
            *into++ = ',';
        *into++ = digits[i];
    }
    *into = '\0';
}

static void show_progress(void)
{
    static int64_t shown_second, shown_answers;
    int64_t second = (now - start) / SECOND, all = 0;
    if (second == shown_second)
        return;
    char number[32], counts[1024] = "";
    for (int status = 100; status < 1000; status++) {
        int64_t count = answers[0][status] + answers[1][status];
        all += count;
        if (count > 0 && strlen(counts) < sizeof counts - 64) {
            put_grouped(number, count);
            sprintf(counts + strlen(counts), "  %d: %s", status, number);
        }
    }
    put_grouped(number, (all - shown_answers) / (second - shown_second));
    fprintf(stderr, "  %lld s  %s/s%s", (long long)second, number, counts);
    if (broken + timed_out > 0)
        fprintf(stderr, "  without answer: %lld", (long long)(broken + timed_out));
    fputc('\n', stderr);
    shown_second = second;
    shown_answers = all;
}

static int compare(const void *one, const void *other)
{
    int32_t a = *(const int32_t *)one, b = *(const int32_t *)other;
    return (a > b) - (a < b);
}

static void report(double used)
{
    /* Where the requests ran out before the time, the window ends with the last answer. */
    bool ran_out = may_run_out && next_number >= number_max && last_outcome < end;
    double seconds = ran_out ? (double)(last_outcome - start) / SECOND : asked.seconds;
    if (late_count > 0)
        qsort(late_us, late_count, sizeof *late_us, compare);
    size_t rank = (late_count * 99 + 99) / 100;
    printf("{\"seconds\": %.6f, \"sent\": %lld, \"answered\": %lld, \"in_window\": {", seconds, (long long)sent,
           (long long)(sent - broken - timed_out));
    const char *comma = "";
    for (int stage = 0; stage < 2; stage++)
        for (int status = 100; status < 1000; status++)
            if (in_window[stage][status] > 0) {
                printf("%s\"%d:%d\": %lld", comma, stage, status, (long long)in_window[stage][status]);
                comma = ", ";
            }
    printf("}, \"broken\": %lld, \"timed_out\": %lld, \"unsent\": %lld, \"late_p99_us\": %d, \"late_max_us\": %d, "
           "\"connections\": %lld, \"cpu_seconds\": %.6f}\n",
           (long long)broken, (long long)timed_out, (long long)unsent, rank > 0 ? late_us[rank - 1] : 0,
           late_count > 0 ? late_us[late_count - 1] : 0, (long long)opened, used);
}

/* ---- The request ---- */

static size_t length_of(const Pattern *pattern, const Field *fields)
{
    size_t length = 0;
    for (size_t i = 0; i < pattern->count; i++)
        length += fields[(unsigned char)pattern->pieces[i].kind].length + pattern->pieces[i].length;
    return length;
}

static void put(Text *out, const Pattern *pattern, const Field *fields)
{
    for (size_t i = 0; i < pattern->count; i++) {
        const Piece *piece = &pattern->pieces[i];
        const Field *field = &fields[(unsigned char)piece->kind];
        append(out, piece->text, piece->length);
        append(out, field->text, field->length);
    }
}

static void render(Text *out, const Template *template, int64_t number, const char *id)
{
    Field fields[128] = {{0}}; /* by the kind of the piece that wants it; a literal wants none */
    char digits[24];
    fields['n'] = (Field){digits, (size_t)sprintf(digits, "%lld", (long long)number)};
    fields['i'] = (Field){id, strlen(id)};
    if (template->fields > 0) {
        int64_t line = number % line_count;
        const char *at = lines.data + line_starts[line], *line_end = lines.data + line_starts[line + 1] - 1;
        for (int i = 1; i <= template->fields; i++) {
            const char *tab = memchr(at, '\t', (size_t)(line_end - at));
            fields['0' + i] = (Field){at, (size_t)((tab ? tab : line_end) - at)};
            at = tab ? tab + 1 : line_end;
        }
    }
    put(out, &template->head, fields);
    if (template->has_length) {
        append(out, "Content-Length: ", 16);
        append_number(out, (int64_t)length_of(&template->body, fields), '\r');
        append(out, "\n", 1);
    }
    append(out, "\r\n", 2);
    put(out, &template->body, fields);
}

/* Cuts a text into literals and placeholders. An @ that opens no placeholder is itself: addresses have one. */
static Pattern cut(const char *file, const char *text, size_t length, Template *template, bool follows)
{
    Pattern pattern = {NULL, 0};
    size_t from = 0;
    for (size_t at = 0; at <= length; at++) {
        size_t name = 0;
        if (at < length && text[at] != '@')
            continue;
        while (at < length && at + 1 + name < length && (isalnum((unsigned char)text[at + 1 + name])))
            name++;
        bool is_placeholder = at < length && name > 0 && at + 1 + name < length && text[at + 1 + name] == '@';
        if (at < length && !is_placeholder)
            continue;
        char kind = 'l';
        if (is_placeholder) {
            const char *what = text + at + 1;
            if (name == 1 && *what >= '1' && *what <= '9') {
                kind = *what;
                template->fields = kind - '0' > template->fields ? kind - '0' : template->fields;
            } else if (name == 1 && *what == 'n')
                kind = 'n';
            else if (name == 2 && memcmp(what, "id", 2) == 0 && follows) {
                kind = 'i';
                template->needs_id = true;
            } else
                stop("%s: @%.*s@ is not a placeholder here: @1@ to @9@, @n@, and in --then @id@ are.", file, (int)name, what);
        }
        pattern.pieces = realloc(pattern.pieces, (pattern.count + 1) * sizeof *pattern.pieces);
        if (pattern.pieces == NULL)
            stop("There is no memory left.");
        pattern.pieces[pattern.count++] = (Piece){kind, text + from, at - from};
        at += is_placeholder ? name + 1 : 0;
        from = at + 1;
    }
    return pattern;
}

/* Reads a request: its head with either line ending, without Content-Length, a blank line, its body as it stands. */
static void read_template(Template *into, const char *file, bool follows)
{
    Text text = read_file(file), head = {0};
    bool has_host = false;
    size_t at = 0;
    for (int line = 0;; line++) {
        const char *from = text.data + at, *found = memchr(from, '\n', text.length - at);
        if (found == NULL)
            stop("%s has no blank line after its head.", file);
        size_t length = (size_t)(found - from);
        at += length + 1;
        length -= length > 0 && from[length - 1] == '\r';
        if (line == 0 && (length < 14 || memcmp(from + length - 9, " HTTP/1.1", 9) != 0 || memcmp(from, "HEAD ", 5) == 0))
            stop("%s does not begin with a request line such as GET / HTTP/1.1 (and HEAD is not asked).", file);
        if (length == 0)
            break;
        if (strncasecmp(from, "Content-Length:", 15) == 0 || strncasecmp(from, "Transfer-Encoding:", 18) == 0)
            stop("%s says how long its body is: leave that header out, the client adds it.", file);
        has_host |= strncasecmp(from, "Host:", 5) == 0;
        append(&head, from, length);
        append(&head, "\r\n", 2);
    }
    if (!has_host) {
        append(&head, "Host: ", 6);
        append(&head, asked.host, strlen(asked.host));
        append(&head, "\r\n", 2);
    }
    into->head = cut(file, head.data, head.length, into, follows);
    into->body = cut(file, text.data + at, text.length - at, into, follows);
    into->has_length = at < text.length || memcmp(text.data, "POST ", 5) == 0;
}

/* Every line is looked at now, so that a bad one cannot end a run in its middle. */
static void read_lines(void)
{
    int fields = follow_up.fields;
    for (int i = 0; i < template_count; i++)
        fields = templates[i].fields > fields ? templates[i].fields : fields;
    if (asked.lines_file == NULL) {
        if (fields > 0 || asked.once)
            stop("%s: give a file with --lines.", asked.once ? "--once uses each line once" : "A template has @1@ to @9@");
        return;
    }
    lines = read_file(asked.lines_file);
    size_t room = 0;
    for (size_t at = 0; at <= lines.length;) {
        if ((size_t)line_count + 1 >= room) {
            room = room ? 2 * room : 1024;
            line_starts = realloc(line_starts, room * sizeof *line_starts);
            if (line_starts == NULL)
                stop("There is no memory left.");
        }
        line_starts[line_count] = at;
        if (at == lines.length)
            break;
        const char *from = lines.data + at, *found = memchr(from, '\n', lines.length - at);
        size_t length = found ? (size_t)(found - from) : lines.length - at;
        int has = 1;
        for (size_t i = 0; i < length; i++)
            has += from[i] == '\t';
        if (has < fields || memchr(from, '\r', length) != NULL)
            stop("Line %lld of %s has %d fields and a template asks for %d, or it has a carriage return.",
                 (long long)line_count + 1, asked.lines_file, has, fields);
        line_count++;
        at += length + 1;
    }
    if (line_count == 0)
        stop("%s has no lines.", asked.lines_file);
}

/* ---- The beginning ---- */

static double number_of(const char *option, const char *text, double least, double most)
{
    char *after;
    double number = strtod(text, &after);
    if (after == text || *after != '\0' || !(number >= least && number <= most))
        stop("--%s takes a number from %g to %g.", option, least, most);
    return number;
}

static void read_options(int count, char **arguments)
{
    static const struct option known[] = {
        {"host", 1, 0, 'h'}, {"port", 1, 0, 'p'}, {"connections", 1, 0, 'c'}, {"seconds", 1, 0, 's'},
        {"template", 1, 0, 't'}, {"then", 1, 0, 'f'}, {"lines", 1, 0, 'l'}, {"once", 0, 0, 'o'}, {"rate", 1, 0, 'r'},
        {"drain-seconds", 1, 0, 'd'}, {"timeout-seconds", 1, 0, 'w'}, {"count", 1, 0, 'n'}, {"log", 1, 0, 'g'}, {0}};
    const char *template_files[TEMPLATES_MAX], *then_file = NULL;
    int option, which = 0;
    opterr = 0;
    while ((option = getopt_long(count, arguments, "", known, &which)) != -1) {
        const char *name = known[which].name;
        switch (option) {
        case 'h': asked.host = optarg; break;
        case 'p': asked.port = optarg; break;
        case 'c': asked.connections = (int)number_of(name, optarg, 1, CONNECTIONS_MAX); break;
        case 's': asked.seconds = number_of(name, optarg, 0.001, 86400); break;
        case 't':
            if (template_count == TEMPLATES_MAX)
                stop("There are more than %d templates.", TEMPLATES_MAX);
            template_files[template_count++] = optarg;
            break;
        case 'f': then_file = optarg; break;
        case 'l': asked.lines_file = optarg; break;
        case 'o': asked.once = true; break;
        case 'r': asked.rate = number_of(name, optarg, 0.001, 1e6); break;
        case 'd': asked.drain_seconds = number_of(name, optarg, 0, 3600); break;
        case 'w': asked.timeout_seconds = number_of(name, optarg, 0.001, 3600); break;
        case 'n': asked.count = (int64_t)number_of(name, optarg, 1, 1e12); break;
        case 'g': asked.log_file = optarg; break;
        default: stop("%s is not an option, or its value is missing.", arguments[optind - 1]);
        }
    }
    if (optind < count)
        stop("%s belongs to no option.", arguments[optind]);
    if (!asked.host || !asked.port || !asked.connections || asked.seconds <= 0 || !template_count || !asked.log_file)
        stop("--host, --port, --connections, --seconds, --template and --log are needed.");
    for (int i = 0; i < template_count; i++)
        read_template(&templates[i], template_files[i], false);
    if ((has_follow_up = then_file != NULL))
        read_template(&follow_up, then_file, true);
}

static void open_first_connections(int count)
{
    for (int i = 0; i < count; i++) {
        Connection *connection = &connections[i];
        make_socket(connection);
        if (connect(connection->fd, (struct sockaddr *)&address, address_length) < 0 && errno == EINPROGRESS) {
            struct pollfd opens = {.fd = connection->fd, .events = POLLOUT};
            errno = poll(&opens, 1, (int)(asked.timeout_seconds * 1000)) == 1 ? socket_error(connection->fd) : ETIMEDOUT;
        } else
            errno = 0;
        if (errno != 0)
            stop("No connection to %s port %s (%s): is the server there?", asked.host, asked.port, strerror(errno));
        connection->state = OPEN;
        watch(connection, EPOLL_CTL_MOD, EPOLLIN);
    }
    for (int i = 0; i < asked.connections; i++)
        push(i < count ? &idle : &closed, &connections[i]);
}

/* Opens the log, and the connections: all of them in the closed loop, one in the open loop, which opens the others
 * when it needs them. So that the first requests do not stand for a cold start, the clock starts after that. */
static void prepare(void)
{
    int64_t due_count = asked.rate > 0 ? (int64_t)(asked.rate * asked.seconds + 0.999999) : INT64_MAX;
    number_max = asked.once ? line_count : INT64_MAX;
    if (asked.count > 0 && asked.count < number_max)
        number_max = asked.count;
    may_run_out = number_max < due_count;
    number_max = may_run_out ? number_max : due_count;

    log_fd = open(asked.log_file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (log_fd < 0)
        stop("The log %s cannot be written: %s.", asked.log_file, strerror(errno));
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found;
    if (getaddrinfo(asked.host, asked.port, &hints, &found) != 0)
        stop("%s port %s is not an address.", asked.host, asked.port);
    memcpy(&address, found->ai_addr, found->ai_addrlen);
    address_length = found->ai_addrlen;
    freeaddrinfo(found);

    poll_fd = epoll_create1(EPOLL_CLOEXEC);
    timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    connections = calloc((size_t)asked.connections, sizeof *connections);
    struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.u64 = UINT32_MAX};
    if (poll_fd < 0 || timer_fd < 0 || connections == NULL || epoll_ctl(poll_fd, EPOLL_CTL_ADD, timer_fd, &event) < 0)
        stop("The client cannot start: %s.", strerror(errno));
    open_first_connections(asked.rate > 0 ? 1 : asked.connections);
}

static double cpu_seconds(void)
{
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    return (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec)
        + (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
}

static int64_t clock_ns(void)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec * SECOND + at.tv_nsec;
}

/* ---- Texts ---- */

static Text read_file(const char *file)
{
    Text text = {0};
    char part[1 << 16];
    int fd = open(file, O_RDONLY | O_CLOEXEC);
    ssize_t count = fd < 0 ? -1 : 0;
    append(&text, "", 0);
    while (fd >= 0 && (count = read(fd, part, sizeof part)) > 0)
        append(&text, part, (size_t)count);
    if (count < 0)
        stop("%s cannot be read: %s.", file, strerror(errno));
    close(fd);
    return text;
}

static void append(Text *text, const char *data, size_t length)
{
    if (text->data == NULL || text->length + length > text->room) {
        text->room = 2 * (text->length + length) + 1024;
        text->data = realloc(text->data, text->room);
        if (text->data == NULL)
            stop("There is no memory left.");
    }
    if (length > 0)
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

static void stop(const char *sentence, ...)
{
    va_list parts;
    va_start(parts, sentence);
    vfprintf(stderr, sentence, parts);
    va_end(parts);
    fputc('\n', stderr);
    exit(2);
}
